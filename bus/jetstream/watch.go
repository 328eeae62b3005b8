package jetstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream/internal/files"
)

// watchEvery is how soon a server that has failed, or a disk with no room left,
// is noticed. It is also how much of a log's end may be missing unseen after a
// crash: what was stored in so long before it.
const watchEvery = 500 * time.Millisecond

// minFree is the room on the disk below which nothing is taken any more. A server
// that finds none in the middle of a write stops, and has to be started again.
const minFree = 1 << 20

// watch keeps the server able to take entries, and says where it is not.
//
//	state   enters                                leaves
//	ready   the server runs and has room          into one of the others
//	full    less than minFree is left             there is room again
//	failed  the server met an error of the disk   the disk can be written: the server is started again
func (e *embedded) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch free, err := freeSpace(e.cfg.Dir); {
		case e.failed.Load() || !e.srv.JetStreamEnabled():
			e.failed.Store(true)
			err := e.restart(ctx)
			e.say(err)
			if errors.Is(err, bus.ErrDamaged) {
				return // until somebody has seen to it
			}
		case err == nil && free < minFree:
			e.say(fmt.Errorf("%w: %d bytes are left on the disk of %s: make room", bus.ErrFull, free, e.cfg.Dir))
		default:
			e.say(nil)
			e.noteEnds()
		}
	}
}

// say notes why nothing is taken, and logs what has changed.
func (e *embedded) say(why error) {
	before := e.why.Swap(&why)
	switch was := before != nil && *before != nil; {
	case why == nil && was:
		e.cfg.Logger.Warn("bus log takes entries again")
	case why != nil && !was:
		e.cfg.Logger.Error("bus log takes nothing", "error", why)
	}
}

// ready is why nothing is taken; nil where something is.
func (e *embedded) ready() error {
	if why := e.why.Load(); why != nil {
		return *why
	}
	return nil
}

// writeFailed hears of the server's lines. It says in no other way that a stream
// takes nothing any more, whoever publishes.
func (e *embedded) writeFailed(format string, v []any) {
	if strings.Contains(format, "Critical write error") {
		e.failed.Store(true)
		e.say(fmt.Errorf("%w: %s", bus.ErrUnavailable, fmt.Sprintf(format, v...)))
	}
}

// restart starts the server anew once the disk can be written again. It returns
// why nothing is taken yet.
func (e *embedded) restart(ctx context.Context) error {
	if err := tryWrite(e.cfg.Dir); err != nil {
		return fmt.Errorf("%w: %s", folderError(err), e.cfg.Dir)
	}
	if free, err := freeSpace(e.cfg.Dir); err == nil && free < minFree {
		return fmt.Errorf("%w: %d bytes are left on the disk of %s: make room", bus.ErrFull, free, e.cfg.Dir)
	}
	e.cfg.Logger.Warn("bus server starts again")
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	ctx = context.WithoutCancel(ctx) // the folder is this one's until it has come to an end
	if err := e.inspect(ctx); err != nil {
		return err
	}
	e.failed.Store(false) // what the new one meets from here on counts
	srv, err := e.launch(ctx, func() {})
	if err == nil {
		e.mu.Lock()
		e.srv = srv
		e.mu.Unlock()
		err = e.accept()
	}
	if err != nil {
		e.failed.Store(true)
	}
	return err
}

// InProcessConn is a connection to the server that runs now.
func (e *embedded) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	srv := e.srv
	e.mu.Unlock()
	return srv.InProcessConn()
}

// noteEnds marks where the streams end.
func (e *embedded) noteEnds() {
	state, err := e.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return // it is on its way down
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
		return
	}
	e.mark.Lost = e.accepted()
	if err := files.WriteMark(e.cfg.Dir, e.mark); err != nil && !errors.Is(err, syscall.ENOSPC) {
		e.cfg.Logger.Warn("mark of the log's end not written", "error", err)
	}
}
