// Package ledger is what a host under chaos writes down of its own acts: each
// line is on disk before the host goes on, so that whatever kills the host, what
// it promised its caller is known.
package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// An Event says what an entry is about.
type Event string

const (
	Tried        Event = "tried"        // a send is about to be asked for
	Acknowledged Event = "acknowledged" // Send returned: ID is the message's
	Published    Event = "published"    // Wait said so
	Failed       Event = "failed"       // Wait said so
	Streaming    Event = "streaming"    // a stream began; Position is the last one that was stored before
	Received     Event = "received"     // the stream yielded it
	Drained      Event = "drained"      // the stream has yielded everything that is stored, up to Position
	Changing     Event = "changing"     // a change of the group is about to be asked for
	Changed      Event = "changed"      // it returned without an error
)

// An Entry is one line. Fields that an event has no use for are left out.
type Entry struct {
	Event    Event     `json:"event"`
	Life     int       `json:"life"` // which process of this host wrote it, counted from 1
	Person   int       `json:"person"`
	Group    string    `json:"group,omitempty"`
	Token    string    `json:"token,omitempty"` // the message's text, of no other message; or what changed
	ID       string    `json:"id,omitempty"`
	Position uint64    `json:"position,omitempty"` // in the log
	At       time.Time `json:"at,omitzero"`        // the log's time of what was received
}

// A Writer appends to one file. Its methods are safe for concurrent use.
type Writer struct {
	file *os.File

	mu      sync.Mutex
	pending []byte        // not written yet
	turn    chan struct{} // closed when pending, as it is now, is on disk or failed
	failed  error
	kick    chan struct{} // holds one token while pending is not empty
	done    chan struct{}
}

// Open opens a ledger for appending, and makes it where it is not there. A last
// line that a crash cut is cut off.
func Open(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	end, err := lastLine(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: %w", err), f.Close())
	}
	w := &Writer{file: f, turn: make(chan struct{}), kick: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// lastLine is where the last whole line of a file ends.
func lastLine(f *os.File) (int64, error) {
	b, err := io.ReadAll(f)
	return int64(bytes.LastIndexByte(b, '\n') + 1), err
}

// Append returns when the entry is on disk. Entries of concurrent callers share
// one sync.
func (w *Writer) Append(e Entry) error {
	turn, err := w.put(e)
	if err != nil {
		return err
	}
	<-turn
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// Note is Append without the wait: the entry follows those before it to disk.
func (w *Writer) Note(e Entry) error {
	_, err := w.put(e)
	return err
}

func (w *Writer) put(e Entry) (turn chan struct{}, err error) {
	line, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return nil, w.failed
	}
	w.pending = append(append(w.pending, line...), '\n')
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return w.turn, nil
}

// run writes what is pending, one sync at a time.
func (w *Writer) run() {
	defer close(w.done)
	for range w.kick {
		w.mu.Lock()
		lines, turn := w.pending, w.turn
		w.pending, w.turn = nil, make(chan struct{})
		w.mu.Unlock()
		_, err := w.file.Write(lines)
		if err == nil {
			err = w.file.Sync()
		}
		if err != nil {
			w.mu.Lock()
			w.failed = fmt.Errorf("ledger: %w", err)
			w.mu.Unlock()
		}
		close(turn)
	}
}

// Close writes what is pending. Nothing may be appended any more.
func (w *Writer) Close() error {
	close(w.kick)
	<-w.done
	return errors.Join(w.failed, w.file.Close())
}

// Read returns what a ledger holds; of one that is not there, nothing. A last
// line that was cut is passed over, any other that is not an entry is an error.
func Read(path string) ([]Entry, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	var entries []Entry
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read ledger: line %d: %w", len(entries)+1, err)
		}
		entries = append(entries, e)
	}
	return entries, lines.Err()
}
