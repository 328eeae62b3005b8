package group

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"
)

// A log that was put back may have grown again beyond a replica's cursor before
// the replica looks. So each replica keeps a chain of the last envelopes that it
// read, and compares it with the log whenever it was away: the first read begins
// at the chain's beginning. Where the two differ it asks to go Back to the last
// envelope that both have. Where they have none in common the chain is laid anew
// from older messages, twice as long each time, down to where this membership
// began.

// chainKept is how many envelopes the chain has.
const chainKept = 16

// leastKept is how long every log keeps messages. What was newer than that is
// not gone by age.
const leastKept = 24 * time.Hour

// A mark tells envelopes apart: the beginning of their hash.
type mark [8]byte

func markOf(hash [32]byte) mark { return mark(hash[:8]) }

// A link is one envelope that was read.
type link struct {
	id      uint64
	mark    mark
	message bool // not on the commits topic: the log may forget it in time
}

// A chain is the links above base, in the order of the log.
type chain struct {
	base  uint64    // ID of the envelope before the first link
	at    time.Time // when the log had the last link, or before that
	links []link
}

// add appends a link, which the log had at a time.
func (c *chain) add(l link, at time.Time) {
	if n := len(c.links); n > 0 && c.links[n-1].id >= l.id {
		return
	}
	c.links, c.at = append(c.links, l), at
	if len(c.links) > chainKept {
		c.base, c.links = c.links[0].id, c.links[len(c.links)-chainKept:]
	}
}

// cut takes away what lies beyond an ID.
func (c *chain) cut(end uint64) {
	n, _ := slices.BinarySearchFunc(c.links, end+1, func(l link, id uint64) int {
		return int(int64(l.id) - int64(id))
	})
	c.links = slices.Clip(c.links[:n])
	c.base = min(c.base, end)
}

// A comparison of the chain with the log.
type comparison struct {
	done   bool
	failed bool   // they differ: nothing is taken before the replica was told to go back
	next   int    // the first link that was not looked at
	agreed uint64 // ID of the last link that the log has
	sure   uint64 // the same, before the first message that the log does not have
	gone   bool   // there is such a message
	depth  int    // how often the chain was laid anew
}

// ReadFrom returns the ID after which the log is read next: the cursor, or
// before it where what was read is to be compared, the commit that added this
// member was not seen yet, or the log is looked at for a loss.
func (r *Replica) ReadFrom() uint64 {
	switch {
	case r.survey.from > 0:
		return r.survey.from - 1
	case r.check.done:
		return r.cursor
	case r.unseen():
		return r.joined - min(r.joined, idStep)
	case len(r.chain.links) == 0:
		return r.cursor
	}
	return r.chain.base
}

// hashOfDelivered is the hash of what was delivered, whether it decodes or not.
func hashOfDelivered(d Delivered) [32]byte {
	if d.Message != nil {
		return d.Message.Hash()
	}
	return sha256.Sum256(d.Data)
}

// compare looks at the links up to a delivery. It reports false where the log is
// not the one that was read.
func (s *step) compare(d Delivered) bool {
	c := &s.check
	for !c.done && c.next < len(s.chain.links) {
		switch l := s.chain.links[c.next]; {
		case l.id > d.ID && s.isNew(d.ID):
			return s.disagree(c.agreed)
		case l.id <= d.After && l.id != d.ID || l.id > d.ID:
			return true // this delivery says nothing of it
		case l.id == d.ID:
			if l.mark != markOf(hashOfDelivered(d)) {
				return s.disagree(c.agreed)
			}
			c.agreed = l.id
			c.next++
			return true
		case !s.absent(l):
			return false
		}
	}
	switch {
	case c.done || c.next < len(s.chain.links):
	case d.ID > s.cursor && !s.unseen():
		return s.compared(d.Time)
	case d.ID <= s.cursor && c.next > 0 && s.isNew(d.ID):
		return s.disagree(c.agreed) // behind the last link there was nothing
	}
	return true
}

// comparing reports whether some of what was read is still to be compared: what
// comes behind it is not taken before that.
func (r *Replica) comparing() bool { return !r.check.done && r.check.next < len(r.chain.links) }

// isNew reports whether the log has an envelope between two links where nothing
// was when it was read. A chain that was laid anew has not all that was read.
func (s *step) isNew(id uint64) bool {
	return s.check.depth == 0 && id > max(s.chain.base, s.check.agreed) &&
		!slices.ContainsFunc(s.chain.links, func(l link) bool { return l.id == id })
}

// absent: the log does not have a link any more. Commits are kept for ever.
func (s *step) absent(l link) bool {
	c := &s.check
	if !l.message {
		return s.disagree(c.agreed)
	}
	if !c.gone {
		c.gone, c.sure = true, c.agreed
	}
	c.next++
	return true
}

// compareRest ends a comparison: the log was read to its end.
func (s *step) compareRest(in CaughtUp) bool {
	s.noEntrance()
	for c := &s.check; !c.done && c.next < len(s.chain.links); {
		if l := s.chain.links[c.next]; l.id > in.End {
			return s.disagree(c.agreed)
		} else if !s.absent(l) {
			return false
		}
	}
	return s.check.done || s.compared(in.Now)
}

// compared ends a comparison at a time: messages that are not there may have
// been too old.
func (s *step) compared(now time.Time) bool {
	if s.check.gone && !now.IsZero() && !s.chain.at.IsZero() && now.Sub(s.chain.at) < leastKept {
		return s.disagree(s.check.sure)
	}
	s.check = comparison{done: true}
	return true
}

// disagree: the log is as it was read up to an ID at most, 0 where none of the
// links was there.
func (s *step) disagree(upTo uint64) bool {
	if upTo == 0 {
		upTo = s.chain.base
	}
	s.goBack(upTo)
	return false
}

// goBack asks to be told that the log ends at an ID.
func (s *step) goBack(to uint64) {
	if to < s.cursor {
		s.check.failed, s.fx.Back = true, &to
	}
}

// relay lays the chain anew where a rewind has left none of it, from messages at
// or before the new cursor.
func (s *step) relay(rows RowReader) error {
	depth := s.check.depth
	s.check = comparison{}
	if len(s.chain.links) > 0 || rows == nil || s.cursor <= s.joined {
		return nil
	}
	s.check.depth = depth + 1
	n := chainKept << min(depth, 20)
	s.chain = chain{base: s.joined}
	var failed error
	scan := rows.ScanBack(TableMessage, Position{ID: s.cursor + 1}.key(), func(key, value []byte) bool {
		row, err := decodeIndex(key, value)
		if failed = err; err != nil || row.Position.ID <= s.joined {
			return false
		}
		if row.mark == (mark{}) {
			return true // of an older version
		}
		if len(s.chain.links) == n {
			s.chain.base = row.Position.ID
			return false
		}
		s.chain.links = append(s.chain.links, link{row.Position.ID, row.mark, row.Kind == ApplicationMessage})
		return true
	})
	slices.Reverse(s.chain.links)
	if len(s.chain.links) == 0 {
		s.chain.base = s.cursor
	}
	return errors.Join(scan, failed)
}

func (c *chain) encode(w *rowWriter) {
	w.uint(c.base)
	w.time(c.at)
	w.uint(uint64(len(c.links)))
	for before, i := c.base, 0; i < len(c.links); i++ {
		l := c.links[i]
		w.uint(l.id - before)
		w.raw(l.mark[:])
		w.bool(l.message)
		before = l.id
	}
}

func (c *chain) decode(d *rowDecoder) {
	c.base, c.at = d.uint(), d.time()
	before := c.base
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		l := link{id: before + d.uint()}
		d.fixed(l.mark[:])
		l.message = d.bool()
		c.links = append(c.links, l)
		before = l.id
	}
}
