package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/chaos/audit"
	"github.com/conclave-chat/conclave/chaos/ledger"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// A person has one installation, on one host.
type person struct {
	Number  int    `json:"number"`
	Host    int    `json:"host"`
	Address string `json:"address"`
	Wallet  string `json:"wallet"` // private key, in hex
	Key     string `json:"key"`    // database key, in hex
}

// A hostSpec is all that a host's process is told: where it stands, who lives on
// it, and which groups there are.
type hostSpec struct {
	Host   int          `json:"host"`
	Life   int          `json:"life"`
	Dir    string       `json:"dir"`
	Ledger string       `json:"ledger"`
	NATS   string       `json:"nats,omitempty"`
	XMTP   string       `json:"xmtp,omitempty"`
	People []person     `json:"people"` // everybody
	Plans  []audit.Plan `json:"plans"`
	Rolled bool         `json:"rolled,omitempty"` // the store was put back, and may be opened
	Deaf   bool         `json:"deaf,omitempty"`   // no streams: it hears by Sync only
	Slow   bool         `json:"slow,omitempty"`   // streams are read only when it settles
}

func (s hostSpec) config() conclave.Config {
	return conclave.Config{
		Dir: s.Dir, NATS: s.NATS, XMTP: s.XMTP, AllowRolledBack: s.Rolled,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// mine are the people of this host.
func (s hostSpec) mine() []person {
	return slices.DeleteFunc(slices.Clone(s.People), func(p person) bool { return p.Host != s.Host })
}

// A host is one process that embeds Conclave. It does what its standard input
// asks, one line of JSON after another, and answers each with a line.
type host struct {
	spec    hostSpec
	host    *conclave.Host
	clients map[int]*conclave.Client // by person
	ledger  *ledger.Writer
	pending *pending
	streams sync.WaitGroup
	stop    context.CancelFunc // ends the streams
	tails   *positions
	gate    chan struct{} // of slow streams: closed when they are read
	load    *load
}

// A request is one line to a host.
type request struct {
	Do    string        `json:"do"`
	Load  loadSpec      `json:"load,omitzero"`
	Limit time.Duration `json:"limit,omitempty"`
	Plans []audit.Plan  `json:"plans,omitempty"` // as they are now
}

// An answer is one line from a host. The first one says that it is open.
type answer struct {
	Error    string       `json:"error,omitempty"`
	Named    string       `json:"named,omitempty"`    // which of the root's errors it is
	Problems []string     `json:"problems,omitempty"` // what did not come to rest in time
	Plans    []audit.Plan `json:"plans,omitempty"`
	Figures  *figures     `json:"figures,omitempty"`
}

// runHost is the whole of a host's process.
func runHost(ctx context.Context, path string, in io.Reader, out io.Writer) error {
	var spec hostSpec
	if err := readJSON(path, &spec); err != nil {
		return err
	}
	say := json.NewEncoder(out)
	h, err := openHost(ctx, spec)
	if err != nil {
		return errors.Join(err, say.Encode(failure(err)))
	}
	if err := say.Encode(answer{}); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		a, err := h.do(ctx, r)
		if err != nil {
			a = failure(err)
		}
		if err := say.Encode(a); err != nil {
			return err
		}
		if r.Do == doClose {
			return err
		}
	}
	return lines.Err() // whoever started it is gone
}

// What a host can be asked to do.
const (
	doForm    = "form"    // make the groups whose first member lives here
	doJoin    = "join"    // take the welcomes
	doLoad    = "load"    // begin to send and change
	doRest    = "rest"    // stop that
	doBurst   = "burst"   // send and change so much, and return
	doQuiesce = "quiesce" // bring everything to its end
	doWake    = "wake"    // all installations sync at once
	doClose   = "close"
	doFigure  = "figure"
)

func (h *host) do(ctx context.Context, r request) (answer, error) {
	if r.Plans != nil {
		h.spec.Plans = r.Plans
	}
	switch r.Do {
	case doForm:
		err := h.form(ctx)
		return answer{Plans: h.spec.Plans}, err
	case doJoin:
		return answer{}, h.join(ctx)
	case doLoad:
		if h.load == nil { // else it still runs
			h.load = startLoad(ctx, h, r.Load)
		}
		return answer{}, nil
	case doRest:
		l := h.load
		h.load = nil
		return answer{}, l.rest()
	case doBurst:
		return answer{}, h.burst(ctx, r.Load)
	case doQuiesce:
		return answer{Problems: h.quiesce(ctx, r.Limit)}, nil
	case doWake:
		return answer{}, h.join(ctx)
	case doFigure:
		f, err := figuresOf(h.spec.Dir)
		return answer{Figures: &f}, err
	case doClose:
		return answer{}, h.close(ctx)
	}
	return answer{}, fmt.Errorf("a host cannot %q", r.Do)
}

// failure is the answer that an error makes.
func failure(err error) answer { return answer{Error: err.Error(), Named: nameOf(err)} }

// named are the errors by which damage and loss may be told.
var named = map[string]error{
	"ErrDamaged": conclave.ErrDamaged, "ErrRolledBack": conclave.ErrRolledBack, "ErrFormatTooNew": conclave.ErrFormatTooNew,
	"ErrLogRolledBack": conclave.ErrLogRolledBack, "ErrWrongKey": conclave.ErrWrongKey, "ErrLocked": conclave.ErrLocked,
}

func nameOf(err error) string {
	for name, sentinel := range named {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	return ""
}

func openHost(ctx context.Context, spec hostSpec) (_ *host, err error) {
	h := &host{spec: spec, clients: map[int]*conclave.Client{}, tails: newPositions(), gate: make(chan struct{})}
	if !spec.Slow {
		close(h.gate)
	}
	entries, err := ledger.Read(spec.Ledger)
	if err != nil {
		return nil, err
	}
	h.pending = newPending(entries)
	if h.ledger, err = ledger.Open(spec.Ledger); err != nil {
		return nil, err
	}
	if h.host, err = conclave.Open(ctx, spec.config()); err != nil {
		return nil, err
	}
	if err := h.register(ctx); err != nil {
		return nil, errors.Join(err, h.host.Close(ctx))
	}
	if !spec.Deaf {
		if err := h.listen(ctx); err != nil {
			return nil, errors.Join(err, h.host.Close(ctx))
		}
	}
	return h, nil
}

// register opens the installations of this host's people, or makes them.
func (h *host) register(ctx context.Context) error {
	var mu sync.Mutex
	return each(ctx, h.spec.mine(), func(ctx context.Context, p person) error {
		private, err := hex.DecodeString(p.Wallet)
		if err != nil {
			return err
		}
		wallet, err := ethereum.ParseKey(private)
		if err != nil {
			return err
		}
		key, err := hex.DecodeString(p.Key)
		if err != nil {
			return err
		}
		c, err := h.host.CreateClient(ctx, wallet, conclave.ClientOptions{DatabaseKey: conclave.Key(key)})
		if err != nil {
			return fmt.Errorf("person %d: %w", p.Number, err)
		}
		mu.Lock()
		h.clients[p.Number] = c
		mu.Unlock()
		return nil
	})
}

// form makes each group whose first member lives here, and is not made yet.
func (h *host) form(ctx context.Context) error {
	for i, plan := range h.spec.Plans {
		creator, here := h.clients[plan.Members[0]]
		if plan.ID != "" || !here {
			continue
		}
		var addresses []string
		for _, m := range plan.Members[1:] {
			addresses = append(addresses, h.spec.People[m].Address)
		}
		g, err := creator.Conversations().NewGroup(ctx, addresses, conclave.GroupOptions{Name: fmt.Sprint("group ", i)})
		if err != nil {
			return err
		}
		h.spec.Plans[i].ID = g.ID().String()
	}
	return nil
}

// join syncs every installation, a welcome and a group at a time.
func (h *host) join(ctx context.Context) error {
	return each(ctx, h.spec.mine(), func(ctx context.Context, p person) error {
		if err := h.clients[p.Number].Conversations().SyncAll(ctx); err != nil {
			return fmt.Errorf("person %d: sync: %w", p.Number, err)
		}
		return nil
	})
}

// restTime is how long a host may take to close.
const restTime = 30 * time.Second

func (h *host) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	if h.stop != nil {
		h.stop()
		h.streams.Wait()
	}
	return errors.Join(h.host.Close(ctx), h.ledger.Close())
}

// atOnce is how many installations do something at a time.
const atOnce = 32

// each calls f for every item, many at a time, and joins what fails: one failure
// stops no other.
func each[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	var mu sync.Mutex
	var all []error
	for _, item := range items {
		g.Go(func() error {
			if err := f(ctx, item); err != nil {
				mu.Lock()
				all = append(all, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(all...)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
