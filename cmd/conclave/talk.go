package main

import (
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
// time. Its run loop is the only one that prints and that changes it.
type talk struct {
	c       *console
	screen  *screen
	client  *conclave.Client
	life    context.Context // of what waits in the background
	stop    context.CancelFunc
	current *conclave.Group
	names   map[string]string // inbox id → address

	sent     chan outcome
	answered chan answer
	waits    sync.WaitGroup
	waiting  int       // own messages without an outcome
	asked    int       // commands that wait for the backend
	failed   []outcome // for /retry
	refused  int       // lines that were not even accepted
}

// An outcome is what became of a message.
type outcome struct {
	group  *conclave.Group
	id     conclave.MessageID
	text   string
	typed  bool // now, and not by an earlier run
	status conclave.DeliveryStatus
	err    error
}

// An answer is what became of a command that needed the backend.
type answer struct {
	command string
	show    *conclave.Group // to be opened
	err     error
}

// patience bounds what a command waits for the backend. What was asked goes on
// without the asker.
const patience = 20 * time.Second

func newTalk(ctx context.Context, c *console, client *conclave.Client) *talk {
	t := &talk{c: c, screen: c.plainScreen(), client: client, names: map[string]string{}, sent: make(chan outcome, 64), answered: make(chan answer, 64)}
	t.life, t.stop = context.WithCancel(ctx)
	return t
}

// close ends what waits in the background, and gives the terminal back.
func (t *talk) close() {
	t.stop()
	t.waits.Wait()
	t.screen.close()
}

func (t *talk) say(format string, args ...any) { t.screen.print(fmt.Sprintf(format, args...)) }

// complain shows what went wrong.
func (t *talk) complain(err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the backend does not answer; what was asked happens when it does")
	}
	t.say("! %s", oneLine(err))
}

// run handles what is typed and what arrives until input or life ends.
func (t *talk) run() (err error) {
	ctx := t.life
	if t.screen, err = t.c.openScreen(); err != nil {
		return err
	}
	lines := make(chan string)
	var readErr error
	// Not waited for: a read of a terminal cannot be interrupted.
	go func() {
		defer close(lines)
		for {
			line, err := t.screen.readLine()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					readErr = err
				}
				return
			}
			select {
			case lines <- line:
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
	var ended error // why the input did
	for {
		t.screen.mark(t.waiting+t.asked > 0)
		if input == nil && t.waiting+t.asked == 0 {
			return errors.Join(ended, t.leaving())
		}
		next := input
		if t.asked > 0 && t.screen.terminal == nil {
			next = nil // the lines of a pipe are done one after another
		}
		select {
		case <-ctx.Done():
			return t.leaving()
		case <-leave:
			return t.leaving()
		case line, more := <-next:
			if more && !t.typed(ctx, line) {
				continue
			}
			if !more {
				ended = readErr
			}
			if t.screen.terminal != nil {
				return t.leaving()
			}
			input, leave = nil, time.After(patience) // what a pipe brought may still go out
		case m := <-messages:
			t.arrived(ctx, m)
		case g := <-joins:
			t.joined(ctx, g)
		case o := <-t.sent:
			t.settled(o)
		case a := <-t.answered:
			t.done(ctx, a)
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

// leaving says what was not sent. For a pipe that is an error: nobody reads it.
func (t *talk) leaving() error {
	if t.screen.terminal != nil {
		if t.waiting > 0 {
			t.say("%d of your messages wait to be sent: they go out when you are back", t.waiting)
		}
		return nil
	}
	failed := t.refused
	for _, o := range t.failed {
		if o.typed {
			failed++
		}
	}
	switch {
	case failed > 0:
		return fmt.Errorf("lines that were not sent: %d; see what is said above", failed)
	case t.waiting > 0:
		return fmt.Errorf("lines that wait to be sent: %d; they go out with the next chat in this --dir", t.waiting)
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
	var err error
	switch command {
	case "quit":
		return true
	case "new":
		err = t.askNew(line, split(rest))
	case "add":
		err = t.in(func(g *conclave.Group) error {
			t.ask(line, func(ctx context.Context) (*conclave.Group, error) { return nil, g.AddMembers(ctx, split(rest)...) })
			return nil
		})
	case "name":
		err = t.in(func(g *conclave.Group) error {
			t.ask(line, func(ctx context.Context) (*conclave.Group, error) { return nil, g.UpdateName(ctx, rest) })
			return nil
		})
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
	if err != nil {
		t.complain(err)
	}
	return false
}

// ask does what needs the backend beside the loop, which goes on meanwhile.
func (t *talk) ask(command string, do func(context.Context) (show *conclave.Group, err error)) {
	t.asked++
	t.waits.Go(func() {
		ctx, cancel := context.WithTimeout(t.life, patience)
		defer cancel()
		a := answer{command: command}
		a.show, a.err = do(ctx)
		select {
		case t.answered <- a:
		case <-t.life.Done():
		}
	})
}

// done shows what became of a command.
func (t *talk) done(ctx context.Context, a answer) {
	t.asked--
	switch {
	case a.err == nil && a.show != nil:
		a.err = t.show(ctx, a.show)
	case a.err == nil:
		t.say("✓ %s", harmless(a.command))
	}
	if a.err != nil {
		t.complain(a.err)
	}
}

func (t *talk) askNew(command string, words []string) error {
	if len(words) == 0 {
		return errors.New("/new NAME ADDRESS…")
	}
	t.ask(command, func(ctx context.Context) (*conclave.Group, error) {
		return t.client.Conversations().NewGroup(ctx, words[1:], conclave.GroupOptions{Name: words[0]})
	})
	return nil
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
		if err == nil {
			t.await(outcome{group: g, id: id, text: text, typed: true})
		}
		return err
	})
	if err != nil {
		t.refused++
		t.complain(err)
	}
}

// await shows an own message as unpublished and brings its outcome to the loop.
// What was typed at a terminal is on the screen already.
func (t *talk) await(o outcome) {
	if !o.typed || t.screen.terminal == nil {
		t.say("… %s", harmless(o.text))
	}
	t.waiting++
	t.waits.Go(func() {
		o.status, o.err = o.group.Wait(t.life, o.id)
		select {
		case t.sent <- o:
		case <-t.life.Done():
		}
	})
}

// settled shows what became of an own message.
func (t *talk) settled(o outcome) {
	t.waiting--
	switch {
	case o.err != nil || o.status == conclave.Failed:
		t.failed = append(t.failed, o)
		t.say("✗ %s   (/retry sends it again)", t.brief(o))
	case !o.typed || t.screen.terminal == nil:
		t.say("✓ %s", harmless(o.text))
	}
}

// brief is a message's text, shortened where it stands on the screen already.
func (t *talk) brief(o outcome) string {
	text := []rune(harmless(o.text))
	if t.screen.terminal == nil || !o.typed || len(text) <= 40 {
		return string(text)
	}
	return string(text[:39]) + "…"
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
			t.complain(err)
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
