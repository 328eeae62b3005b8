package sim

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// A fault is something that goes wrong. Each seed has some of them.
type fault string

const (
	// The bus, sending.
	faultRefused         fault = "refused publishes"               // the bus, or the network, says no
	faultLost            fault = "lost publishes"                  // never stored, no answer
	faultLostAnswer      fault = "lost answers"                    // stored, no answer
	faultLate            fault = "late publishes"                  // no answer, and stored before the log is read for it
	faultStray           fault = "publishes that land long after"  // no answer, and stored when nobody expects it any more
	faultTwice           fault = "double publishes"                // stored twice, beyond the bus's window
	faultNoIDs           fault = "answers without ids"             // the bus does not say which ID it gave
	faultNoCompareAndSet fault = "no compare-and-set"              // every commit gets in
	faultDropped         fault = "dropped deliveries"              // the feed has a gap
	faultTorn            fault = "reads in two requests"           // others publish between the requests of one read
	faultHoles           fault = "holes in the feed"               // the feed passes over envelopes and does not know it
	faultReordered       fault = "reordered deliveries"            // the feed is out of order
	faultRepeated        fault = "repeated deliveries"             // the feed says it again
	faultRewind          fault = "rewinds of the log"              // the log loses its tail
	faultDamage          fault = "damage to the log"               // it loses entries in the middle, and the operator goes on without them
	faultUnnoticed       fault = "rewinds that some do not notice" // a host is away while the log goes back and grows again
	faultWelcomeReplay   fault = "replayed welcomes"               // an old welcome comes again
	faultLateIdentity    fault = "late identities"                 // the identity log is not here yet
	faultIdentity        fault = "identity updates"                // installations come and go
	faultNoKeyPackage    fault = "missing key packages"            // nothing to add an installation with
	faultCrash           fault = "crashes of an actor"             // between any two steps
	faultCrashAfterSave  fault = "crashes between save and send"   //
	faultSaveFails       fault = "failed saves"                    // the store says no
	faultReadFails       fault = "failed reads of the store"       // while a step runs
	faultPowerCut        fault = "power cuts"                      // un-synced writes are lost, but for a prefix
	faultRollback        fault = "restored backups"                // a store is older than it was
	faultCopy            fault = "copies of a store"               // one that was made earlier is opened, and nobody says so
	faultJunk            fault = "junk on the log"                 // bytes of no meaning, or bent ones
	faultReplay          fault = "replayed envelopes"              // an old envelope on either topic
	faultForged          fault = "forged commits"                  // a member breaks the rules
	faultRemovedSends    fault = "messages of removed members"
	faultUnread          fault = "additions that a sender has not read" // what it sends stands behind them
	faultStorm           fault = "commit storms"                        // everybody commits in one epoch
	faultFlood           fault = "floods"                               // hundreds of messages between one thing and the next
	faultBadCommand      fault = "impossible commands"
	faultInsider         fault = "an insider" // Options.Attack; no seed has it by itself
)

var allFaults = []fault{
	faultRefused, faultLost, faultLostAnswer, faultLate, faultTwice, faultNoIDs, faultNoCompareAndSet,
	faultDropped, faultReordered, faultRepeated, faultRewind, faultWelcomeReplay, faultLateIdentity,
	faultIdentity, faultNoKeyPackage, faultCrash, faultCrashAfterSave, faultSaveFails, faultPowerCut,
	faultRollback, faultJunk, faultReplay, faultForged, faultRemovedSends, faultStorm, faultBadCommand,
	faultCopy, faultUnnoticed, faultTorn, faultDamage, faultStray, faultUnread, faultHoles, faultReadFails, faultFlood,
}

// pending are faults that the code is not up to yet (docs/faults.md says what they
// break). A seed has them only where a test asks for them.
var pending = []fault{faultDamage}

// rare says one in how many worlds has a fault, where it is not one in three.
var rare = map[fault]int{
	faultRewind:    10, // they excuse much
	faultRollback:  10,
	faultCopy:      10,
	faultUnnoticed: 10,
	faultDamage:    10,
	faultFlood:     12, // it takes long
}

func (w *world) has(f fault) bool { return w.faults[f] }

// hit decides whether a fault happens now.
func (w *world) hit(f fault, n, of int) bool {
	if w.calm || !w.faults[f] || !w.chance(n, of) {
		return false
	}
	w.counted(f)
	return true
}

func (w *world) counted(f fault) {
	w.counters[string(f)]++
	w.tell("fault: %s", f)
}

// crash takes an actor down.
func (s *seat) crash() bool {
	if s.replica == nil {
		return false
	}
	s.drop()
	return true
}

// down takes all of a host's replicas down.
func (h *host) down() {
	for _, home := range h.homes {
		if home.host == h {
			for _, s := range home.seats {
				s.drop()
			}
		}
	}
}

// powerCut loses what a host's disk has not got, but for a prefix of it.
func (s *seat) powerCut() bool {
	s.store.Crash(func(unsynced int) int {
		s.tell("host %d: power cut with %d batches in the air", s.host.index, unsynced)
		if unsynced > 0 {
			s.counters["power cuts that lost something"]++
		}
		return s.rand.IntN(unsynced + 1)
	})
	s.host.down()
	for _, home := range s.homes {
		if home.host == s.host {
			for _, t := range home.seats {
				t.rows = true // wake looks
			}
		}
	}
	return true
}

// rollback puts a host's store back to a backup of it, or makes one.
func (s *seat) rollback() bool {
	if s.backup == nil {
		s.saveBackup()
		return false
	}
	s.tell("host %d: store restored", s.host.index)
	s.restoreBackup()
	s.host.putBack = later(s.host.putBack, s.now)
	return true
}

// openCopy goes on with a copy of a host's store that was made earlier, or makes
// one. The store has no mark beside it that says so, and the first one is gone.
func (s *seat) openCopy() bool {
	if s.backup == nil {
		s.saveBackup()
		return false
	}
	s.tell("host %d: a copy of its store is opened", s.host.index)
	s.restoreBackup()
	return true
}

// junk writes something that means nothing, or once meant something.
func (s *seat) junk() bool {
	payload := make([]byte, s.rand.IntN(300))
	for i := range payload {
		payload[i] = byte(s.rand.Uint32())
	}
	if old := s.anyEnvelope(); len(old) > 0 && s.chance(2, 3) {
		payload = append([]byte(nil), old...)
		if s.chance(1, 2) {
			payload[s.rand.IntN(len(payload))] ^= 1 << s.rand.IntN(8)
		} else {
			payload = payload[:s.rand.IntN(len(payload))]
		}
		if data, err := group.DecodeGroupMessage(payload); err == nil && s.truth.sent[sha256.Sum256(data)] != nil {
			return false // what was bent is around the message
		}
	}
	s.mustPublish(s.anyTopic(), payload)
	return true
}

// beyondWindow is a time after which the bus takes the same bytes once more.
const beyondWindow = 2 * time.Minute

// replay writes an old envelope again, on either topic.
func (s *seat) replay() bool {
	old := s.anyEnvelope()
	if old == nil {
		return false
	}
	s.wait(beyondWindow)
	s.mustPublish(s.anyTopic(), old)
	return true
}

func (s *seat) anyTopic() group.Topic { return group.TopicCommits + group.Topic(s.rand.IntN(2)) }

// anyEnvelope picks one from the group's log.
func (s *seat) anyEnvelope() []byte {
	envelopes := s.truth.log()
	if len(envelopes) == 0 {
		return nil
	}
	return envelopes[s.rand.IntN(len(envelopes))].Payload
}

func (s *seat) mustPublish(t group.Topic, payload []byte) {
	ack, err := s.publish(t, s.truth.id, payload)
	s.must(err)
	s.tell("%s: envelope %d", s.name, ack.ID)
}

// replayWelcome sends an installation a welcome that it has had.
func (s *seat) replayWelcome() bool {
	topic, err := bus.WelcomesFor(s.signer.Public())
	s.must(err)
	envelopes, err := s.bus.Read(ctx, 0, 100, topic)
	s.must(err)
	if len(envelopes) == 0 {
		return false
	}
	s.wait(beyondWindow)
	_, err = s.bus.Publish(ctx, topic, envelopes[s.rand.IntN(len(envelopes))].Payload)
	s.must(err)
	return true
}

// hide takes a key package away, or brings it back.
func (s *seat) hide() bool {
	s.home.hidden = !s.home.hidden
	return s.home.hidden
}

// storm lets every member commit before anybody has read anything.
func (s *seat) storm() bool {
	n := 0
	for _, h := range s.homes {
		t := h.seats[s.truth.index]
		if !t.ready() || !t.replica.Active() || t.busy() {
			continue
		}
		s.sends++
		var in group.Input = group.KeyUpdate{}
		if s.chance(1, 2) {
			in = group.UpdateMetadata{Field: group.AttributeName, Value: fmt.Sprintf("name %d", s.sends)}
		}
		if t.submit(in) {
			n++
		}
	}
	return n > 1
}

// badCommand asks for what cannot be.
func (s *seat) badCommand() bool {
	if !s.ready() {
		return false
	}
	stranger := sha256.Sum256([]byte("stranger"))
	nobody := fmt.Sprintf("%x", stranger)
	bad := []group.Input{
		group.Send{Content: make([]byte, 3<<20), Now: s.now},
		group.Send{Key: "\xff", Content: []byte("x"), Now: s.now},
		group.Retry{Message: stranger, Now: s.now},
		group.AddMembers{},
		group.AddMembers{Inboxes: []string{"not hex"}},
		group.RemoveMembers{Inboxes: []string{nobody}},
		group.RemoveMembers{Inboxes: []string{s.person.inbox}},
		group.UpdateMetadata{Field: group.AttributeName, Value: string(make([]byte, 5000))},
		group.UpdateMetadata{Field: ""},
		group.UpdatePermissions{},
		group.UpdateAdmins{Inbox: nobody, Change: group.AddAdmin},
		group.UpdateAdmins{Inbox: s.person.inbox, Change: 99},
		nil,
	}
	in := bad[s.rand.IntN(len(bad))]
	before := s.host.digest()
	if s.submit(in) {
		s.fail("I10", "%s: %#v was not declined", s.name, in)
	}
	if s.host.digest() != before {
		s.fail("I10", "%s: %#v was declined and changed the store", s.name, in)
	}
	return true
}
