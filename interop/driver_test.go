//go:build interop

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// sdkVersion is the published SDK that is driven.
func sdkVersion() string {
	if v := os.Getenv("CONCLAVE_INTEROP_SDK"); v != "" {
		return v
	}
	return "6.0.0"
}

// A driver is a node process that holds real clients: driver.mjs.
type driver struct {
	process *child
	in      io.WriteCloser
	log     *lastLines

	mu      sync.Mutex
	next    int
	waiting map[int]chan<- answer // by request
	gone    error                 // set when no answer comes any more
}

type request struct {
	ID   int    `json:"id"`
	Op   string `json:"op"`
	Args any    `json:"args"`
}

type answer struct {
	ID    int             `json:"id"`
	OK    json.RawMessage `json:"ok"`
	Error *string         `json:"error"`
}

// newDriver starts node with the SDK that setup.sh installed.
func newDriver() (*driver, error) {
	folder, err := filepath.Abs(filepath.Join(".sdk", sdkVersion()))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(folder, ".complete")); err != nil {
		return nil, fmt.Errorf("the SDK is not installed: run interop/setup.sh %s: %w", sdkVersion(), err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	d := &driver{log: new(lastLines), waiting: map[int]chan<- answer{}}
	cmd := exec.Command(".sdk/node", "driver.mjs", folder)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	cmd.ExtraFiles = []*os.File{write}
	if d.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	d.process, err = spawn(cmd)
	write.Close()
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("start node: %w", err)
	}
	go d.listen(read)
	return d, nil
}

// listen hands each answer to whoever waits for it.
func (d *driver) listen(from io.ReadCloser) {
	defer from.Close()
	answers := json.NewDecoder(bufio.NewReader(from))
	for {
		var a answer
		if err := answers.Decode(&a); err != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.gone = fmt.Errorf("node ended: %w: %s", err, d.log)
			for _, w := range d.waiting {
				close(w)
			}
			return
		}
		d.mu.Lock()
		w := d.waiting[a.ID]
		delete(d.waiting, a.ID)
		d.mu.Unlock()
		if w != nil {
			w <- a
		}
	}
}

// A sdkError is what the SDK threw.
type sdkError struct{ op, text string }

func (e *sdkError) Error() string { return "SDK: " + e.op + ": " + e.text }

type args map[string]any

// call has an operation done and reads its answer into out, where not nil. Calls
// that are made at the same time run at the same time.
func (d *driver) call(ctx context.Context, op string, args args, out any) error {
	answered := make(chan answer, 1)
	d.mu.Lock()
	if d.gone != nil {
		d.mu.Unlock()
		return d.gone
	}
	d.next++
	id := d.next
	d.waiting[id] = answered
	line, err := json.Marshal(request{id, op, args})
	if err == nil {
		_, err = d.in.Write(append(line, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ask node: %s: %w", op, err)
	}
	select {
	case a, ok := <-answered:
		switch {
		case !ok:
			return d.gone
		case a.Error != nil:
			return &sdkError{op, *a.Error}
		case out == nil:
			return nil
		}
		return json.Unmarshal(a.OK, out)
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("SDK: %s did not end", op), ctx.Err())
	}
}

func (d *driver) close() {
	d.in.Close()
	d.process.end(syscall.SIGTERM)
}
