package benchmarks

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// A Crowd is a number of people with one installation each: a wallet and a
// database key of their own. It lies in a file, so that a run which was killed
// goes on with the same people.
type Crowd struct{ members []*member }

type member struct {
	wallet *ethereum.Key
	key    conclave.Key
	client *conclave.Client // from Register on
}

// crowdFile holds a line for each member: the wallet's private key and the
// database key, in hex. Only its owner may read it.
const crowdFile = "members"

// A SizeError says that a directory holds another number of members than asked
// for.
type SizeError struct {
	Dir         string
	Have, Asked int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s holds a run of %d members, not %d: give that number, or another directory", e.Dir, e.Have, e.Asked)
}

// OpenCrowd returns the n people of a directory, who are made where the
// directory has none.
func OpenCrowd(dir string, n int) (*Crowd, error) {
	path := filepath.Join(dir, crowdFile)
	c, err := readCrowd(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeCrowd(path, n); err != nil {
			return nil, fmt.Errorf("make members: %w", err)
		}
		c, err = readCrowd(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	if len(c.members) != n {
		return nil, &SizeError{dir, len(c.members), n}
	}
	return c, nil
}

func readCrowd(path string) (*Crowd, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := new(Crowd)
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return c, lines.Err()
		}
		private, key, _ := strings.Cut(lines.Text(), " ")
		b, err1 := hex.DecodeString(private)
		k, err2 := hex.DecodeString(key)
		m := new(member)
		if err := errors.Join(err1, err2); err != nil || len(k) != len(m.key) {
			return nil, fmt.Errorf("%s: line %d holds no two keys", path, len(c.members)+1)
		}
		if m.wallet, err = ethereum.ParseKey(b); err != nil {
			return nil, err
		}
		copy(m.key[:], k)
		c.members = append(c.members, m)
	}
}

// makeCrowd puts a whole file in place, or none: a wallet that registered must
// never be lost.
func makeCrowd(path string, n int) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for range n {
		wallet, err := ethereum.GenerateKey()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		key := make([]byte, len(conclave.Key{}))
		rand.Read(key)
		fmt.Fprintf(w, "%x %x\n", wallet.PrivateBytes(), key)
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Len is the number of members.
func (c *Crowd) Len() int { return len(c.members) }

// Register opens every member's installation on the host, or makes it. done,
// where not nil, is called after each, from several goroutines.
func (c *Crowd) Register(ctx context.Context, h *conclave.Host, done func()) error {
	return c.each(ctx, done, func(ctx context.Context, _ int, m *member) error {
		client, err := again(ctx, func() (*conclave.Client, error) {
			return h.CreateClient(ctx, m.wallet, conclave.ClientOptions{DatabaseKey: m.key})
		})
		m.client = client
		return err
	})
}

// Form returns the one group of all members, which the first of them makes, or
// finishes making. It does not wait for the others: see Join.
func (c *Crowd) Form(ctx context.Context, name string) (conclave.GroupID, error) {
	creator := c.members[0].client
	groups, err := creator.Conversations().List(ctx)
	if err != nil {
		return conclave.GroupID{}, err
	}
	if len(groups) == 0 {
		addresses := make([]string, 0, len(c.members)-1)
		for _, m := range c.members[1:] {
			addresses = append(addresses, m.wallet.Address())
		}
		g, err := creator.Conversations().NewGroup(ctx, addresses, conclave.GroupOptions{Name: name})
		if err == nil {
			return g.ID(), nil
		}
		// A restart of the group's actor interrupts the wait, not the wish.
		if groups, _ = creator.Conversations().List(ctx); !errors.Is(err, engine.ErrRestarted) {
			return conclave.GroupID{}, err
		} else if len(groups) == 0 {
			return c.Form(ctx, name)
		}
	}
	g := groups[0]
	_, err = again(ctx, func() (struct{}, error) { return struct{}{}, c.complete(ctx, g) })
	return g.ID(), err
}

// complete adds who is missing in a group that was interrupted in the making.
func (c *Crowd) complete(ctx context.Context, g *conclave.Group) error {
	if err := g.Sync(ctx); err != nil {
		return err
	}
	have, err := g.Members(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, m := range c.members {
		id := m.client.InboxID()
		if !slices.ContainsFunc(have, func(x conclave.Member) bool { return x.InboxID == id }) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return g.AddMembersByInboxID(ctx, missing...)
}

// Join lets every member take its welcome, and fails where one has none.
func (c *Crowd) Join(ctx context.Context, id conclave.GroupID, done func()) error {
	return c.each(ctx, done, func(ctx context.Context, _ int, m *member) error {
		_, err := again(ctx, func() (*conclave.Group, error) {
			if err := m.client.Conversations().Sync(ctx); err != nil {
				return nil, err
			}
			return m.client.Conversations().Get(ctx, id)
		})
		return err
	})
}

// each calls f for every member, a few at a time, and done, where not nil, after
// each.
func (c *Crowd) each(ctx context.Context, done func(), f func(ctx context.Context, i int, m *member) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16 * runtime.GOMAXPROCS(0))
	for i, m := range c.members {
		g.Go(func() error {
			if err := f(ctx, i, m); err != nil {
				return fmt.Errorf("member %d: %w", i+1, err)
			}
			if done != nil {
				done()
			}
			return nil
		})
	}
	return g.Wait()
}

// maxAgain bounds how often a call is repeated that met a restart.
const maxAgain = 20

// again repeats a call that met an actor in the middle of a crash: the actor
// starts from its store, and what was asked of it is asked again.
func again[T any](ctx context.Context, f func() (T, error)) (v T, err error) {
	for range maxAgain {
		if v, err = f(); !errors.Is(err, engine.ErrRestarted) || ctx.Err() != nil {
			return v, err
		}
	}
	return v, err
}
