package group

import (
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// Load restores a replica from its rows. It sends nothing before the log was
// read to its end: what it sent before the rows were last saved may be there,
// and no key is ever used twice.
func Load(env Env, rows RowReader) (*Replica, Effects, error) {
	s := &step{Replica: Replica{env: env.withDefaults()}}
	meta, err := rows.Get(TableMeta, nil, nil)
	if err != nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w", err)
	}
	if meta == nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w: no meta row", ErrCorrupt)
	}
	if err := s.decodeMeta(meta); err != nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w", err)
	}
	s.group, err = mls.Restore(s.env.Realm, s.env.Signer, func(kind mls.RowKind, key, secret []byte) ([]byte, error) {
		return rows.Get(tableOf(kind), key, secret)
	}, func(kind mls.RowKind) (keys [][]byte, err error) {
		err = rows.Scan(tableOf(kind), nil, func(key, _ []byte) bool {
			keys = append(keys, slices.Clone(key))
			return true
		})
		return keys, err
	})
	if err != nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w", err)
	}
	s.saved, s.turns = s.group, 1 // what was sealed before has turn 0
	if s.meta, err = s.decode(s.group.Extensions()); err != nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w", err)
	}
	if s.kind == 0 { // the rows are of a version that did not keep it
		s.kind, s.dm, s.dirt = s.meta.Kind, s.meta.DM, true
	}
	if s.standing == Revoked && s.revoked == 0 { // of rows that did not keep since when
		s.revoked, s.dirt = s.meta.Members[s.env.Inbox]+1, true
	}
	if err := errors.Join(s.loadKeys(rows), s.loadCursor(rows), s.loadIntents(rows), s.loadStrays(rows), s.useAgain(rows)); err != nil {
		return nil, Effects{}, fmt.Errorf("group: load: %w", err)
	}
	if s.lostFrom() >= 0 {
		if err := s.loadRefused(rows); err != nil {
			return nil, Effects{}, fmt.Errorf("group: load: %w", err)
		}
	}
	if !s.group.Active() {
		s.met(wasTakenOut, "") // where the rows are of a version that did not keep it
	}
	if s.last != nil {
		if s.meta, err = s.decode(s.last); err != nil {
			return nil, Effects{}, fmt.Errorf("group: load: %w", err)
		}
	}
	s.met(wasLoaded, "") // whatever it waited for is asked for again
	if s.lostFrom() >= 0 {
		s.met(commitsLost, "the log lost a commit, which was applied")
	}
	s.pauseBelow(s.meta)
	if s.group.Active() {
		s.read()
	}
	s.reopen()
	s.finish()
	r := s.Replica
	return &r, s.fx, nil
}

// loadKeys reads the storage secrets of the epochs that messages open in.
func (r *Replica) loadKeys(rows RowReader) error {
	var err error
	scan := rows.ScanBack(TableStorage, nil, func(key, value []byte) bool {
		d := rowReader(value, storageFormat)
		k := epochKey{epoch: rowNumber(key, d), secret: slices.Clone(d.take(32))}
		if err = d.end(); err != nil {
			return false
		}
		r.keys = append(r.keys, k)
		return len(r.keys) <= pastEpochs
	})
	slices.Reverse(r.keys)
	return errors.Join(scan, err)
}

// loadCursor reads where the cursor is: at the newest message, of those that the
// log has not lost since.
func (r *Replica) loadCursor(rows RowReader) error {
	var err error
	r.known = map[mark]bool{}
	saved := r.cursor
	var links []link // read since the meta row was saved
	scan := rows.ScanBack(TableMessage, nil, func(key, value []byte) bool {
		var m index
		if m, err = decodeIndex(key, value); err != nil {
			return false
		}
		at := m.Position.ID
		switch {
		case m.rewinds == r.rewinds:
			r.cursor = max(r.cursor, at)
			if at > saved {
				links = append(links, link{at, m.mark, m.Kind == ApplicationMessage})
			}
		case at > saved && m.Kind == ApplicationMessage:
			r.known[m.mark] = true // the log lost it, and may have it again
		}
		return at > saved
	})
	for _, l := range slices.Backward(links) {
		if l.mark == (mark{}) { // of an older version: the chain begins behind it
			r.chain.base, r.chain.links = l.id, nil
			continue
		}
		r.chain.add(l, r.chain.at) // or later
	}
	return errors.Join(scan, err)
}

// loadIntents reads what was on its way.
func (r *Replica) loadIntents(rows RowReader) error {
	var err error
	load := func(t Table, decode func(uint64, []byte) (*intent, error)) error {
		scan := rows.Scan(t, nil, func(key, value []byte) bool {
			d := &rowDecoder{}
			id := rowNumber(key, d)
			var it *intent
			if err = d.err; err == nil {
				it, err = decode(id, value)
			}
			if err != nil {
				return false
			}
			r.next = max(r.next, id)
			r.intents = append(r.intents, it)
			return true
		})
		return errors.Join(scan, err)
	}
	if err := errors.Join(load(TableDraft, r.decodeDraft), load(TableIntent, decodeIntent)); err != nil {
		return err
	}
	slices.SortFunc(r.intents, func(a, b *intent) int { return int(a.id) - int(b.id) })
	for _, it := range r.intents {
		switch it.state {
		case stateSealed, stateUnsettled, stateWelcoming, stateFailed:
			row, err := rows.Get(TableSealed, keyOf(it.id), nil)
			if err != nil {
				return err
			}
			if row == nil && it.state == stateFailed {
				continue // it never had bytes
			}
			if it.sealed, err = decodeSealed(row, !it.isSend()); err != nil {
				return err
			}
		case stateFetching:
			it.state = statePlanned
		case statePlanned:
		default:
			return fmt.Errorf("%w: intent state %d", ErrCorrupt, it.state)
		}
	}
	return nil
}

// reopen picks up what was on its way: whether it arrived is unknown.
func (s *step) reopen() {
	for _, it := range s.intents {
		switch it.state {
		case stateSealed, stateUnsettled:
			s.change(it, func(it *intent) { it.state, it.mark = stateUnsettled, s.marks })
		case stateWelcoming:
			s.sendWelcomes(it) // whom it added is a member, even if it is one no more
		}
	}
	if !s.putBack.Equal(s.env.PutBack) {
		s.putBack, s.owesKeyUpdate, s.dirt = s.env.PutBack, true, true
	}
	if s.owesKeyUpdate && s.group.Active() {
		s.mend()
	}
}

// mend puts a key update before everything else that is to be sent.
func (s *step) mend() {
	s.owesKeyUpdate, s.dirt = true, true
	at := slices.IndexFunc(s.intents, (*intent).isKeyUpdate)
	if at < 0 {
		at = len(s.intents)
		submitted := s.fx.Intent
		s.saveIntent(s.begin(KeyUpdate{}))
		s.fx.Intent = submitted // it is no command
	}
	s.intents = slices.Concat(s.intents[at:at+1], s.intents[:at], s.intents[at+1:])
}

// rowNumber reads the key of a numbered row.
func rowNumber(key []byte, d *rowDecoder) uint64 {
	if len(key) != 8 {
		d.fail("key is no number")
		return 0
	}
	var n uint64
	for _, c := range key {
		n = n<<8 | uint64(c)
	}
	return n
}
