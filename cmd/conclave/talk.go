package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/conclave-chat/conclave"
)

// A talk is a person at a terminal, or a program at a pipe, in one group at a
// time. Its run loop is the only one that prints.
type talk struct {
	c        *console
	client   *conclave.Client
	life     context.Context // of what waits in the background
	stop     context.CancelFunc
	terminal bool
	current  *conclave.Group
	names    map[string]string // inbox id → address

	sent    chan outcome
	waits   sync.WaitGroup
	waiting int                // own messages without an outcome
	last    conclave.MessageID // whose line is the last one printed; zero: another
	failed  []outcome          // for /retry
}

// An outcome is what became of a typed line.
type outcome struct {
	group  *conclave.Group
	id     conclave.MessageID
	text   string
	status conclave.DeliveryStatus
	err    error
}

// patience bounds what a command waits for the backend. What was asked goes on
// without the asker.
const patience = 20 * time.Second

func newTalk(ctx context.Context, c *console, client *conclave.Client) *talk {
	t := &talk{c: c, client: client, terminal: isTerminal(c.out), names: map[string]string{}, sent: make(chan outcome, 64)}
	t.life, t.stop = context.WithCancel(ctx)
	return t
}

// close ends what waits in the background.
func (t *talk) close() {
	t.stop()
	t.waits.Wait()
}

func (t *talk) say(format string, args ...any) {
	t.last = conclave.MessageID{}
	fmt.Fprintf(t.c.out, format+"\n", args...)
}

// run handles what is typed and what arrives until input or life ends.
func (t *talk) run() error {
	ctx := t.life
	lines := make(chan string)
	var readErr error
	// Not waited for: a read of a terminal cannot be interrupted.
	go func() {
		defer close(lines)
		in := bufio.NewReaderSize(t.c.in, 64<<10)
		for {
			line, err := readLine(in)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					readErr = err
				}
				return
			}
			select {
			case lines <- string(line):
			case <-ctx.Done():
				return
			}
		}
	}()
	messages := make(chan *conclave.Message)
	joins := make(chan *conclave.Group)
	messageStream, joinStream := t.client.Conversations().StreamAllMessages(ctx), t.client.Conversations().Stream(ctx)
	t.waits.Go(func() { pump(ctx, t.c, messageStream, messages) })
	t.waits.Go(func() { pump(ctx, t.c, joinStream, joins) })

	input := (<-chan string)(lines)
	var leave <-chan time.Time
	for {
		if input == nil && t.waiting == 0 {
			return readErr
		}
		select {
		case <-ctx.Done():
			return t.leaving()
		case <-leave:
			return t.leaving()
		case line, ok := <-input:
			if !ok { // the end of a pipe: what was typed may still go out
				input, leave = nil, time.After(patience)
				continue
			}
			if quit := t.typed(ctx, line); quit {
				return t.leaving()
			}
		case m := <-messages:
			t.arrived(ctx, m)
		case g := <-joins:
			t.joined(ctx, g)
		case o := <-t.sent:
			t.settled(o)
		}
	}
}

// pump moves a stream into a channel.
func pump[T any](ctx context.Context, c *console, stream func(func(T, error) bool), to chan<- T) {
	for v, err := range stream {
		if err != nil {
			c.log.Error("stream ended", "error", err)
			return
		}
		select {
		case to <- v:
		case <-ctx.Done():
			return
		}
	}
}

func (t *talk) leaving() error {
	if t.waiting > 0 {
		t.say("%d of your messages wait to be sent: they go out when you are back", t.waiting)
	}
	return nil
}

// typed handles one line, and tells whether it ends the talk.
func (t *talk) typed(ctx context.Context, line string) (quit bool) {
	if line == "" {
		return false
	}
	if !strings.HasPrefix(line, "/") {
		t.send(ctx, line)
		return false
	}
	command, rest, _ := strings.Cut(strings.TrimSpace(line[1:]), " ")
	rest = strings.TrimSpace(rest)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	switch command {
	case "quit":
		return true
	case "new":
		words := split(rest)
		if len(words) == 0 {
			err = errors.New("/new NAME ADDRESS…")
			break
		}
		err = t.make(ctx, words[0], words[1:])
	case "add":
		err = t.in(func(g *conclave.Group) error { return g.AddMembers(ctx, split(rest)...) })
	case "name":
		err = t.in(func(g *conclave.Group) error { return g.UpdateName(ctx, rest) })
	case "members":
		err = t.in(func(g *conclave.Group) error { return t.members(ctx, g) })
	case "groups":
		err = t.groups(ctx)
	case "open":
		err = t.choose(ctx, rest)
	case "retry":
		err = t.retry(ctx)
	case "help":
		t.say("/new NAME ADDRESS…   /add ADDRESS…   /members   /name NAME   /groups   /open NUMBER or ID   /retry   /quit")
	default:
		err = fmt.Errorf("there is no /%s: see /help", harmless(command))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the backend does not answer; what was asked happens when it does")
	}
	if err != nil {
		t.say("! %s", oneLine(err))
	}
	return false
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
}

// in does something with the open group.
func (t *talk) in(f func(*conclave.Group) error) error {
	if t.current == nil {
		return errors.New("no group is open: /new NAME ADDRESS…, /open NUMBER, or wait until somebody adds you")
	}
	return f(t.current)
}

func (t *talk) send(ctx context.Context, text string) {
	err := t.in(func(g *conclave.Group) error {
		id, err := g.Send(ctx, conclave.Text(text))
		if err != nil {
			return err
		}
		if t.terminal { // the mark goes in front of what was typed
			fmt.Fprint(t.c.out, "\x1b[1A\r\x1b[2K")
		}
		t.await(outcome{group: g, id: id, text: text})
		return nil
	})
	if err != nil {
		t.say("! %s", oneLine(err))
	}
}

// await shows an own message as unpublished and brings its outcome to the loop.
func (t *talk) await(o outcome) {
	t.say("… %s", harmless(o.text))
	t.last = o.id
	t.waiting++
	t.waits.Go(func() {
		o.status, o.err = o.group.Wait(t.life, o.id)
		select {
		case t.sent <- o:
		case <-t.life.Done():
		}
	})
}

// settled shows what became of an own message: at a terminal in its place,
// where nothing was printed since.
func (t *talk) settled(o outcome) {
	t.waiting--
	line := "✓ " + harmless(o.text)
	if o.err != nil || o.status == conclave.Failed {
		t.failed = append(t.failed, o)
		line = "✗ " + harmless(o.text) + "   (/retry sends it again)"
	}
	if t.terminal && t.last == o.id {
		fmt.Fprintf(t.c.out, "\x1b7\x1b[1A\r\x1b[2K%s\x1b8", line)
		return
	}
	t.say("%s", line)
}

func (t *talk) retry(ctx context.Context) error {
	if len(t.failed) == 0 {
		return errors.New("nothing failed")
	}
	failed := t.failed
	t.failed = nil
	for _, o := range failed {
		if err := o.group.Retry(ctx, o.id); err != nil {
			return err
		}
		t.await(o)
	}
	return nil
}

func (t *talk) arrived(ctx context.Context, m *conclave.Message) {
	if m.Sender == t.client.InboxID() && m.Installation == t.client.InstallationID() {
		return // shown when it was typed
	}
	who, where := t.nameOf(ctx, m), ""
	if t.current == nil || t.current.ID() != m.Group {
		where = "[" + shortName(m.Group.String()) + "] "
	}
	switch content := m.Content.(type) {
	case *conclave.GroupUpdated:
		t.say("%s* %s", where, t.describe(ctx, m.Group, who, content))
	default:
		t.say("%s%s: %s", where, who, harmless(m.Text()))
	}
}

// describe says what changed in a group.
func (t *talk) describe(ctx context.Context, id conclave.GroupID, who string, u *conclave.GroupUpdated) string {
	var parts []string
	for _, in := range u.Added {
		parts = append(parts, "added "+t.name(ctx, id, in))
	}
	for _, in := range u.Removed {
		parts = append(parts, "removed "+t.name(ctx, id, in))
	}
	for _, in := range u.Left {
		parts = append(parts, t.name(ctx, id, in)+" left")
	}
	for _, f := range u.Changes {
		field := strings.ReplaceAll(f.Field, "_", " ")
		if f.New == nil {
			parts = append(parts, "cleared the "+field)
			continue
		}
		parts = append(parts, fmt.Sprintf("set the %s to %q", field, *f.New))
	}
	if len(parts) == 0 {
		parts = append(parts, "changed who is an admin")
	}
	return harmless(who + " " + strings.Join(parts, ", "))
}

func (t *talk) nameOf(ctx context.Context, m *conclave.Message) string {
	return t.name(ctx, m.Group, m.Sender)
}

// name is a member's short address, or inbox id where the address is not known
// here.
func (t *talk) name(ctx context.Context, id conclave.GroupID, inbox string) string {
	if inbox == t.client.InboxID() {
		return "you"
	}
	if t.names[inbox] == "" {
		if g, err := t.client.Conversations().Get(ctx, id); err == nil {
			members, _ := g.Members(ctx) // unknown: shown by inbox id
			for _, m := range members {
				if len(m.Addresses) > 0 {
					t.names[m.InboxID] = m.Addresses[0]
				}
			}
		}
	}
	if a := t.names[inbox]; a != "" {
		return shortName(a)
	}
	return shortName(inbox)
}

func (t *talk) joined(ctx context.Context, g *conclave.Group) {
	if t.current == nil {
		if err := t.show(ctx, g); err != nil {
			t.say("! %s", oneLine(err))
		}
		return
	}
	t.say("* you were added to %s: /open %s", t.title(ctx, g), g.ID())
}

func (t *talk) title(ctx context.Context, g *conclave.Group) string {
	info, err := g.Info(ctx)
	if err != nil || info.Name == "" {
		return "group " + shortName(g.ID().String())
	}
	return harmless(info.Name)
}

func (t *talk) make(ctx context.Context, name string, with []string) error {
	g, err := t.client.Conversations().NewGroup(ctx, with, conclave.GroupOptions{Name: name})
	if err != nil {
		return err
	}
	return t.show(ctx, g)
}

func (t *talk) open(ctx context.Context, id conclave.GroupID) error {
	g, err := t.client.Conversations().Get(ctx, id)
	if errors.Is(err, conclave.ErrNoGroup) {
		return fmt.Errorf("you are in no group %s: ask a member to add %s", id, t.client.Address())
	}
	if err != nil {
		return err
	}
	return t.show(ctx, g)
}

// openOnly opens the group of who has one.
func (t *talk) openOnly(ctx context.Context) error {
	groups, err := t.client.Conversations().List(ctx)
	switch {
	case err != nil:
		return err
	case len(groups) == 1:
		return t.show(ctx, groups[0])
	case len(groups) > 1:
		return t.groups(ctx)
	}
	t.say("you are in no group yet: /new NAME ADDRESS… makes one, and others can add your address")
	return nil
}

// shownHistory is how many messages are shown of a group that is opened.
const shownHistory = 10

// show makes a group the current one.
func (t *talk) show(ctx context.Context, g *conclave.Group) error {
	t.current = g
	t.say("— %s, %s —", t.title(ctx, g), g.ID())
	published, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
	if err != nil {
		return err
	}
	for _, m := range published[max(0, len(published)-shownHistory):] {
		if text := m.Text(); text != "" {
			t.say("%s: %s", t.nameOf(ctx, m), harmless(text))
		}
	}
	waiting, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Unpublished})
	if err != nil {
		return err
	}
	for _, m := range waiting {
		t.await(outcome{group: g, id: m.ID, text: m.Text()})
	}
	failed, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Failed})
	for _, m := range failed {
		t.waiting++
		t.settled(outcome{group: g, id: m.ID, text: m.Text(), status: conclave.Failed})
	}
	return err
}

func (t *talk) groups(ctx context.Context) error {
	groups, err := t.client.Conversations().List(ctx)
	if err != nil {
		return err
	}
	for i, g := range groups {
		mark := " "
		if t.current != nil && t.current.ID() == g.ID() {
			mark = "*"
		}
		t.say("%s%2d  %s  %s", mark, i+1, g.ID(), t.title(ctx, g))
	}
	t.say("/open NUMBER opens one")
	return nil
}

func (t *talk) choose(ctx context.Context, which string) error {
	if n, err := strconv.Atoi(which); err == nil && len(which) < 6 {
		groups, err := t.client.Conversations().List(ctx)
		if err != nil {
			return err
		}
		if n < 1 || n > len(groups) {
			return fmt.Errorf("there is no group %d: see /groups", n)
		}
		return t.show(ctx, groups[n-1])
	}
	id, err := conclave.ParseGroupID(which)
	if err != nil {
		return err
	}
	return t.open(ctx, id)
}

func (t *talk) members(ctx context.Context, g *conclave.Group) error {
	members, err := g.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		name, role := m.InboxID, ""
		if len(m.Addresses) > 0 {
			name = m.Addresses[0]
		}
		switch {
		case m.InboxID == t.client.InboxID():
			role = "  (you)"
		case m.Role != conclave.RoleMember:
			role = "  (admin)"
		}
		t.say("  %s%s", name, role)
	}
	return nil
}
