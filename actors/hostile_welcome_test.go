package actors

import (
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/mls/hpke"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// branch is the MLS state that a member holds of a group, for forging with.
func (w *world) branch(in InstallationID, id GroupID) *mls.Group {
	w.t.Helper()
	i, err := w.sys.installation(in)
	w.ok(err)
	r, _, err := group.Load(i.env, w.sys.rows(w.ctx, i, id))
	w.ok(err)
	return r.Group()
}

// forgeAdd commits alone, removes somebody where it is a member, adds it, and
// returns the Welcome of that.
func (w *world) forgeAdd(g *mls.Group, to InstallationID) []byte {
	w.t.Helper()
	if leaf, ok := g.Find(to[:]); ok {
		s, err := g.Commit(mls.CommitConfig{Rand: rand.Reader, Proposals: []mls.Proposal{mls.Remove{Removed: leaf}}})
		w.ok(err)
		g, err = g.Merge(s)
		w.ok(err)
	}
	k, err := mls.ParseKeyPackage(w.keyPackage(to))
	w.ok(err)
	s, err := g.Commit(mls.CommitConfig{Rand: rand.Reader, Proposals: []mls.Proposal{mls.Add{KeyPackage: k}}})
	w.ok(err)
	return s.Welcome()
}

// forgeWelcome publishes a Welcome with a cursor of its sender's choice.
func (w *world) forgeWelcome(to InstallationID, welcome []byte, cursor uint64) {
	w.t.Helper()
	k, err := mls.ParseKeyPackage(w.keyPackage(to))
	w.ok(err)
	enc, c, err := hpke.Suite{KEM: hpke.X25519, AEAD: hpke.ChaCha20Poly1305}.SetupSender(rand.Reader, k.InitKey, []byte("\x13MLS 1.0 MLS_WELCOME\x00"))
	w.ok(err)
	sealed, err := c.Seal(nil, welcome)
	w.ok(err)
	metadata, err := proto.Marshal(&contents.WelcomeMetadata{MessageCursor: cursor})
	w.ok(err)
	metadata, err = c.Seal(nil, metadata)
	w.ok(err)
	data := append([]byte{byte(len(enc))}, enc...)
	data = append(append(data, 0x80, byte(len(sealed)>>16), byte(len(sealed)>>8), byte(len(sealed))), sealed...)
	if len(sealed) < 1<<14 { // RFC 9420, Section 2.1.2: the shortest form
		data = append(append(append([]byte{byte(len(enc))}, enc...), byte(len(sealed)>>8)|0x40, byte(len(sealed))), sealed...)
	}
	payload, err := proto.Marshal(&mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: to[:], Data: data, HpkePublicKey: k.InitKey, WelcomeMetadata: metadata,
		WrapperAlgorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519,
	}}})
	w.ok(err)
	_, err = w.log.Publish(w.ctx, welcomeTopic(to), payload)
	w.ok(err)
}

// A welcome's cursor is its sender's to choose. One that the log has not come to
// is refused once the log was read; an honest welcome behind it is joined, and
// nobody reads, looks or steps any more afterwards.
func TestWelcomeBeyondTheLog(t *testing.T) {
	for name, cursor := range map[string]uint64{
		"far ahead":         1 << 62,
		"as far as it goes": 1<<64 - 1,
		"not an int64":      1 << 63,
		"one ahead":         uint64(bus.MakeID(1000, 0)),
		"of no shard":       uint64(bus.MakeID(1, 5)),
		"of no shard ahead": uint64(bus.MakeID(1<<40, 63)),
	} {
		for _, to := range []string{"a group that it follows", "a new group"} {
			t.Run(name+", to "+to, func(t *testing.T) {
				inWorld(t, func(w *world) {
					p := w.people(3)
					mallory, bob, carol := p[0], p[1], p[2]
					id := w.group(mallory)
					if to == "a group that it follows" {
						id = w.group(mallory, bob)
					}
					w.forgeWelcome(bob, w.forgeAdd(w.branch(mallory, id), bob), cursor)
					honest := w.group(carol)
					w.add(carol, honest, bob)
					var steps atomic.Int64
					w.failing(func(p Point) error {
						if steps.Add(1) > 2000 {
							panic("a loop")
						}
						return nil
					})
					st := w.stream(bob)
					defer st.Close()
					w.ok(w.sys.SyncWelcomes(w.ctx, bob))
					w.ok(w.sys.knows(w.ctx, bob, honest))
					elapse(time.Hour)
					steps.Store(0)
					elapse(24 * time.Hour)
					if n := steps.Load(); n > 50 {
						t.Errorf("%d steps in a day in which nothing happens", n)
					}
					w.say(carol, honest, "hello")
					w.hears(st, "hello")
				}, func(c *Config) { c.CommitLogEvery = -1 })
			})
		}
	}
}
