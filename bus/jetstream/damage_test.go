package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

var flips = flag.Int("flips", 40, "bits to flip in each log of TestFlippedBitIsSeen")

// A written log, as its files are after a stop, or after a crash.
type written struct {
	dir  string
	want map[bus.Topic][]string
}

// writeLogs writes one log: entries that stay, some that expired meanwhile, and
// copies its files at both ends.
func writeLogs(t *testing.T) (stopped, crashed written) {
	t.Helper()
	dir := t.TempDir()
	b := open(t, jetstream.Config{Dir: dir})
	want := map[bus.Topic][]string{}
	for n := range 60 {
		m, text := messagesOf(t, n%7), fmt.Sprintf("message %d %0200d", n, n)
		if n%5 > 0 {
			want[m] = append(want[m], text)
			publish(t, b, m, text)
		} else {
			publish(t, b, m, text, bus.TTL(time.Second))
		}
	}
	awaitExpiry(t, b, want)
	crash := t.TempDir()
	if err := os.CopyFS(crash, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	return written{dir, want}, written{crash, want}
}

func publish(t *testing.T, b bus.Bus, m bus.Topic, text string, opts ...bus.PublishOption) {
	t.Helper()
	if _, err := b.Publish(t.Context(), m, []byte(text), opts...); err != nil {
		t.Fatal(err)
	}
}

// awaitExpiry waits until the log holds what is wanted and nothing else.
func awaitExpiry(t *testing.T, b bus.Bus, want map[bus.Topic][]string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for holds(t.Context(), b, want) != nil {
		<-tick.C
	}
}

// holds says what is wrong with a log that is to hold so much.
func holds(ctx context.Context, b bus.Bus, want map[bus.Topic][]string) error {
	for m, texts := range want {
		got, err := b.Read(ctx, 0, 1000, m)
		if err != nil {
			return err
		}
		var have []string
		for _, e := range got {
			have = append(have, string(e.Payload))
		}
		if !slices.Equal(have, texts) {
			return fmt.Errorf("%d entries of %s in place of %d, or others", len(have), m, len(texts))
		}
	}
	return nil
}

// spoilt opens a copy of the log that spoil did something to. It is an error of
// the test's where the log opens and is not as it was written.
func (w written) spoilt(t *testing.T, what string, spoil func(dir string) error) error {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	if err := spoil(dir); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir})
	if err != nil {
		if !errors.Is(err, bus.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		return err
	}
	defer b.Close()
	if err := holds(t.Context(), b, w.want); err != nil {
		t.Errorf("%s: opened, with %v", what, err)
	}
	return nil
}

// files lists a log's files that hold something, and their sizes.
func (w written) files(t *testing.T) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		name, err := filepath.Rel(w.dir, path)
		sizes[name] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

// One flipped bit, in any file of the log: everything is there, or the log does
// not open and says why. Half of the flips are in the entries themselves.
func TestFlippedBitIsSeen(t *testing.T) {
	t.Parallel()
	stopped, crashed := writeLogs(t)
	const entries = "jetstream/$G/streams/CONCLAVE_0/msgs/1.blk"
	for name, w := range map[string]written{"stopped": stopped, "crashed": crashed} {
		sizes := w.files(t)
		names := slices.Sorted(maps.Keys(sizes))
		random, refused := rand.New(rand.NewPCG(9, 9)), 0
		for n := range *flips {
			file := entries
			if n%2 == 1 {
				file = names[n/2%len(names)]
			}
			at, bit := random.Int64N(sizes[file]), random.IntN(8)
			what := fmt.Sprintf("%s: bit %d of byte %d of %s", name, bit, at, file)
			if w.spoilt(t, what, func(dir string) error { return flip(filepath.Join(dir, file), at, bit) }) != nil {
				refused++
			}
		}
		if refused < *flips/2 {
			t.Errorf("%s: %d of %d refused: a flip in an entry passed", name, refused, *flips)
		}
	}
}

func flip(path string, at int64, bit int) error {
	b, err := os.ReadFile(path)
	if err == nil {
		b[at] ^= 1 << bit
		err = os.WriteFile(path, b, 0o600)
	}
	return err
}

// A file that is cut or gone: the same. What a crash may leave of an entry that
// nobody was told of is no damage.
func TestCutLogIsSeen(t *testing.T) {
	t.Parallel()
	stopped, crashed := writeLogs(t)
	for name, w := range map[string]written{"stopped": stopped, "crashed": crashed} {
		for file, size := range w.files(t) {
			for _, left := range []int64{-1, 0, size / 2, size - 1} {
				w.spoilt(t, fmt.Sprintf("%s: %d bytes left of %s", name, left, file), func(dir string) error {
					if left < 0 {
						return os.Remove(filepath.Join(dir, file))
					}
					return os.Truncate(filepath.Join(dir, file), left)
				})
			}
		}
		for _, folder := range []string{"jetstream", "jetstream/$G/streams/CONCLAVE_0", "jetstream/$G/streams/CONCLAVE_0/msgs"} {
			err := w.spoilt(t, name+" without "+folder, func(dir string) error { return os.RemoveAll(filepath.Join(dir, folder)) })
			if err == nil {
				t.Errorf("%s: an empty log in place of %s", name, folder)
			}
		}
		if name == "crashed" {
			unfinished := func(dir string) error {
				f, err := os.OpenFile(filepath.Join(dir, "jetstream/$G/streams/CONCLAVE_0/msgs/1.blk"), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				_, err = f.Write([]byte{200, 0, 0, 0x80, 61, 0, 0, 0, 0, 0, 0, 0, 7, 7})
				return errors.Join(err, f.Close())
			}
			if err := w.spoilt(t, "an entry that was begun", unfinished); err != nil {
				t.Errorf("an entry that was begun: %v", err)
			}
		}
	}
}

// A log whose entries have all expired is a log that holds nothing, after a stop
// and after a crash.
func TestExpiredLogIsNotDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, jetstream.Config{Dir: dir})
	m := messagesOf(t, 1)
	for n := range 20 {
		publish(t, b, m, fmt.Sprint(n), bus.TTL(time.Second))
	}
	empty := map[bus.Topic][]string{m: nil}
	awaitExpiry(t, b, empty)
	last, err := b.End(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	crash := t.TempDir()
	if err := os.CopyFS(crash, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	for name, dir := range map[string]string{"stopped": dir, "crashed": crash} {
		for range 2 {
			b := open(t, jetstream.Config{Dir: dir})
			if end, err := b.End(t.Context(), m); err != nil || end != last {
				t.Errorf("%s: ends at %d in place of %d: %v", name, end, last, err)
			}
			b.Close()
		}
	}
}

// A log of several blocks of which one is gone, or ends early.
func TestLostBlockIsSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, jetstream.Config{Dir: dir, SyncInterval: time.Minute})
	m := messagesOf(t, 1)
	want := map[bus.Topic][]string{}
	for n := range 20 {
		text := fmt.Sprintf("%01000000d", n)
		want[m] = append(want[m], text)
		publish(t, b, m, text)
	}
	b.Close()
	w := written{dir, want}
	const first = "jetstream/$G/streams/CONCLAVE_0/msgs/1.blk"
	for what, spoil := range map[string]func(string) error{
		"a block is gone":            func(dir string) error { return os.Remove(filepath.Join(dir, first)) },
		"a block ends early":         func(dir string) error { return os.Truncate(filepath.Join(dir, first), 5<<20) },
		"an entry is of other bytes": func(dir string) error { return flip(filepath.Join(dir, first), 3<<20, 1) },
	} {
		if err := w.spoilt(t, what, spoil); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
	if err := w.spoilt(t, "nothing is wrong", func(string) error { return nil }); err != nil {
		t.Error(err)
	}
}

// An entry whose payload is not what was published is told of by name, and never
// delivered: not read, not followed, not caught up with.
func TestSpoiltPayloadIsNeverDelivered(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url(), RetryFor: time.Second})
	nc, err := nats.Connect(p.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m, other := messagesOf(t, 1), messagesOf(t, 2)
	live, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Follow(t.Context(), 0, m); err != nil {
		t.Fatal(err)
	}
	publish(t, b, m, "sound")
	if got, err := live.Next(t.Context()); err != nil || len(got) != 1 {
		t.Fatalf("%d envelopes, %v", len(got), err)
	}
	spoilt := nats.NewMsg("CONCLAVE.0." + m.String())
	spoilt.Data = []byte("spoilt")
	spoilt.Header.Set("Conclave-Sum", "00000000")
	if _, err := nc.RequestMsgWithContext(t.Context(), spoilt); err != nil {
		t.Fatal(err)
	}
	named := func(how string, err error) {
		t.Helper()
		if !errors.Is(err, bus.ErrDamaged) || !strings.Contains(err.Error(), "stream CONCLAVE_0, sequence 2") {
			t.Errorf("%s: %v", how, err)
		}
	}
	_, err = live.Next(t.Context())
	named("followed", err)
	_, err = b.Read(t.Context(), 0, 10, m)
	named("read", err)
	late, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := late.Follow(t.Context(), 0, m); err != nil {
		t.Fatal(err)
	}
	got, err := late.Next(t.Context())
	for err == nil {
		if len(got) != 1 || string(got[0].Payload) != "sound" {
			t.Fatalf("caught up with %d envelopes", len(got))
		}
		got, err = late.Next(t.Context())
	}
	named("caught up", err)
	named("ready", b.Ready(t.Context()))

	// Older entries have no sum.
	if _, err := nc.Request("CONCLAVE.0."+other.String(), []byte("old"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Read(t.Context(), 0, 10, other); err != nil || len(got) != 1 {
		t.Errorf("an entry without a sum: %d, %v", len(got), err)
	}
}

// A server that says that it lost something is not opened as if it had not.
func TestLossThatTheServerReportsIsSaid(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url()})
	for n := range 10 {
		publish(t, b, messagesOf(t, 1), fmt.Sprintf("message %d %0200d", n, n))
	}
	b.Close()
	p.kill()
	blocks, err := filepath.Glob(filepath.Join(p.store(), "jetstream/$G/streams/CONCLAVE_0/msgs/*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatalf("%q, %v", blocks, err)
	}
	if err := flip(blocks[0], 1000, 1); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	_, err = jetstream.Open(t.Context(), jetstream.Config{URL: p.url()})
	if !errors.Is(err, bus.ErrDamaged) || !strings.Contains(err.Error(), "stream CONCLAVE_0, sequence 3") {
		t.Fatalf("open: %v", err)
	}
}

// An operator without a backup opens a damaged log with what is left of it: every
// other entry is there, no ID is used again, and hosts are told.
func TestAcceptedLoss(t *testing.T) {
	t.Parallel()
	stopped, crashed := writeLogs(t)
	const entries = "jetstream/$G/streams/CONCLAVE_0/msgs/1.blk"
	size := stopped.files(t)[entries]
	at := func(n int) int64 { // of an entry that is wanted
		b, err := os.ReadFile(filepath.Join(stopped.dir, entries))
		if err != nil {
			t.Fatal(err)
		}
		return int64(bytes.Index(b, fmt.Appendf(nil, "message %d ", n)))
	}
	for name, test := range map[string]struct {
		log   written
		spoil func(path string) error
		lost  int
	}{
		"a flipped bit":                {stopped, func(p string) error { return flip(p, at(31), 3) }, 1},
		"a flipped bit, after a crash": {crashed, func(p string) error { return flip(p, at(31), 3) }, 1},
		"two of them":                  {stopped, func(p string) error { return errors.Join(flip(p, at(31), 3), flip(p, at(22), 3)) }, 2},
		"a flipped length":             {stopped, func(p string) error { return flip(p, 0, 4) }, 0}, // of an entry that had expired
		"half of it":                   {crashed, func(p string) error { return os.Truncate(p, size/2) }, -1},
		"all of it":                    {stopped, os.Remove, 48},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, os.DirFS(test.log.dir)); err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(filepath.Join(dir, entries)); err != nil {
				t.Fatal(err)
			}
			if _, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir}); !errors.Is(err, bus.ErrDamaged) {
				t.Fatalf("not accepted: %v", err)
			}
			config := jetstream.Config{Dir: dir, AcceptLoss: true}
			b := open(t, config)
			if losses := b.Info().Losses; losses != 1 {
				t.Errorf("%d losses", losses)
			}
			left := 0
			for m, texts := range test.log.want {
				got, err := b.Read(t.Context(), 0, 1000, m)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range got {
					if !slices.Contains(texts, string(e.Payload)) {
						t.Errorf("%q was never written", e.Payload)
					}
				}
				left += len(got)
				after, lost := b.Lost(m)
				if !lost {
					t.Fatalf("%v: nothing says that entries are lost", m)
				}
				for _, text := range texts {
					var n uint64
					if _, err := fmt.Sscanf(text, "message %d", &n); err != nil {
						t.Fatal(err)
					}
					there := slices.ContainsFunc(got, func(e bus.Envelope) bool { return string(e.Payload) == text })
					if !there && after.Sequence() > n { // its sequence is n+1
						t.Errorf("message %d is lost, and what is lost is said to be behind %d", n, after.Sequence())
					}
				}
			}
			if test.lost >= 0 && left != 48-test.lost {
				t.Errorf("%d entries are left, %d are lost", left, test.lost)
			}
			ack, err := b.Publish(t.Context(), messagesOf(t, 1), []byte("new"))
			if err != nil || ack.ID.Sequence() != 61 {
				t.Errorf("the next entry is %d, %v", ack.ID.Sequence(), err)
			}
			b.Close()
			b = open(t, config) // accepted once, of which nothing is new
			if losses := b.Info().Losses; losses != 1 {
				t.Errorf("%d losses, later", losses)
			}
			if _, lost := b.Lost(messagesOf(t, 1)); !lost {
				t.Error("later nothing says that entries are lost")
			}
		})
	}
}

// Hosts elsewhere, which were connected, hear that the log has lost something.
func TestAcceptedLossIsToldToHosts(t *testing.T) {
	t.Parallel()
	dir, m := t.TempDir(), messagesOf(t, 1)
	b := open(t, jetstream.Config{Dir: dir, Listen: "127.0.0.1:0"})
	at := strings.TrimPrefix(b.ClientURL(), "nats://")
	far := open(t, jetstream.Config{URL: b.ClientURL()})
	f, err := far.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(t.Context(), 0, m); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		publish(t, b, m, fmt.Sprintf("message %d %0200d", n, n))
	}
	if _, err := f.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := flip(filepath.Join(dir, "jetstream/$G/streams/CONCLAVE_0/msgs/1.blk"), 1000, 1); err != nil {
		t.Fatal(err)
	}
	b = open(t, jetstream.Config{Dir: dir, Listen: at, AcceptLoss: true})
	for err == nil {
		_, err = f.Next(t.Context())
	}
	if !errors.Is(err, bus.ErrLogRolledBack) || !strings.Contains(err.Error(), "entries were lost") {
		t.Fatalf("next: %v", err)
	}
	if far.Info() != b.Info() || far.Info().Losses != 1 {
		t.Errorf("the host knows %+v, the deployment is %+v", far.Info(), b.Info())
	}
	if after, lost := far.Lost(m); !lost || after.Sequence() > 5 {
		t.Errorf("the host is told of a loss behind %d, %v", after.Sequence(), lost)
	}
}
