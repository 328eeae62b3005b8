package features

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/actors"
	membus "github.com/conclave-chat/conclave/bus/memory"
)

// text takes the next text of a stream.
func text(t *testing.T, next func() (*conclave.Message, error)) string {
	t.Helper()
	for {
		m := must[*conclave.Message](t)(next())
		if text, ok := m.Content.(conclave.Text); ok {
			return string(text)
		}
	}
}

// S70 S74: a stream of groups tells of new ones until it is cancelled; then the
// loop ends, nothing is yielded any more, and no goroutine is left.
func TestStreamOfGroups(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	first := w.newGroup(conclave.GroupOptions{}, c...)
	w.do(c[1].Conversations().Sync(w.ctx))
	idle := runtime.NumGoroutine()
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	type event struct {
		id   conclave.GroupID
		late bool
	}
	events, done := make(chan event, 10), make(chan struct{})
	groups := c[1].Conversations().Stream(ctx)
	go func() {
		defer close(done)
		for g, err := range groups {
			if err != nil {
				t.Error(err)
				return
			}
			events <- event{g.ID(), ctx.Err() != nil}
		}
	}()
	second := w.newGroup(conclave.GroupOptions{}, c...)
	if e := <-events; e.id != second.ID() || e.id == first.ID() {
		t.Error("the stream tells of another group")
	}
	stop()
	<-done
	w.newGroup(conclave.GroupOptions{}, c...)
	w.do(c[1].Conversations().Sync(w.ctx))
	if len(events) != 0 {
		t.Error("the stream yields after it was cancelled")
	}
	if state := must[conclave.LocalState](t)(c[1].LocalState(w.ctx)); state.Streams != 0 {
		t.Errorf("%d streams are open", state.Streams)
	}
	for runtime.NumGoroutine() > idle {
		if w.ctx.Err() != nil {
			t.Fatalf("%d goroutines after the stream, %d before", runtime.NumGoroutine(), idle)
		}
		runtime.Gosched()
	}
}

// S54 S71: a group's stream yields that group's messages and no others, in the
// order of the log, once each, with their status. S63: what was missed comes first.
func TestStreamOfAGroup(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g, other := w.newGroup(conclave.GroupOptions{}, c...), w.newGroup(conclave.GroupOptions{}, c...)
	w.send(g, "read before")
	theirs := w.of(c[1], g)
	for i := range 3 {
		w.send(g, fmt.Sprintf("missed %d", i))
	}
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	next, quit := pull(theirs.Stream(ctx))
	defer quit()
	for i := range 3 {
		w.send(other, "elsewhere")
		w.send(g, fmt.Sprintf("live %d", i))
	}
	w.send(theirs, "own")
	for _, want := range []string{"missed 0", "missed 1", "missed 2", "live 0", "live 1", "live 2", "own"} {
		m := must[*conclave.Message](t)(next())
		if m.Group != g.ID() || m.Text() != want || m.Status != conclave.Published || m.Position == 0 {
			t.Errorf("streamed %+v, want %q", m, want)
		}
	}
}

// S72: changes of the members come in the same stream, and when they do Members
// has them.
func TestStreamOfMembershipChanges(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	theirs := w.of(c[1], g)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	next, quit := pull(theirs.Stream(ctx))
	defer quit()
	w.send(g, "before")
	w.do(g.AddMembers(w.ctx, c[2].Address()))
	w.send(g, "between")
	w.do(g.RemoveMembers(w.ctx, c[2].Address()))
	if got := must[*conclave.Message](t)(next()); got.Text() != "before" {
		t.Errorf("got %+v", got)
	}
	added := must[*conclave.Message](t)(next()).Content.(*conclave.GroupUpdated)
	if added.InitiatedBy != c[0].InboxID() || !slices.Equal(added.Added, inboxesOf(c[2])) || len(added.Removed) != 0 {
		t.Errorf("the addition is %+v", added)
	}
	if got := must[*conclave.Message](t)(next()); got.Text() != "between" {
		t.Errorf("got %+v", got)
	}
	removed := must[*conclave.Message](t)(next()).Content.(*conclave.GroupUpdated)
	if !slices.Equal(removed.Removed, inboxesOf(c[2])) || len(removed.Added) != 0 {
		t.Errorf("the removal is %+v", removed)
	}
	if got := w.inboxes(theirs); !slices.Equal(got, inboxesOf(c[:2]...)) {
		t.Errorf("when the removal is told the members are %v", got)
	}
}

// S72: within the loop, members are at least as new as the change that it tells.
func TestMembersInsideTheLoop(t *testing.T) {
	w := newWorld(t)
	c := w.clients(5)
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	theirs := w.of(c[1], g)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	news := theirs.Stream(ctx)
	var adding sync.WaitGroup
	adding.Go(func() {
		for _, added := range c[2:] {
			if err := g.AddMembers(w.ctx, added.Address()); err != nil {
				t.Error(err)
			}
		}
	})
	n := 0
	for m, err := range news {
		w.do(err)
		change := m.Content.(*conclave.GroupUpdated)
		members := w.inboxes(theirs)
		for _, inbox := range change.Added {
			if !slices.Contains(members, inbox) {
				t.Errorf("%s is told to be added and is no member", inbox)
			}
		}
		if n++; n == 3 {
			break
		}
	}
	adding.Wait()
}

// S73: the stream of all messages spans all groups, those joined meanwhile
// included; over cuts of the network nothing is lost and nothing comes twice.
func TestStreamOfAllMessages(t *testing.T) {
	const groups, each = 20, 40
	wire := newWire(t, membus.Config{})
	alice := newWorld(t, func(c *conclave.Config) { c.Bus, c.ServeNode = wire.Bus, false })
	bob := newWorld(t, wire.config)
	alix, bo := alice.client(), bob.client()
	ctx, stop := context.WithCancel(bob.ctx)
	defer stop()
	next, quit := pull(bo.Conversations().StreamAllMessages(ctx))
	defer quit()
	go func() {
		var all []*conclave.Group
		for i := range groups {
			g, err := alix.Conversations().NewGroup(alice.ctx, addresses(bo), conclave.GroupOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			all = append(all, g)
			wire.setCut(i%3 == 1) // of bob alone
			for n := range each / 2 {
				if _, err := g.Send(alice.ctx, conclave.Text(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			}
		}
		for i, g := range all {
			wire.setCut(i%5 == 1)
			for n := range each / 2 {
				if _, err := g.Send(alice.ctx, conclave.Text(fmt.Sprint(each/2+n))); err != nil {
					t.Error(err)
				}
			}
		}
		wire.setCut(false)
	}()
	got := map[conclave.GroupID]int{}
	for range groups * each {
		m := must[*conclave.Message](t)(next())
		for m.Text() == "" {
			m = must[*conclave.Message](t)(next())
		}
		if want := fmt.Sprint(got[m.Group]); m.Text() != want {
			t.Fatalf("a group's message is %s, want %s", m.Text(), want)
		}
		got[m.Group]++
	}
	if len(got) != groups {
		t.Errorf("messages of %d groups", len(got))
	}
}

// S74: cancelling is not held up by a loop that is busy, and leaks nothing.
func TestCancelWhileTheLoopIsBusy(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	theirs := w.of(c[1], g)
	ctx, stop := context.WithCancel(w.ctx)
	news := theirs.Stream(ctx)
	w.send(g, "1")
	w.send(g, "2")
	busy, release, done := make(chan struct{}), make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for range news {
			n++
			close(busy)
			<-release
		}
		done <- n
	}()
	<-busy
	stop()
	// The stream is gone although the loop has not come back.
	for must[conclave.LocalState](t)(c[1].LocalState(w.ctx)).Streams != 0 { // until w.ctx ends
		runtime.Gosched()
	}
	w.do(c[1].DeleteLocalDatabase(w.ctx, conclave.DeleteOptions{Confirm: true}))
	close(release)
	if n := <-done; n != 1 {
		t.Errorf("%d messages were yielded, 1 before the stream was cancelled", n)
	}
}

// S75: a slow loop costs bounded memory and loses nothing, its lag is counted,
// and others are not held up.
func TestSlowLoop(t *testing.T) {
	const messages = 1000
	provider, seen := meter(t)
	w := newWorld(t, func(c *conclave.Config) { c.MeterProvider = provider })
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	slow, fast := w.of(c[1], g), w.of(c[2], g)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	slowNext, quitSlow := pull(slow.Stream(ctx))
	defer quitSlow()
	fastNext, quitFast := pull(fast.Stream(ctx))
	defer quitFast()
	go func() {
		for i := range messages {
			if _, err := g.Send(w.ctx, conclave.Text(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	if got := text(t, slowNext); got != "0" {
		t.Errorf("the slow loop begins with %s", got)
	}
	for i := range messages {
		if got := text(t, fastNext); got != fmt.Sprint(i) {
			t.Fatalf("the fast loop reads %s, want %d", got, i)
		}
	}
	w.do(slow.Sync(w.ctx)) // everything is stored, and more than a queue holds waits
	if seen("conclave.stream.behind", "") == 0 {
		t.Error("nobody counted that a stream fell behind")
	}
	for i := 1; i < messages; i++ {
		if got := text(t, slowNext); got != fmt.Sprint(i) {
			t.Fatalf("the slow loop reads %s, want %d", got, i)
		}
	}
	w.send(g, "last")
	if a, b := text(t, slowNext), text(t, fastNext); a != "last" || b != "last" {
		t.Errorf("the loops end with %q and %q", a, b)
	}
}

// S76: a handler that fails or panics is reported, gets the message again as
// often as agreed, and then the next; nobody else notices.
func TestHandlerFails(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	w.of(c[1], g)
	other := w.of(c[2], g)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	failing := errors.New("cannot")
	var handled []string
	var reports []conclave.HandlerFailure
	options := conclave.HandlerOptions{Attempts: 2, Backoff: time.Millisecond, Report: func(f conclave.HandlerFailure) { reports = append(reports, f) }}
	news := c[1].Conversations().StreamAllMessages(ctx)
	otherNext, quit := pull(other.Stream(w.ctx))
	defer quit()
	done := make(chan error)
	go func() {
		done <- conclave.Handle(ctx, news, func(_ context.Context, m *conclave.Message) error {
			handled = append(handled, m.Text())
			switch {
			case m.Text() == "panic":
				panic("oh")
			case m.Text() == "fail", m.Text() == "fail once" && handled[len(handled)-2] != "fail once":
				return failing
			case m.Text() == "end":
				stop()
			}
			return nil
		}, options)
	}()
	for _, text := range []string{"panic", "fail", "fail once", "fine", "end"} {
		w.send(g, text)
	}
	for _, want := range []string{"panic", "fail", "fail once", "fine", "end"} {
		if got := text(t, otherNext); got != want {
			t.Errorf("another stream yields %q, want %q", got, want)
		}
	}
	w.do(<-done)
	if want := []string{"panic", "panic", "fail", "fail", "fail once", "fail once", "fine", "end"}; !slices.Equal(handled, want) {
		t.Errorf("handled %q, want %q", handled, want)
	}
	var panicked *conclave.PanicError
	if len(reports) != 5 || !errors.As(reports[0].Err, &panicked) || panicked.Value != "oh" || len(panicked.Stack) == 0 ||
		reports[0].GivenUp || !reports[1].GivenUp || !errors.Is(reports[3].Err, failing) || reports[4].GivenUp || reports[4].News.(*conclave.Message).Text() != "fail once" {
		t.Errorf("reported %+v", reports)
	}
}

// S74: Handle returns when it is cancelled while a handler waits, and while it
// waits itself to hand something over again.
func TestHandleIsCancelled(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	theirs := w.of(c[1], g)
	for name, handle := range map[string]func(context.Context) error{
		"handler waits":     func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"handler has given": func(context.Context) error { return errors.New("not now") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(w.ctx)
			defer stop()
			begun := make(chan struct{}, 1)
			news := theirs.Stream(ctx)
			done := make(chan error)
			go func() {
				done <- conclave.Handle(ctx, news, func(ctx context.Context, m *conclave.Message) error {
					begun <- struct{}{}
					return handle(ctx)
				}, conclave.HandlerOptions{Backoff: time.Hour})
			}()
			w.send(g, "hello")
			<-begun
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// S73 S76: crashes of the actors behind a stream cost no message and repeat
// none.
func TestStreamSurvivesCrashes(t *testing.T) {
	for _, point := range []actors.Point{actors.PointStream, actors.PointGroup, actors.PointInstallation, actors.PointSave} {
		t.Run(string(point), func(t *testing.T) {
			var mu sync.Mutex
			n, armed := 0, false
			w := newWorld(t, func(c *conclave.Config) {
				c.Fault = func(p actors.Point) error {
					mu.Lock()
					defer mu.Unlock()
					if p != point || !armed {
						return nil
					}
					if n++; n%7 != 1 || n > 30 {
						return nil
					}
					if p == actors.PointSave {
						return errors.New("disk says no")
					}
					panic("injected")
				}
			})
			c := w.clients(2)
			g := w.newGroup(conclave.GroupOptions{}, c...)
			ctx, stop := context.WithCancel(w.ctx)
			defer stop()
			next, quit := pull(c[1].Conversations().StreamAllMessages(ctx))
			defer quit()
			mu.Lock()
			armed = true
			mu.Unlock()
			go func() {
				for i := range 30 {
					if _, err := g.Send(w.ctx, conclave.Text(fmt.Sprint(i))); err != nil {
						t.Errorf("send: %v", err)
					}
				}
			}()
			for i := range 30 {
				if got := text(t, next); got != fmt.Sprint(i) {
					t.Fatalf("streamed %s, want %d", got, i)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if point != actors.PointInstallation && n == 0 {
				t.Error("nothing crashed")
			}
		})
	}
}

// A stream of what is not there says so.
func TestStreamOfNothing(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c[0])
	w.do(c[0].Close(w.ctx))
	n := 0
	for _, err := range g.Stream(w.ctx) {
		if n++; !errors.Is(err, conclave.ErrAsleep) {
			t.Errorf("the stream of a closed client: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("it yields %d times", n)
	}
}
