package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows phases: bars at a terminal, else a line as each ends.
type progress struct {
	w    io.Writer
	bars *mpb.Progress // nil: lines
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if isTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return p
}

// close lets the bars be drawn for the last time.
func (p *progress) close() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

// A phase counts its steps, from any goroutine.
type phase struct {
	p     *progress
	name  string
	total int
	began time.Time
	n     atomic.Int64
	bar   *mpb.Bar
}

func (p *progress) phase(name string, total int) *phase {
	ph := &phase{p: p, name: name, total: total, began: time.Now()}
	if p.bars != nil {
		ph.bar = p.bars.AddBar(int64(total),
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.CountersNoUnit("%d/%d", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	return ph
}

func (ph *phase) step() {
	ph.n.Add(1)
	if ph.bar != nil {
		ph.bar.Increment()
	}
}

// end is called once, whether the phase came to its end or not, and tells how
// long it took.
func (ph *phase) end() time.Duration {
	took := time.Since(ph.began)
	if ph.bar != nil {
		if int(ph.n.Load()) < ph.total {
			ph.bar.Abort(false)
		}
		return took
	}
	fmt.Fprintf(ph.p.w, "%-16s %6d/%-6d %8s\n", ph.name, ph.n.Load(), ph.total, short(took))
	return took
}

// short is a duration as people read it.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 100*time.Millisecond:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
