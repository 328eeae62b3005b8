package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream/internal/files"
)

// inspect looks at the log's files before the server opens them: what the server
// does with a damaged one is to go on without it.
func (e *embedded) inspect(ctx context.Context) error {
	streams, faults, err := inspect(ctx, e.cfg.Dir)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return damaged(faults)
	}
	if err := files.CutTorn(streams); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	e.mark = files.Mark{Last: map[string]uint64{}}
	for _, s := range streams {
		e.mark.Last[s.Name] = s.Last
	}
	return files.WriteMark(e.cfg.Dir, e.mark)
}

func inspect(ctx context.Context, dir string) (streams []files.Stream, faults []files.Fault, err error) {
	mark := files.ReadMark(dir)
	if streams, err = files.Check(ctx, dir, mark.Clean()); err != nil {
		return nil, nil, fmt.Errorf("jetstream: read log: %w", err)
	}
	for _, s := range streams {
		faults = append(faults, s.Faults...)
	}
	more, err := files.Compare(dir, mark, streams)
	if err != nil {
		return nil, nil, fmt.Errorf("jetstream: read log: %w", err)
	}
	return streams, append(faults, more...), nil
}

// damaged is the error of a log that has lost something.
func damaged(faults []files.Fault) error {
	more := ""
	if n := len(faults) - 1; n > 0 {
		more = fmt.Sprintf(", and %d faults more", n)
	}
	return fmt.Errorf("%w: %w%s: put a backup in its place", bus.ErrDamaged, faults[0], more)
}

// markEvery is how much of a log's end may be missing unseen after a crash: what
// was stored in so long before it.
const markEvery = 500 * time.Millisecond

// keepMark notes where the streams end, until stop is closed.
func (e *embedded) keepMark(stop <-chan struct{}) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if err := e.noteEnds(); err != nil {
			e.cfg.Logger.Warn("mark of the log's end not written", "error", err)
		}
	}
}

func (e *embedded) noteEnds() error {
	e.mu.Lock()
	srv := e.srv
	e.mu.Unlock()
	state, err := srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return err
	}
	moved := false
	for _, account := range state.AccountDetails {
		for _, s := range account.Streams {
			if last := e.mark.Last[s.Name]; s.State.LastSeq > last {
				e.mark.Last[s.Name], moved = s.State.LastSeq, true
			}
		}
	}
	if !moved {
		return nil
	}
	return files.WriteMark(e.cfg.Dir, e.mark)
}

// sealMark notes what the files are now that the server has stopped.
func (e *embedded) sealMark() error {
	mark, err := files.Stopped(e.cfg.Dir, e.mark)
	if err != nil {
		return err
	}
	return files.WriteMark(e.cfg.Dir, mark)
}
