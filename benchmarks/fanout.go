package benchmarks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
)

// FanoutOptions are a fan-out's: one group of Members, Messages from its members
// in turn, every one to everybody.
type FanoutOptions struct {
	Options
	Members  int
	Messages int
	Window   int // messages under way at a time

	// Child, where not nil, makes the command of a process that runs
	// FanoutChild with the same options. It is killed when every message is
	// with everybody, and the stores are read with the bus switched off.
	Child func(ctx context.Context) *exec.Cmd
}

// loaded is what a process under load leaves behind for whoever checks it.
type loaded struct {
	Log           bus.Info
	Group         Group
	Sent          Sent
	Installations []conclave.InstallationID
}

// Fanout measures how fast one group's messages reach the stores and the
// handlers of all its members.
func Fanout(ctx context.Context, o FanoutOptions) (*Report, error) {
	floor, err := measureFloor(ctx, o.Options, o.Members)
	if err != nil {
		return nil, err
	}
	var left loaded
	how := "after a clean end, bus switched off"
	if o.Child != nil {
		how = "after SIGKILL, bus switched off"
		left, err = killedLoad(ctx, o)
	} else {
		left, err = fanoutLoad(ctx, o, nil)
	}
	if err != nil {
		return nil, err
	}
	crowd, err := OpenCrowd(o.Dir, o.Members)
	if err != nil {
		return nil, err
	}
	if len(left.Installations) != crowd.Len() {
		return nil, fmt.Errorf("the load registered %d installations, not %d", len(left.Installations), crowd.Len())
	}
	for i, id := range left.Installations {
		crowd.members[i].id = id
	}
	groups := []Group{left.Group}
	verdict, err := checkAlone(ctx, o.Options, left.Log, crowd, groups, o.lines(left.Group), left.Sent)
	if err != nil {
		return nil, err
	}

	r := newReport("fanout", o.Seed)
	r.Lost, r.Repeated = verdict.Lost, verdict.Repeated+left.Sent.Repeated
	r.Fanout = &FanoutFacts{
		Deliveries: verdict.Deliveries, Streamed: left.Sent.Streamed, Disordered: verdict.Disordered,
		Checksum: left.Sent.Checksum, Agreeing: left.Sent.Agreeing, Verified: how,
	}
	message := floor.message(o.Members)
	r.rate("deliveries_per_second", left.Sent.rate(o.Members), float64(o.Members)/message.Seconds())
	r.duration("send_to_all_stored_p50", Percentile(left.Sent.Latency, 50), message)
	r.duration("send_to_all_stored_p99", Percentile(left.Sent.Latency, 99), message)
	r.add(floor.figures())
	return r, nil
}

// rate is the deliveries per second of messages to n members each.
func (s Sent) rate(n int) float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Fresh*n) / s.Took.Seconds()
}

// lines are the same for the same seed.
func (o FanoutOptions) lines(g Group) []Line { return Turns(0, g, texts(o.Seed, o.Messages)) }

// texts makes n messages of about the length that people write.
func texts(seed uint64, n int) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]string, n)
	for i := range out {
		b := make([]byte, 20+r.IntN(160))
		for j := range b {
			b[j] = "etaoin shrdlu cmfwyp"[r.IntN(20)]
		}
		out[i] = fmt.Sprintf("%d %s", i+1, b)
	}
	return out
}

// fanoutLoad forms the group and sends. Before the host is closed, stored is
// called with what there is to check: it may be where the process ends.
func fanoutLoad(ctx context.Context, o FanoutOptions, stored func(loaded) error) (_ loaded, err error) {
	r, err := newRig(ctx, o.Options, o.Members, nil)
	if err != nil {
		return loaded{}, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	replay := NewReplay(r.crowd)
	replay.Follow(ctx)
	defer replay.Stop()
	groups := []Group{r.crowd.Everybody()}
	if err := r.crowd.Form(ctx, "fanout", &groups[0]); err != nil {
		return loaded{}, err
	}
	if err := r.crowd.Join(ctx, groups, nil); err != nil {
		return loaded{}, err
	}
	left := loaded{Log: r.bus.Info(), Group: groups[0]}
	if left.Sent, err = replay.Send(ctx, groups, o.lines(groups[0]), o.Window, nil); err != nil {
		return loaded{}, err
	}
	for _, m := range r.crowd.members {
		left.Installations = append(left.Installations, m.id)
	}
	if stored != nil {
		err = stored(left)
	}
	return left, err
}

// FanoutChild is the load of a process that is going to be killed: it writes
// what it did to out and waits for its end.
func FanoutChild(ctx context.Context, o FanoutOptions, out io.Writer) error {
	_, err := fanoutLoad(ctx, o, func(left loaded) error {
		if err := json.NewEncoder(out).Encode(left); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	return err
}

// killedLoad runs the load in another process and kills it without warning once
// every message is with everybody.
func killedLoad(ctx context.Context, o FanoutOptions) (left loaded, err error) {
	child := o.Child(ctx)
	out, err := child.StdoutPipe()
	if err != nil {
		return left, fmt.Errorf("child: %w", err)
	}
	if err := child.Start(); err != nil {
		return left, fmt.Errorf("child: %w", err)
	}
	err = json.NewDecoder(bufio.NewReader(out)).Decode(&left)
	killed := child.Process.Kill()
	ended := child.Wait()
	if err != nil {
		return left, fmt.Errorf("child ended before its load did: %w", errors.Join(err, ended))
	}
	if killed != nil {
		return left, fmt.Errorf("kill child: %w", killed)
	}
	return left, nil
}
