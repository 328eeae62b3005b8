//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

var measure = flag.Bool("figures", false, "measure the real SDK on the node, and run no scenario")

// Figures are what the real SDK gets from the node, in milliseconds.
type figures struct {
	SDK            string  `json:"sdk"`
	CreateGroup250 float64 `json:"create_group_250_ms"`
	SendP50        float64 `json:"send_p50_ms"`
	SendP99        float64 `json:"send_p99_ms"`
	Sync200        float64 `json:"sync_200_ms"`
	FanOut100P50   float64 `json:"fan_out_100_p50_ms"` // from the call of send to the last of 100 streams
	FanOut100P99   float64 `json:"fan_out_100_p99_ms"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func round(ms float64) float64 { return math.Round(ms*1000) / 1000 }

// at is the value below which a share of the sorted values lies.
func at(sorted []float64, share float64) float64 {
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// runBench measures on a network of its own and prints the figures as JSON.
func runBench(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	w, err := newWorld(ctx, dir)
	if err != nil {
		return err
	}
	defer w.close()
	d, err := newDriver()
	if err != nil {
		return err
	}
	defer d.close()
	f := figures{SDK: sdkVersion()}
	with := args{"url": w.network.xmtpURL()}
	ada, err := newRealMember(ctx, d, "ada", newKey(), with)
	if err != nil {
		return err
	}

	// createGroup of 250: the others are Conclave's installations.
	others := make([]member, 249)
	for i := range others {
		if others[i], err = newGoMember(ctx, w.nats, fmt.Sprint("go", i), newWallet(), ""); err != nil {
			return err
		}
	}
	start := time.Now()
	if _, err = ada.NewGroup(ctx, "250", others...); err != nil {
		return err
	}
	f.CreateGroup250 = milliseconds(time.Since(start))

	// 200 sends, and their sync by another client.
	bob, err := newRealMember(ctx, d, "bob", newKey(), with)
	if err != nil {
		return err
	}
	r, err := ada.NewGroup(ctx, "two", bob)
	if err != nil {
		return err
	}
	if _, err = bob.Rooms(ctx); err != nil {
		return err
	}
	var sends []float64
	for i := range 200 {
		start = time.Now()
		if err = r.Send(ctx, fmt.Sprint("message ", i)); err != nil {
			return err
		}
		sends = append(sends, milliseconds(time.Since(start)))
	}
	slices.Sort(sends)
	f.SendP50, f.SendP99 = at(sends, 0.5), at(sends, 0.99)
	theirs, err := bob.Room(ctx, r.ID())
	if err != nil {
		return err
	}
	start = time.Now()
	if err = theirs.(*realRoom).call(ctx, "sync", nil, nil); err != nil {
		return err
	}
	f.Sync200 = milliseconds(time.Since(start))

	if err = fanOut(ctx, d, ada, with, &f); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(f)
}

// fanOut has 100 clients stream one group, and one send to it.
func fanOut(ctx context.Context, d *driver, from *realMember, with args, f *figures) error {
	readers, names := make([]member, 100), make([]string, 100)
	for i := range readers {
		m, err := newRealMember(ctx, d, fmt.Sprint("reader", i), newKey(), with)
		if err != nil {
			return err
		}
		readers[i], names[i] = m, m.name
	}
	r, err := from.NewGroup(ctx, "fan-out", readers...)
	if err != nil {
		return err
	}
	for _, m := range readers {
		if _, err := m.Rooms(ctx); err != nil {
			return err
		}
		if err := m.(*realMember).call(ctx, "stream", reopen, nil); err != nil {
			return err
		}
	}
	var took []float64
	for i := range 50 {
		var ms float64
		if err := r.(*realRoom).call(ctx, "race", args{"readers": names, "text": fmt.Sprint("fan-out ", i)}, &ms); err != nil {
			return err
		}
		took = append(took, ms)
	}
	slices.Sort(took)
	f.FanOut100P50, f.FanOut100P99 = round(at(took, 0.5)), round(at(took, 0.99))
	return nil
}
