package actors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// plaintext is what the newest message of a group says inside, as a member reads it
// that has not read it yet.
func (w *world) plaintext(reader InstallationID, id GroupID) []byte {
	w.t.Helper()
	published := w.published(id)
	data, err := group.DecodeGroupMessage(published[len(published)-1])
	w.ok(err)
	m, err := (*mls.Realm)(nil).Parse(data)
	w.ok(err)
	content, err := Look(w.ctx, w.sys, reader, id, func(r *group.Replica) mls.Content {
		_, content, err := r.Group().Open(m)
		if err != nil {
			w.t.Error(err)
		}
		return content
	})
	w.ok(err)
	plain, ok := content.(*mls.Application)
	if !ok {
		w.t.Fatal("it has read it already")
	}
	return plain.Data
}

// sealAgain publishes a message once more, as a client does that was not sure:
// sealed anew, under the same id.
func (w *world) sealAgain(sender InstallationID, id GroupID, plain []byte) {
	w.t.Helper()
	data, err := Look(w.ctx, w.sys, sender, id, func(r *group.Replica) []byte {
		_, data, err := r.Group().Seal(w.sys.cfg.Rand, nil, plain)
		if err != nil {
			w.t.Error(err)
		}
		return data
	})
	w.ok(err)
	_, messages := topicsOf(id)
	_, err = w.log.Publish(w.ctx, messages, group.EncodeGroupMessage(data, make([]byte, 32), false))
	w.ok(err)
}

// has checks that a member has a message one time.
func (w *world) has(in InstallationID, id GroupID, text string) {
	w.t.Helper()
	w.sync(in, id)
	n := 0
	for _, have := range w.texts(in, id) {
		if have == text {
			n++
		}
	}
	if n != 1 {
		w.t.Errorf("%.4v has %q %d times", in, text, n)
	}
}

// A message that comes again is recognised however long ago it came, by whoever has
// it: over a restart too, and by a member that reads both copies in one go. Who came
// in between has the second copy. faults.md S9.
func TestMessageIsTakenOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(4)
		id := w.group(p[0], p[1], p[2])
		w.say(p[0], id, "first")
		plain := w.plaintext(p[2], id)
		w.sync(p[1], id)
		for n := range 300 {
			w.say(p[0], id, fmt.Sprint(n))
		}
		w.add(p[0], id, p[3])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[3]))
		w.sync(p[1], id)
		w.restart()
		w.sealAgain(p[0], id, plain)
		for _, m := range p {
			w.has(m, id, "first")
		}
		w.sealAgain(p[0], id, plain)
		for _, m := range p {
			w.has(m, id, "first")
		}
	})
}

// A store that cannot say whether it has a message has not said that it has not.
func TestStoreThatDoesNotAnswerIsNoNo(t *testing.T) {
	var bad atomic.Bool
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1], p[2])
		st := w.stream(p[1])
		w.say(p[0], id, "first")
		plain := w.plaintext(p[2], id)
		w.hears(st, "first")
		w.sys.sightings = newSightings() // nothing is remembered
		bad.Store(true)
		w.sealAgain(p[0], id, plain)
		w.sync(p[0], id) // its own replica has not sealed that copy: it must know the generation as used
		w.say(p[0], id, "second")
		w.hears(st, "second")
		w.reads(p[1], id, "first", "second")
		if w.sys.Restarts() == 0 {
			t.Error("an error of the store was no crash")
		}
	}, func(c *Config) { c.Store = &shaky{c.Store, &bad} })
}

// A shaky store fails the next look for a message by its id.
type shaky struct {
	persistence.Store
	bad *atomic.Bool
}

func (s *shaky) View(ctx context.Context, read func(persistence.Reader) error) error {
	return s.Store.View(ctx, func(r persistence.Reader) error { return read(shakyReader{r, s.bad}) })
}

type shakyReader struct {
	persistence.Reader
	bad *atomic.Bool
}

func (r shakyReader) Scan(prefix, from []byte, yield func(key, value []byte) bool) error {
	if at := 1 + len(persistence.Realm{}) + len(GroupID{}); len(prefix) > at && prefix[0] == 4 && group.Table(prefix[at]) == group.TableText && r.bad.CompareAndSwap(true, false) {
		return errors.New("disk does not answer")
	}
	return r.Reader.Scan(prefix, from, yield)
}

// What a version before stored is recognised too: its bodies lay by position alone,
// and are indexed when the host opens, once.
func TestMessageOfAnOlderStoreIsTakenOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "first")
		plain := w.plaintext(p[1], id)
		w.sync(p[1], id)
		w.asBefore(p[1], id)
		w.restart()
		w.reads(p[1], id, "first")
		w.sealAgain(p[0], id, plain)
		w.has(p[1], id, "first")
		w.restart()
		w.say(p[0], id, "second")
		w.sync(p[1], id)
		w.reads(p[1], id, "first", "second")
	})
}

// asBefore stores a member's history as a version before did.
func (w *world) asBefore(in InstallationID, id GroupID) {
	w.t.Helper()
	member := w.sys.installations[in]
	have := w.sys.rows(w.ctx, member, id)
	var b persistence.Batch
	persistence.HostDelete(&b, hostRowIndexed)
	w.ok(have.Scan(group.TableMessage, nil, func(key, value []byte) bool {
		if value[0] != 3 {
			w.t.Fatalf("the row of a message has format %d", value[0])
		}
		rest := value[1:]
		number := func() uint64 {
			v, size := binary.Uvarint(rest)
			rest = rest[size:]
			return v
		}
		number() // kind
		number() // rewinds
		epoch := number()
		row := append([]byte{1}, value[1:len(value)-len(rest)+32]...)
		rest = rest[32:] // id
		number()         // sender
		number()         // generation
		number()         // era
		rest = rest[8:]  // mark of the envelope
		member.vault.Put(&b, recordType(group.TableMessage), rowSuffix(id, key), append(row, rest...))
		if len(rest) > 0 {
			return true // the body stands in it
		}
		storage, err := have.Get(group.TableStorage, binary.BigEndian.AppendUint64(nil, epoch), nil)
		w.ok(err)
		text, ok := group.TextKey(key)
		if !ok {
			w.t.Fatal("a key of no position")
		}
		body, err := have.Get(group.TableText, text, storage[1:])
		w.ok(err)
		persistence.PutShared(&b, w.sys.space, sharedSuffix(id, group.TableBody, key), [32]byte(storage[1:]), body)
		return true
	}))
	w.ok(persistence.ScanShared(w.ctx, w.cfg.Store, w.sys.space, append(id[:], byte(group.TableText)), nil, func(row persistence.SharedRow) bool {
		row.Delete(&b)
		return true
	}))
	w.ok(w.store.Apply(w.ctx, &b, persistence.Durable))
}
