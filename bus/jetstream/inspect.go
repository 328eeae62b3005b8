package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream/internal/files"
)

// A LogReport is what CheckLog found.
type LogReport struct {
	Streams []LogStream `json:"streams"`
	Faults  []LogFault  `json:"faults"` // of all streams
	mark    files.Mark
}

// A LogStream is what one stream holds, a LogFault one thing that is not as it
// was written.
type (
	LogStream = files.Stream
	LogFault  = files.Fault
)

// Err is bus.ErrDamaged where the log has lost something, with the first fault.
func (r LogReport) Err() error {
	if len(r.Faults) == 0 {
		return nil
	}
	more := ""
	if n := len(r.Faults) - 1; n > 0 {
		more = fmt.Sprintf(", and %d faults more", n)
	}
	return fmt.Errorf("%w: %w%s", bus.ErrDamaged, r.Faults[0], more)
}

// CheckLog reads the log of an embedded server that does not run, every entry of
// it, and changes nothing.
func CheckLog(ctx context.Context, dir string) (_ LogReport, err error) {
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		return LogReport{}, fmt.Errorf("%s holds no log: %w", dir, err)
	}
	lock, err := lockFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		return LogReport{}, fmt.Errorf("%w: %s", folderError(err), dir)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return checkFiles(ctx, dir)
}

func checkFiles(ctx context.Context, dir string) (LogReport, error) {
	r := LogReport{mark: files.ReadMark(dir), Faults: []LogFault{}}
	var err error
	if r.Streams, err = files.Check(ctx, dir, r.mark.Clean()); err != nil {
		return r, fmt.Errorf("jetstream: read log: %w", err)
	}
	for _, s := range r.Streams {
		r.Faults = append(r.Faults, s.Faults...)
	}
	more, err := files.Compare(dir, r.mark, r.Streams)
	if err != nil {
		return r, fmt.Errorf("jetstream: read log: %w", err)
	}
	r.Faults = append(r.Faults, more...)
	return r, nil
}

// inspect looks at the log's files before the server opens them: what the server
// does with a damaged one is to go on without what it cannot read, and mostly
// without all that follows.
func (e *embedded) inspect(ctx context.Context) error {
	r, err := checkFiles(ctx, e.cfg.Dir)
	if err != nil {
		return err
	}
	if damage := r.Err(); damage != nil {
		if !e.cfg.AcceptLoss {
			return fmt.Errorf("%w: put a backup in its place, or accept the loss", damage)
		}
		if r, err = e.repair(ctx, r); err != nil {
			return err
		}
	}
	err = errors.Join(files.CutTorn(r.Streams), files.DropDerived(e.cfg.Dir, r.mark))
	if r.mark.Lost != nil {
		e.lost.Store(&r.mark.Lost)
	}
	e.mark = files.Mark{Last: map[string]uint64{}, Lost: r.mark.Lost}
	for _, s := range r.Streams {
		e.mark.Last[s.Name] = s.Last
	}
	if err = errors.Join(err, files.WriteMark(e.cfg.Dir, e.mark)); err != nil {
		return fmt.Errorf("jetstream: open log: %w", err)
	}
	return nil
}

// repair gives up what is lost, which the operator has accepted. What it changes
// is kept beside the log.
func (e *embedded) repair(ctx context.Context, r LogReport) (LogReport, error) {
	aside := filepath.Join(e.cfg.Dir, "damaged-"+time.Now().UTC().Format("20060102-150405"))
	e.cfg.Logger.Error("loss in the log accepted", "faults", len(r.Faults), "first", r.Faults[0], "kept", aside)
	if err := files.Repair(e.cfg.Dir, aside, r.mark, r.Streams); err != nil {
		return r, fmt.Errorf("jetstream: %w", err)
	}
	lost := maps.Clone(r.mark.Lost)
	if lost == nil {
		lost = map[string]uint64{}
	}
	for _, f := range r.Faults {
		if first := max(f.Sequence, 1); lost[f.Stream] == 0 || first < lost[f.Stream] {
			lost[f.Stream] = first
		}
	}
	streams, err := files.Check(ctx, e.cfg.Dir, false)
	return LogReport{Streams: streams, mark: files.Mark{Lost: lost}}, err
}

// accepted returns, by stream, the first sequence whose loss was accepted and that the
// streams do not tell of yet; nil: there is none.
func (e *embedded) accepted() map[string]uint64 {
	if lost := e.lost.Load(); lost != nil {
		return *lost
	}
	return nil
}

// sealMark notes what the files are now that the server has stopped.
func (e *embedded) sealMark() error {
	e.mark.Lost = e.accepted()
	mark, err := files.Stopped(e.cfg.Dir, e.mark)
	if err != nil {
		return err
	}
	return files.WriteMark(e.cfg.Dir, mark)
}
