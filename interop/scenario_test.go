//go:build interop

package interop

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "conclave-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "conclave")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/conclave").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build cmd/conclave: %v\n%s", err, out)
		return 1
	}
	if flag.Parse(); *measure {
		if err := runBench(filepath.Join(dir, "network")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	defer closeShared()
	code := m.Run()
	printRows(os.Stdout)
	return code
}

// shared is the network that scenarios use which leave it as it is, with a host
// that reaches it by NATS and one that speaks XMTP's gRPC.
var shared struct {
	sync.Mutex
	*world
}

func closeShared() {
	if shared.world != nil {
		shared.world.close()
	}
}

// A world is a network and Conclave's hosts on it.
type world struct {
	network    *network
	nats, grpc *conclave.Host
	store      persistence.Store // of the host on NATS
}

func newWorld(ctx context.Context, dir string) (*world, error) {
	n, err := newNetwork(ctx, dir)
	if err != nil {
		return nil, err
	}
	w := &world{network: n, store: memstore.New()}
	if w.nats, err = conclave.Open(ctx, conclave.Config{NATS: n.natsURL(), Store: w.store, Codecs: codecs()}); err == nil {
		w.grpc, err = conclave.Open(ctx, conclave.Config{XMTP: n.xmtpURL(), Store: memstore.New(), Codecs: codecs()})
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// host is Conclave's by how it reaches the network: "NATS" or "gRPC".
func (w *world) host(transport string) *conclave.Host {
	if transport == "gRPC" {
		return w.grpc
	}
	return w.nats
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, h := range []*conclave.Host{w.nats, w.grpc} {
		if h != nil {
			if err := h.Close(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "close host:", err)
			}
		}
	}
	w.network.stop()
	os.RemoveAll(w.network.dir)
}

// A row is what the table at the end says of one scenario.
type row struct {
	title      string
	real, ours int // installations of the SDK's and of Conclave's
	members    int
	epoch      uint64
	sent, read int
	took       time.Duration
	failed     bool
}

var rows []*row

func printRows(to *os.File) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(to, "\n@xmtp/node-sdk %s\n", sdkVersion())
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tSDK\tGo\tmembers\tepoch\tsent\tread\tseconds\t  scenario")
	for _, r := range rows {
		word := "ok"
		if r.failed {
			word = "FAILED"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t  ", word, r.real, r.ours, r.members, r.epoch, r.sent, r.read, r.took.Seconds())
		fmt.Fprintf(t, "%s\n", r.title)
	}
	t.Flush()
}

// A scenario is one scripted conversation.
type scenario struct {
	*world
	t      *testing.T
	ctx    context.Context
	driver *driver
	row    *row

	mu    sync.Mutex
	names map[string]string // by inbox
}

// begin starts a scenario on the shared network.
func begin(t *testing.T, title string) *scenario {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.world == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		dir := must[string](t)(os.MkdirTemp("", "conclave-interop-network-"))
		shared.world = must[*world](t)(newWorld(ctx, dir))
	}
	return beginOn(t, title, shared.world)
}

// beginAlone starts a scenario on a network of its own, to break it.
func beginAlone(t *testing.T, title string) *scenario {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := must[*world](t)(newWorld(ctx, t.TempDir()))
	t.Cleanup(w.close)
	return beginOn(t, title, w)
}

func beginOn(t *testing.T, title string, w *world) *scenario {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	d := must[*driver](t)(newDriver())
	s := &scenario{world: w, t: t, ctx: ctx, driver: d, row: &row{title: title}, names: map[string]string{}}
	rows = append(rows, s.row)
	start := time.Now()
	t.Cleanup(func() {
		d.close()
		s.row.took, s.row.failed = time.Since(start), t.Failed()
		if t.Failed() {
			t.Logf("the node's log:\n%s\nthe SDK's:\n%s", w.network.log, d.log)
			return
		}
		t.Logf("%s: %d members, epoch %d, %d messages sent, %d read", title, s.row.members, s.row.epoch, s.row.sent, s.row.read)
	})
	return s
}

// do ends the scenario where a step failed.
func (s *scenario) do(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// together does steps at the same time, and ends the scenario where one failed.
func (s *scenario) together(steps ...func() error) {
	s.t.Helper()
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { errs[i] = step() })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			s.t.Error(err)
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *scenario) met(m member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[m.Inbox()] = m.Name()
}

// real creates clients of the published SDK, one for each name.
func (s *scenario) real(names ...string) []*realMember {
	s.t.Helper()
	out := make([]*realMember, len(names))
	steps := make([]func() error, len(names))
	for i, name := range names {
		steps[i] = func() (err error) {
			out[i], err = newRealMember(s.ctx, s.driver, name, newKey(), args{"url": s.network.xmtpURL()})
			return err
		}
	}
	s.together(steps...)
	for _, m := range out {
		s.met(m)
	}
	s.row.real += len(names)
	return out
}

// again creates one more installation of a real client's inbox.
func (s *scenario) again(m *realMember, name string) *realMember {
	s.t.Helper()
	second := must[*realMember](s.t)(newRealMember(s.ctx, s.driver, name, m.key, args{"url": s.network.xmtpURL()}))
	s.row.real++
	return second
}

// ours registers installations of Conclave's on a host, one for each name.
func (s *scenario) ours(host *conclave.Host, names ...string) []*goMember {
	s.t.Helper()
	out := make([]*goMember, len(names))
	for i, name := range names {
		out[i] = must[*goMember](s.t)(newGoMember(s.ctx, host, name, newWallet(), ""))
		s.met(out[i])
	}
	s.row.ours += len(names)
	return out
}

// enter waits until a member has a conversation, and returns its handle.
func (s *scenario) enter(id string, who member) room {
	s.t.Helper()
	s.do(poll(s.ctx, func() error {
		ids, err := who.Rooms(s.ctx)
		if err == nil && !slices.Contains(ids, id) {
			err = fmt.Errorf("%s has no conversation %.8s: it has %d", who.Name(), id, len(ids))
		}
		return err
	}))
	return must[room](s.t)(who.Room(s.ctx, id))
}

// enterAll is enter for several.
func (s *scenario) enterAll(id string, who ...member) []room {
	s.t.Helper()
	rooms := make([]room, len(who))
	for i, m := range who {
		rooms[i] = s.enter(id, m)
	}
	return rooms
}

// say has a member say something, and waits until the network has it.
func (s *scenario) say(r room, text string) {
	s.t.Helper()
	s.do(r.Send(s.ctx, text))
	s.mu.Lock()
	s.row.sent++
	s.mu.Unlock()
}

// agree waits until all see the same: name, epoch, members, roles,
// installations and messages, and of these the given ones in this order, where
// some are given ("ada: hello").
func (s *scenario) agree(rooms []room, want ...string) view {
	s.t.Helper()
	views := make([]view, len(rooms))
	s.do(poll(s.ctx, func() error {
		for i, r := range rooms {
			v, err := r.Look(s.ctx)
			if err != nil {
				return fmt.Errorf("%s looks: %w", r.Member().Name(), err)
			}
			views[i] = v
		}
		for i, v := range views {
			if !v.Active || v.Forked != "" {
				return fmt.Errorf("%s: active %v, forked %q", rooms[i].Member().Name(), v.Active, v.Forked)
			}
			if !v.equal(views[0]) {
				return fmt.Errorf("%s and %s see different things:\n%s\n%s", rooms[0].Member().Name(), rooms[i].Member().Name(), s.describe(views[0]), s.describe(v))
			}
		}
		if got := s.lines(views[0]); len(want) > 0 && !slices.Equal(got, want) {
			return fmt.Errorf("they read\n%q\nnot\n%q", got, want)
		}
		return nil
	}))
	s.row.members, s.row.epoch, s.row.read = len(views[0].Members), views[0].Epoch, 0
	for _, v := range views {
		s.row.read += len(v.Lines)
	}
	return views[0]
}

// lines are a view's messages as "name: text".
func (s *scenario) lines(v view) []string {
	out := make([]string, len(v.Lines))
	for i, l := range v.Lines {
		text := l.Text
		if l.Type != "text" {
			text = "[" + l.Type + "] " + text
		}
		out[i] = s.name(l.Sender) + ": " + text
	}
	return out
}

func (s *scenario) name(inbox string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name, ok := s.names[inbox]; ok {
		return name
	}
	return inbox
}

func (s *scenario) describe(v view) string {
	var members []string
	for _, m := range v.Members {
		members = append(members, fmt.Sprintf("%s (%d)", s.name(m), v.Roles[m]))
	}
	lines := s.lines(v)
	for i, l := range lines {
		lines[i] = fmt.Sprintf("%.60s", l)
	}
	return fmt.Sprintf("%q, epoch %d, active %v, stuck %q, %s, %d installations, %d messages: %q",
		v.Name, v.Epoch, v.Active, v.Forked, strings.Join(members, ", "), len(v.Installations), len(lines), lines)
}

// members of both kinds in one list.
func mixed[A, B member](a []A, b []B) []member {
	var out []member
	for _, m := range a {
		out = append(out, m)
	}
	for _, m := range b {
		out = append(out, m)
	}
	return out
}
