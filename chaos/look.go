package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/chaos/audit"
)

// A sight is what a look at a host's store shows.
type sight struct {
	Error string       `json:"error,omitempty"`
	Named string       `json:"named,omitempty"`
	Views []audit.View `json:"views,omitempty"`
}

// runLook opens a store alone, in a process of its own, and writes down what each
// of its installations has. The log is asked once which one it is; from then on
// nothing reaches the store.
func runLook(ctx context.Context, path string, _ io.Reader, out io.Writer) error {
	var spec hostSpec
	if err := readJSON(path, &spec); err != nil {
		return err
	}
	views, err := look(ctx, spec)
	s := sight{Views: views}
	if err != nil {
		s = sight{Error: err.Error(), Named: nameOf(err)}
	}
	return json.NewEncoder(out).Encode(s)
}

func look(ctx context.Context, spec hostSpec) (views []audit.View, err error) {
	info, err := logOf(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("ask which log it is: %w", err)
	}
	config := spec.config()
	config.NATS, config.XMTP, config.Bus = "", "", unplugged{info: info}
	config.CommitLogEvery = -1
	h, err := conclave.Open(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(ctx, restTime)
		defer cancel()
		err = errors.Join(err, h.Close(ctx))
	}()
	var mu sync.Mutex
	err = each(ctx, spec.mine(), func(ctx context.Context, p person) error {
		v, err := viewOf(ctx, h, p)
		if err != nil {
			return fmt.Errorf("person %d: %w", p.Number, err)
		}
		mu.Lock()
		defer mu.Unlock()
		views = append(views, v)
		return nil
	})
	slices.SortFunc(views, func(a, b audit.View) int { return a.Person - b.Person })
	return views, err
}

// logOf opens the log that a host stands on, and closes it.
func logOf(ctx context.Context, spec hostSpec) (bus.Info, error) {
	var b bus.Bus
	var err error
	switch {
	case spec.XMTP != "":
		b, err = xmtp.Open(xmtp.Config{URL: spec.XMTP})
	case spec.NATS != "":
		b, err = jetstream.Open(ctx, jetstream.Config{URL: spec.NATS})
	default:
		b, err = jetstream.Open(ctx, jetstream.Config{Dir: filepath.Join(spec.Dir, "bus")})
	}
	if err != nil {
		return bus.Info{}, err
	}
	return b.Info(), b.Close()
}

// viewOf opens one installation by the wallet's address and its own key.
func viewOf(ctx context.Context, h *conclave.Host, p person) (audit.View, error) {
	key, err := hex.DecodeString(p.Key)
	if err != nil {
		return audit.View{}, err
	}
	// A wallet that signs nothing: the installation is there, or it is an error.
	wallet := conclave.SignerFunc(p.Address, func(string) ([]byte, error) { return nil, conclave.ErrNotFound })
	c, err := h.CreateClient(ctx, wallet, conclave.ClientOptions{DatabaseKey: conclave.Key(key)})
	if err != nil {
		return audit.View{}, err
	}
	v := audit.View{Person: p.Number, Inbox: c.InboxID(), Groups: map[string]audit.Group{}}
	groups, err := c.Conversations().List(ctx)
	if err != nil {
		return v, err
	}
	for _, g := range groups {
		if v.Groups[g.ID().String()], err = groupView(ctx, g); err != nil {
			return v, fmt.Errorf("group %.8s: %w", g.ID(), err)
		}
	}
	return v, nil
}

func groupView(ctx context.Context, g *conclave.Group) (audit.Group, error) {
	info, err := g.Info(ctx)
	if err != nil {
		return audit.Group{}, err
	}
	members, err := g.Members(ctx)
	if err != nil {
		return audit.Group{}, err
	}
	messages, err := g.Messages(ctx, conclave.MessageQuery{})
	if err != nil {
		return audit.Group{}, err
	}
	v := audit.Group{
		Name: info.Name, Description: info.Description, Epoch: info.Epoch,
		Active: info.Active, Stalled: info.Stalled, Forked: info.Forked,
	}
	for _, m := range members {
		ids := make([]string, len(m.Installations))
		for i, id := range m.Installations {
			ids[i] = hex.EncodeToString(id[:4])
		}
		slices.Sort(ids)
		v.Members = append(v.Members, fmt.Sprint(m.InboxID, " ", m.Role, " ", ids))
	}
	for _, m := range messages {
		v.History = append(v.History, row(m))
	}
	return v, nil
}

func row(m *conclave.Message) audit.Row {
	statuses := map[conclave.DeliveryStatus]string{
		conclave.Published: audit.Published, conclave.Unpublished: audit.Unpublished, conclave.Failed: audit.Failed,
	}
	r := audit.Row{ID: m.ID.String(), Position: m.Position, Status: statuses[m.Status]}
	switch c := m.Content.(type) {
	case conclave.Text:
		r.Token = string(c)
	case *conclave.GroupUpdated:
		r.Change, r.Added, r.Removed = true, c.Added, slices.Concat(c.Removed, c.Left)
		for _, f := range c.Changes {
			if f.New != nil {
				r.Values = append(r.Values, f.Field+"="+*f.New)
			}
		}
	}
	return r
}

// unplugged is a bus on which nobody answers. It knows which log it was, so that
// the store's cursors still belong to it. What it does not implement is called by
// nobody.
type unplugged struct {
	bus.Bus
	info bus.Info
}

func (b unplugged) Info() bus.Info { return b.info }

func (unplugged) Publish(context.Context, bus.Topic, []byte, ...bus.PublishOption) (bus.Ack, error) {
	return bus.Ack{}, bus.ErrUnavailable
}

func (unplugged) Read(context.Context, bus.ID, int, ...bus.Topic) ([]bus.Envelope, error) {
	return nil, bus.ErrUnavailable
}

func (unplugged) Last(context.Context, ...bus.Topic) ([]bus.ID, error) {
	return nil, bus.ErrUnavailable
}

func (unplugged) End(context.Context, bus.Topic) (bus.ID, error) { return 0, bus.ErrUnavailable }

func (unplugged) Open(context.Context) (bus.Feed, error) {
	return silence{closed: make(chan struct{})}, nil
}

func (unplugged) Request(context.Context, string, []byte) ([]byte, error) {
	return nil, bus.ErrUnavailable
}

func (unplugged) Close() error { return nil }

// silence is a feed on which nothing comes.
type silence struct{ closed chan struct{} }

func (silence) Follow(context.Context, bus.ID, ...bus.Topic) error { return bus.ErrUnavailable }
func (silence) FollowAll(context.Context) error                    { return bus.ErrUnavailable }
func (silence) Unfollow(...bus.Topic)                              {}

func (f silence) Next(ctx context.Context) ([]bus.Envelope, error) {
	select {
	case <-f.closed:
		return nil, bus.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f silence) Close() error { close(f.closed); return nil }
