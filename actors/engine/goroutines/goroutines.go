// Package goroutines is an engine on plain goroutines: one runs while a
// mailbox has something to do, and none while it is empty or paused.
//
// It keeps the contract of package engine, and enginetest shows it. It is the
// yardstick for the protoactor engine, and its replacement where that library
// is not wanted.
package goroutines

import (
	"sync"

	"github.com/conclave-chat/conclave/actors/engine"
)

// New returns an engine on goroutines.
func New(config engine.Config) (*engine.Engine, error) {
	return engine.NewOn(scheduler{}, config)
}

type scheduler struct{}

func (scheduler) Spawn(t engine.Turner) engine.Mailbox {
	m := &mailbox{turner: t, state: running}
	go m.run(true)
	return m
}

func (scheduler) Close() {}

type state uint8

const (
	empty   state = iota // nothing to do, no goroutine
	running              // one goroutine runs turns
	paused               // waits for Resume, no goroutine
)

type mailbox struct {
	turner engine.Turner

	mu      sync.Mutex
	queue   []any
	state   state
	resumed bool // Resume came before the turn that pauses had returned
}

func (m *mailbox) Post(msg any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, msg)
	if m.state == empty {
		m.state = running
		go m.run(false)
	}
}

func (m *mailbox) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != paused {
		m.resumed = true
		return
	}
	m.state = running
	go m.run(true)
}

func (m *mailbox) Close() {}

// run runs turns until the mailbox is empty or paused. It takes the whole
// queue at a time, and puts back what a pause leaves.
func (m *mailbox) run(start bool) {
	var batch []any
	for {
		goOn := true
		if start {
			goOn = m.turner.Turn(nil)
		}
		for goOn && len(batch) > 0 {
			goOn = m.turner.Turn(batch[0])
			batch[0], batch = nil, batch[1:]
		}
		m.mu.Lock()
		switch {
		case !goOn && m.resumed:
			m.resumed, start = false, true
		case !goOn:
			m.queue = append(batch, m.queue...)
			m.state = paused
			m.mu.Unlock()
			return
		case len(m.queue) == 0:
			m.state, m.queue = empty, nil
			m.mu.Unlock()
			return
		default:
			batch, m.queue, start = m.queue, nil, false
		}
		m.mu.Unlock()
	}
}
