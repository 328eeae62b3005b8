package group

import (
	"bytes"
	"errors"
	"fmt"
)

// A log can go backwards: a machine loses its power, a backup is restored. What
// it lost is still in the stores of those who read or sent it. Everybody then
// offers again what is its own; nobody skips anything.

// A reoffer is the last own commit, published once more as it was.
type reoffer struct{}

func (reoffer) input() {}

// rewound puts the cursor back to the log's end and queues what of ours is
// beyond it: messages to be sealed again under the same ids, and the last own
// commit as it was. A commit of somebody else that was applied and is gone
// stops this replica until it comes again: by itself it is alone in its epoch.
func (s *step) rewound(in Rewound) error {
	if s.waiting != nil && s.waiting.ID > in.End {
		s.waiting = nil // the log does not hold it any more
		s.met(inputCame, "")
		s.read()
	}
	if !s.group.Active() {
		return nil
	}
	if in.End >= s.cursor {
		// What was read is still there. What was only acknowledged may be gone.
		for _, it := range s.intents {
			if it.state == stateSealed && it.acked > in.End {
				s.unsettle(it.id)
			}
		}
		return nil
	}
	s.rewinds++
	s.cursor, s.lastCommit, s.dirt = in.End, min(s.lastCommit, in.End), true
	s.caughtUp, s.waiting = false, nil
	s.saveRatchets() // what is read from here on is behind them
	s.read()
	for _, it := range s.intents {
		if it.inFlight() {
			s.change(it, func(it *intent) { it.state, it.acked, it.mark = stateUnsettled, 0, s.marks })
		}
	}
	if in.Rows != nil {
		if err := s.offerAgain(in.End, in.Rows); err != nil {
			return fmt.Errorf("group: rewind: %w", err)
		}
	}
	if s.applied > in.End {
		s.met(commitsLost, "the log lost commit %d, which was applied", s.applied)
	}
	return nil
}

// offerAgain queues what of ours lies beyond the end of the log.
func (s *step) offerAgain(end uint64, rows RowReader) error {
	var own []Message
	var failed error
	secrets := map[uint64][]byte{}
	installation := s.env.installation()
	scan := rows.Scan(TableMessage, Position{ID: end + 1}.key(), func(key, value []byte) bool {
		var m Message
		if m, failed = readMessage(rows, secrets, key, value); failed != nil {
			return false
		}
		if m.Kind == ApplicationMessage && bytes.Equal(m.Installation, installation) {
			own = append(own, m)
		}
		return true
	})
	if err := errors.Join(scan, failed); err != nil {
		return err
	}
	if s.keptAt > end {
		row, err := rows.Get(TableSealed, keyOf(s.kept), nil)
		if err != nil {
			return err
		}
		envelope, err := decodeSealed(row, true)
		if err != nil {
			return err
		}
		it := s.begin(reoffer{})
		it = s.change(it, func(it *intent) { it.state, it.sealed, it.mark = stateUnsettled, envelope, s.marks })
		s.saveSealed(it)
		s.saveIntent(it)
	}
	for _, m := range own {
		it := s.begin(Send{Key: m.Key, Content: m.Content, Now: m.Time})
		it = s.change(it, func(it *intent) { it.message, it.again = m.ID, true })
		s.saveIntent(it)
	}
	s.fx.Intent = 0 // these are no wishes
	return nil
}

// keep holds on to the bytes of an own commit that was applied, without its
// secrets, in the place of the one before.
func (s *step) keep(it *intent) {
	// A row of its own: the intent may still have welcomes to send, or commits to make.
	row := it.id | 1<<63
	if s.kept != 0 && s.kept != row {
		s.delete(TableSealed, keyOf(s.kept))
	}
	s.kept, s.keptAt, s.dirt = row, s.applied, true
	bare := *it
	bare.id = s.kept
	bare.sealed = &sealed{epoch: it.sealed.epoch, hash: it.sealed.hash, payload: it.sealed.payload}
	s.saveSealed(&bare)
}

// offeredAgain: the commit that led to this epoch is in the log once more.
func (s *step) offeredAgain(d Delivered) {
	s.applied = d.ID
	s.met(commitsFound, "")
	if it := s.outstanding(s.commit); it != nil {
		s.keptAt = d.ID
		s.drop(it)
	}
	s.advance(d)
}
