package group_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// two is a world in which alice and bob share a group.
func two(t testing.TB) (*world, *home, *home) {
	w := newWorld(t)
	w.run(words("people alice bob"))
	w.run(words("create alice default club"))
	w.run(words("add alice bob"))
	w.sync(w.order)
	return w, w.homes["alice"], w.homes["bob"]
}

// digest is everything a replica would show or save.
func (h *home) digest() string {
	m := h.replica.Metadata()
	return fmt.Sprint(h.replica.Epoch(), h.replica.Cursor(), h.replica.Stalled(), h.replica.Pending(),
		m.Attributes, m.Members, len(h.replica.Drafts()), h.rows)
}

// TestErrorsChangeNothing: a command that is refused leaves replica and store as
// they were. S26, S44; S11 at the limit, one below and one above.
func TestErrorsChangeNothing(t *testing.T) {
	w, alice, bob := two(t)
	big := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	alice.limits = group.Limits{PayloadBytes: 4096, Members: 2}
	alice.crash()
	alice.deliver()
	const most = 4096 - 512
	stranger := w.install("carol", "carol").inbox.id
	for _, c := range []struct {
		name string
		who  *home
		in   group.Input
		want error
	}{
		{"message over the limit", alice, group.Send{Content: big(most), Key: "k", Now: w.now}, group.ErrTooLarge},
		{"key is not UTF-8", alice, group.Send{Key: "\xff", Now: w.now}, group.ErrInvalid},
		{"no failed message", alice, group.Retry{}, group.ErrNoMessage},
		{"one too many", alice, group.AddMembers{Inboxes: []string{stranger}}, group.ErrGroupFull},
		{"nobody named", alice, group.AddMembers{}, group.ErrInvalid},
		{"no inbox id", alice, group.AddMembers{Inboxes: []string{"*"}}, group.ErrInvalid},
		{"not a member", alice, group.RemoveMembers{Inboxes: []string{stranger}}, group.ErrNotMember},
		{"itself", alice, group.RemoveMembers{Inboxes: []string{alice.inbox.id}}, group.ErrInvalid},
		{"long name", alice, group.UpdateMetadata{Field: group.AttributeName, Value: string(big(101))}, group.ErrTooLarge},
		{"no field", alice, group.UpdateMetadata{}, group.ErrInvalid},
		{"hidden field", bob, group.UpdateMetadata{Field: "_x", Value: "y"}, group.ErrForbidden},
		{"policy without a kind", alice, group.UpdatePermissions{}, group.ErrInvalid},
		{"last super admin", alice, group.UpdateAdmins{Inbox: alice.inbox.id, Change: group.RemoveSuperAdmin}, group.ErrForbidden},
		{"admin for a stranger", alice, group.UpdateAdmins{Inbox: stranger, Change: group.AddAdmin}, group.ErrNotMember},
		{"no such change", alice, group.UpdateAdmins{Inbox: bob.inbox.id}, group.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.who.digest()
			fx, err := c.who.replica.Step(c.in)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if len(fx.Save)+len(fx.Send)+len(fx.Emit) > 0 || c.who.digest() != before {
				t.Error("something changed")
			}
		})
	}
	var full *group.GroupFullError
	if _, err := alice.replica.Step(group.AddMembers{Inboxes: []string{stranger}}); !errors.As(err, &full) || full.Limit != 2 {
		t.Errorf("error %v does not name the limit", err)
	}
	for _, n := range []int{most - 2, most - 1} {
		alice.step(group.Send{Content: big(n), Key: "k", Now: w.now})
		for _, o := range alice.outbox {
			if len(o.Payload) > 4096 {
				t.Errorf("content of %d bytes makes an envelope of %d", n, len(o.Payload))
			}
		}
	}
}

// TestGapIsSeen: an envelope that does not follow what was read asks for the
// log instead of being applied. R3, R13.
func TestGapIsSeen(t *testing.T) {
	w, alice, bob := two(t)
	for _, text := range []string{"one", "two"} {
		alice.step(group.Send{Content: []byte(text), Now: w.tick()})
		alice.send("")
	}
	first, second := w.log[len(w.log)-2], w.log[len(w.log)-1]
	d := delivery(second)
	d.After = first.id
	fx, err := bob.replica.Step(d)
	if err != nil || fx.Read == 0 || len(fx.Emit) > 0 || bob.replica.Cursor() >= second.id {
		t.Fatalf("gap not seen: %+v, %v", fx, err)
	}
	bob.carry(fx)
	bob.deliver()
	alice.deliver()
	w.out.Reset()
	w.run(words("same alice bob"))
	list, err := group.History(bob.reader(), group.HistoryQuery{Limit: 2, Newest: true})
	if err != nil || len(list) != 2 || string(list[0].Content) != "two" || string(list[1].Content) != "one" {
		t.Errorf("history %v, %v", list, err)
	}
}

// TestHistoryPages: a page begins where the last one ended. S42
func TestHistoryPages(t *testing.T) {
	w, alice, _ := two(t)
	for i := range 5 {
		alice.step(group.Send{Content: fmt.Append(nil, i), Now: w.tick()})
	}
	w.sync(w.order)
	all, err := group.History(alice.reader(), group.HistoryQuery{})
	if err != nil || len(all) != 6 {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	var paged []group.Message
	for q := (group.HistoryQuery{Limit: 2}); ; q.After = paged[len(paged)-1].Position {
		page, err := group.History(alice.reader(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	if fmt.Sprint(paged) != fmt.Sprint(all) {
		t.Error("pages differ from the whole")
	}
	some, err := group.History(alice.reader(), group.HistoryQuery{After: all[1].Position, Before: all[4].Position})
	if err != nil || len(some) != 2 || some[0].ID != all[2].ID {
		t.Errorf("between: %v, %v", some, err)
	}
}

// TestNothingIsSentBeforeTheLogIsRead: after loading, a key could have been
// used by what the store does not know. I8
func TestNothingIsSentBeforeTheLogIsRead(t *testing.T) {
	w, alice, _ := two(t)
	alice.crash()
	alice.step(group.Send{Content: []byte("early"), Now: w.tick()})
	if len(alice.outbox) > 0 {
		t.Fatal("sent before catching up")
	}
	alice.step(group.CaughtUp{End: w.lastID, Mark: alice.read - 1})
	if len(alice.outbox) > 0 {
		t.Fatal("sent after an older read")
	}
	alice.deliver()
	if len(alice.outbox) != 1 {
		t.Fatal("not sent after catching up")
	}
}

// TestStoredSecretsOpenOnlyTheirEpoch: a removed member's store cannot read
// what the others wrote after it. I6
func TestStoredSecretsOpenOnlyTheirEpoch(t *testing.T) {
	w, _, bob := two(t)
	w.run(words("remove alice bob"))
	w.sync(w.order)
	w.run(words(`send alice "after bob"`))
	w.sync(w.order)
	for key, row := range w.bodies[group.TableText] {
		if !bytes.Contains(row.Value, []byte("after bob")) {
			continue
		}
		for _, secret := range bob.rows[group.TableStorage] {
			if bytes.Contains(secret, row.Secret) {
				t.Errorf("bob can open body %x", key)
			}
		}
	}
}

// TestRemovedStaysRemovedAfterLoading. S44
func TestRemovedStaysRemovedAfterLoading(t *testing.T) {
	w, _, bob := two(t)
	w.run(words("remove alice bob"))
	w.sync(w.order)
	bob.crash()
	if bob.replica.Active() {
		t.Error("active again")
	}
	if _, err := bob.replica.Step(group.Send{Content: []byte("x"), Now: w.now}); !errors.Is(err, group.ErrInactive) {
		t.Errorf("send: %v", err)
	}
	w.out.Reset()
	w.run(words("history bob"))
	if !strings.Contains(w.out.String(), "(removed bob)") {
		t.Error("history is gone")
	}
}

// TestSecretsPrintRedacted: no formatting verb shows a key.
func TestSecretsPrintRedacted(t *testing.T) {
	_, alice, _ := two(t)
	key := group.HMACKey("hmac secret")
	all := fmt.Sprintf("%v %+v %#v %s %v %#v", key, key, key, key, alice.secrets, alice.secrets)
	for _, secret := range [][]byte{[]byte("hmac secret"), alice.secrets.WelcomeSeed, alice.secrets.MLS.InitKey} {
		if strings.Contains(all, string(secret)) || strings.Contains(all, fmt.Sprint([]byte(secret))) || strings.Contains(all, fmt.Sprintf("%x", []byte(secret))) {
			t.Error("a secret is printed")
		}
	}
}

// TestKeyPackageRoundTrip: what is made is what real clients make, to the byte
// count, and its secrets survive storing.
func TestKeyPackageRoundTrip(t *testing.T) {
	w := newWorld(t)
	h := w.install("alice", "alice")
	b := h.secrets.KeyPackage.MLS.Bytes()
	if len(b) != 1659 {
		t.Errorf("key package of %d bytes, real ones have 1659", len(b))
	}
	k, err := group.ParseKeyPackage(nil, b)
	if err != nil || k.Inbox != h.inbox.id || !k.ValidAt(w.now) || k.ValidAt(w.now.Add(84*24*time.Hour)) {
		t.Fatalf("parsed: %v", err)
	}
	stored, err := h.secrets.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := group.UnmarshalKeyPackageSecrets(stored)
	if err != nil || !bytes.Equal(s.WelcomeSeed, h.secrets.WelcomeSeed) || len(s.PublicKeys()) != 2 {
		t.Fatalf("stored: %v", err)
	}
	for i := range stored {
		if _, err := group.UnmarshalKeyPackageSecrets(stored[:i]); err == nil {
			t.Fatalf("accepted the first %d bytes", i)
		}
	}
}

// TestSenderHMAC: the mark on real messages is made with the key of the month
// that the SDK gives to push servers. X23
func TestSenderHMAC(t *testing.T) {
	var f struct {
		Scenarios []struct {
			Name      string
			Envelopes []struct {
				Data hexBytes
				HMAC hexBytes `json:"sender_hmac"`
			}
			SDK struct {
				Keys map[string][]struct{ Key hexBytes } `json:"hmac_keys"`
			}
		}
	}
	readJSON(t, filepath.Join(vectors(t), "passive-join.json"), &f)
	matched := 0
	for _, s := range f.Scenarios {
		for _, e := range s.Envelopes {
			for _, keys := range s.SDK.Keys {
				for _, k := range keys {
					h := hmac.New(sha256.New, k.Key)
					h.Write(e.Data)
					if hmac.Equal(h.Sum(nil), e.HMAC) {
						matched++
					}
				}
			}
		}
	}
	if matched == 0 {
		t.Error("no mark was made with an exported key")
	}
	key, err := group.HMACKey(make([]byte, 42)).Derive(make([]byte, 16), 690)
	if err != nil || len(key) != 42 {
		t.Errorf("derived %d bytes: %v", len(key), err)
	}
}

// S17: a member whose clock is far ahead of the log's renews its keys once, not
// before each message.
func TestFreshKeysOfAClockAhead(t *testing.T) {
	w, _, bob := two(t)
	w.run(words("limit bob keys 30"))
	w.run(words("crash bob"))
	for i := range 3 {
		bob.step(group.Send{Content: []byte{'a' + byte(i)}, Now: w.tick().Add(400 * 24 * time.Hour)})
		w.sync(w.order)
	}
	if e := bob.replica.Epoch(); e != 2 {
		t.Errorf("epoch %d after three messages, want 2", e)
	}
}

// TestAnInsiderIsolatesNobodyInSilence: a commit whose path opens for all but one
// leaves that one behind. It says so and sends nothing, whatever it is asked to and
// whatever comes for its epoch, until it is removed and added again. One that breaks a
// rule for everybody does not do that to it.
func TestAnInsiderIsolatesNobodyInSilence(t *testing.T) {
	w := newWorld(t)
	w.run(words("people alice bob carol dave"))
	carol := w.homes["carol"]
	carol.alone = true
	mended := carol.secrets.MLS.EncryptionKey
	// Whatever is encrypted to carol's leaf does not open for her, as if its sender
	// had spoilt it.
	carol.secrets.MLS.EncryptionKey = bytes.Repeat([]byte{7}, len(mended))
	w.run(words("create alice all_members"))
	w.run(words("add alice bob carol dave"))
	w.sync(w.order)

	alice := w.homes["alice"]
	invalid := alice.commit(mls.GroupContextExtensions{Extensions: group.ReplaceMembers(alice.replica.Group().Extensions(), w.cited("bob", "carol", "dave"))})
	late := w.homes["dave"].commit().Message()
	w.publish(group.TopicCommits, alice.replica.ID(), group.EncodeGroupMessage(invalid.Message(), nil, false))
	w.sync(w.order)
	if st, _ := carol.replica.Standing(); st != group.Following {
		t.Fatalf("a commit that everybody refuses leaves carol %v:\n%s", st, w.out.String())
	}

	w.run(words("rotate alice"))
	w.sync(w.order)
	st, why := carol.replica.Standing()
	if st != group.Stranded || !strings.Contains(why, "add it again") || carol.replica.Epoch() != 1 || carol.replica.Sends() {
		t.Fatalf("carol is %v, %q, in epoch %d", st, why, carol.replica.Epoch())
	}
	if w.homes["dave"].replica.Epoch() != 2 {
		t.Fatal("dave did not follow")
	}
	w.publish(group.TopicCommits, alice.replica.ID(), group.EncodeGroupMessage(late, nil, false))
	w.run(words(`send carol "does anybody hear me"`))
	w.run(words("rename carol mine"))
	carol.crash()
	w.sync(w.order)
	if st, _ = carol.replica.Standing(); st != group.Stranded || carol.replica.Epoch() != 1 || len(carol.outbox) > 0 {
		t.Errorf("carol is %v in epoch %d, and sends %d", st, carol.replica.Epoch(), len(carol.outbox))
	}

	carol.secrets.MLS.EncryptionKey = mended
	w.run(words("remove alice carol"))
	w.sync([]string{"alice", "bob", "dave"})
	w.run(words("add alice carol"))
	w.sync(w.order)
	w.sync(w.order)
	w.agree()
	if st, _ = carol.replica.Standing(); st != group.Following {
		t.Errorf("carol is %v after she was added again:\n%s", st, w.out.String())
	}
	list, err := group.History(w.homes["bob"].reader(), group.HistoryQuery{})
	w.must(err)
	if !slices.ContainsFunc(list, func(m group.Message) bool { return string(m.Content) == "does anybody hear me" }) {
		t.Error("what carol commanded meanwhile was not sent when she was back")
	}
}
