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
	id     conclave.InstallationID // from Register on, as is client
	client *conclave.Client
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
		if err == nil {
			m.client, m.id = client, client.InstallationID()
		}
		return err
	})
}

// A Group is some of a crowd, the first of whom makes it.
type Group struct {
	ID      conclave.GroupID
	Members []int // places in the crowd
}

// Everybody is a group to be formed of the whole crowd.
func (c *Crowd) Everybody() Group {
	g := Group{Members: make([]int, c.Len())}
	for i := range g.Members {
		g.Members[i] = i
	}
	return g
}

// Form makes a group of its members, or finishes one that an earlier run began
// and whose maker has no other. It does not wait for the others: see Join.
func (c *Crowd) Form(ctx context.Context, name string, g *Group) error {
	creator := c.members[g.Members[0]].client
	groups, err := creator.Conversations().List(ctx)
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		err := c.formNew(ctx, name, g)
		if !errors.Is(err, engine.ErrRestarted) {
			return err
		}
		// A restart of the group's actor interrupts the wait, not the command.
		if groups, err = creator.Conversations().List(ctx); err != nil {
			return err
		}
		if len(groups) == 0 {
			return c.Form(ctx, name, g)
		}
	}
	g.ID = groups[0].ID()
	_, err = again(ctx, func() (struct{}, error) { return struct{}{}, c.complete(ctx, groups[0], g.Members) })
	return err
}

// formNew makes a new group of its members.
func (c *Crowd) formNew(ctx context.Context, name string, g *Group) error {
	addresses := make([]string, 0, len(g.Members)-1)
	for _, i := range g.Members[1:] {
		addresses = append(addresses, c.members[i].wallet.Address())
	}
	of := c.members[g.Members[0]].client.Conversations()
	group, err := of.NewGroup(ctx, addresses, conclave.GroupOptions{Name: name})
	if err != nil {
		return err
	}
	g.ID = group.ID()
	return nil
}

// complete adds who is missing in a group that was interrupted in the making.
func (c *Crowd) complete(ctx context.Context, g *conclave.Group, members []int) error {
	if err := g.Sync(ctx); err != nil {
		return err
	}
	have, err := g.Members(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, i := range members {
		id := c.members[i].client.InboxID()
		if !slices.ContainsFunc(have, func(x conclave.Member) bool { return x.InboxID == id }) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return g.AddMembersByInboxID(ctx, missing...)
}

// Join lets every member of the groups take its welcomes, and fails where one
// is missing.
func (c *Crowd) Join(ctx context.Context, groups []Group, done func()) error {
	of := c.groupsOf(groups)
	return c.each(ctx, done, func(ctx context.Context, i int, m *member) error {
		_, err := again(ctx, func() (struct{}, error) {
			if err := m.client.Conversations().Sync(ctx); err != nil {
				return struct{}{}, err
			}
			for _, g := range of[i] {
				if _, err := m.client.Conversations().Get(ctx, groups[g].ID); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		return err
	})
}

// groupsOf lists for each of the crowd the groups it is in.
func (c *Crowd) groupsOf(groups []Group) [][]int {
	of := make([][]int, c.Len())
	for n, g := range groups {
		for _, i := range g.Members {
			of[i] = append(of[i], n)
		}
	}
	return of
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
