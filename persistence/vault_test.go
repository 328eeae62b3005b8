package persistence_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/memory"
)

var (
	alice = [32]byte{1}
	bob   = [32]byte{2}
	key   = persistence.Key{42}
	realm = persistence.Realm{7}
)

const message = persistence.RecordType(6)

// rows returns every row of the store as it lies there.
func rows(t *testing.T, store persistence.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, store.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			all[string(key)] = string(value)
			return true
		})
	}))
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func create(t *testing.T, store persistence.Store, installation [32]byte) *persistence.Vault {
	t.Helper()
	v, err := persistence.CreateVault(t.Context(), store, installation, key, rand.Reader)
	check(t, err)
	return v
}

func put(t *testing.T, v *persistence.Vault, suffix, plaintext string) {
	t.Helper()
	var b persistence.Batch
	v.Put(&b, message, []byte(suffix), []byte(plaintext))
	check(t, v.Apply(t.Context(), &b, persistence.Durable))
}

// S07, S08: the first create makes the store's vault, a later one finds it.
func TestCreatedVaultIsFoundAgain(t *testing.T) {
	store := memory.New()
	_, err := persistence.OpenVault(t.Context(), store, alice, key)
	wants(t, err, persistence.ErrNotFound)
	put(t, create(t, store, alice), "1", "hello")
	store.Crash(nil)

	_, err = persistence.CreateVault(t.Context(), store, alice, key, rand.Reader)
	wants(t, err, persistence.ErrExists)
	v, err := persistence.OpenVault(t.Context(), store, alice, key)
	check(t, err)
	got, err := v.Get(t.Context(), message, []byte("1"))
	check(t, err)
	if string(got) != "hello" || v.Installation() != alice {
		t.Fatalf("got %q", got)
	}
	_, err = v.Get(t.Context(), message, []byte("2"))
	wants(t, err, persistence.ErrNotFound)

	create(t, store, bob)
	all, err := persistence.Vaults(t.Context(), store)
	check(t, err)
	if !slices.Equal(all, [][32]byte{alice, bob}) {
		t.Fatalf("got %x", all)
	}
}

// S09, D1: neither marker nor key is in the rows; a wrong key changes nothing.
func TestRowsAreSealedAndWrongKeyIsRefused(t *testing.T) {
	store := memory.New()
	put(t, create(t, store, alice), "1", "marker of the plaintext")
	before := rows(t, store)
	for k, value := range before {
		if strings.Contains(value, "marker") || strings.Contains(value, string(key[:4])) {
			t.Fatalf("row %x is in the clear", k)
		}
	}
	_, err := persistence.OpenVault(t.Context(), store, alice, persistence.Key{43})
	wants(t, err, persistence.ErrWrongKey)
	if after := rows(t, store); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatal("a wrong key changed rows")
	}
}

// Section 3.9 of the fault list: swapped, flipped and moved records are refused.
func TestSealedValueStaysWhereItWasWritten(t *testing.T) {
	store := memory.New()
	v, w := create(t, store, alice), create(t, store, bob)
	put(t, v, "1", "first")
	put(t, v, "2", "other")
	put(t, w, "1", "first of bob")
	honest := rows(t, store)
	at := func(installation [32]byte, suffix string) string {
		return "\x03" + string(installation[:]) + string(rune(message)) + suffix
	}
	for _, tamper := range []struct {
		name, value string
		want        error
	}{
		{"swapped", honest[at(alice, "2")], persistence.ErrDamaged},
		{"of another installation", honest[at(bob, "1")], persistence.ErrDamaged},
		{"flipped", honest[at(alice, "1")][:20] + "x" + honest[at(alice, "1")][21:], persistence.ErrDamaged},
		{"cut", honest[at(alice, "1")][:28], persistence.ErrDamaged},
		{"empty", "", persistence.ErrDamaged},
		{"of version 0", "\x00" + honest[at(alice, "1")][1:], persistence.ErrDamaged},
		{"of a newer version", "\x02" + honest[at(alice, "1")][1:], persistence.ErrFormatTooNew},
	} {
		var b persistence.Batch
		b.Put([]byte(at(alice, "1")), []byte(tamper.value))
		check(t, store.Apply(t.Context(), &b, persistence.Lazy))
		if _, err := v.Get(t.Context(), message, []byte("1")); !errors.Is(err, tamper.want) {
			t.Errorf("%s: got %v, want %v", tamper.name, err, tamper.want)
		}
		if err := v.Scan(t.Context(), message, nil, nil, func(_, _ []byte) bool { return true }); !errors.Is(err, tamper.want) {
			t.Errorf("scan %s: got %v, want %v", tamper.name, err, tamper.want)
		}
	}
}

func TestScansStayInsideTypeAndInstallation(t *testing.T) {
	store := memory.New()
	v, w := create(t, store, alice), create(t, store, bob)
	for _, suffix := range []string{"a1", "a2", "a3", "b1"} {
		put(t, v, suffix, "of "+suffix)
		put(t, w, suffix, "of bob")
	}
	var other persistence.Batch
	v.Put(&other, message-1, []byte("a2"), nil)
	v.Put(&other, message+1, []byte("a2"), nil)
	check(t, v.Apply(t.Context(), &other, persistence.Lazy))

	for _, c := range []struct{ prefix, bound, forward, back string }{
		{"", "", "a1 a2 a3 b1", "b1 a3 a2 a1"},
		{"a", "", "a1 a2 a3", "a3 a2 a1"},
		{"a", "a2", "a2 a3", "a1"},
		{"a", "b", "", "a3 a2 a1"},
		{"c", "", "", ""},
	} {
		var bound []byte
		if c.bound != "" {
			bound = []byte(c.bound)
		}
		var forward, back []string
		check(t, v.Scan(t.Context(), message, []byte(c.prefix), bound, func(suffix, plaintext []byte) bool {
			if string(plaintext) != "of "+string(suffix) {
				t.Errorf("%s holds %q", suffix, plaintext)
			}
			forward = append(forward, string(suffix))
			return true
		}))
		check(t, v.ScanBack(t.Context(), message, []byte(c.prefix), bound, func(suffix, _ []byte) bool {
			back = append(back, string(suffix))
			return true
		}))
		if got := strings.Join(forward, " "); got != c.forward {
			t.Errorf("%+v: forward %q", c, got)
		}
		if got := strings.Join(back, " "); got != c.back {
			t.Errorf("%+v: back %q", c, got)
		}
	}
}

// S05, S11: what is left of a deleted installation opens with no key, and only
// its rows went.
func TestDestroyLeavesNothingOfOneInstallation(t *testing.T) {
	store := memory.New()
	v, w := create(t, store, alice), create(t, store, bob)
	for i := range 1300 {
		put(t, v, fmt.Sprint(i), "gone")
	}
	put(t, w, "1", "stays")
	var b persistence.Batch
	check(t, v.PutPin(&b, []byte("group"), 3))
	check(t, w.PutPin(&b, []byte("group"), 5))
	check(t, v.Apply(t.Context(), &b, persistence.Lazy))

	for range 2 { // idempotent
		check(t, v.Destroy(t.Context()))
	}
	for k := range rows(t, store) {
		if strings.Contains(k, string(alice[:])) {
			t.Fatalf("row %x is left", k)
		}
	}
	_, err := persistence.OpenVault(t.Context(), store, alice, key)
	wants(t, err, persistence.ErrNotFound)
	wants(t, v.Apply(t.Context(), &b, persistence.Lazy), persistence.ErrNotFound)
	if got, err := w.Get(t.Context(), message, []byte("1")); err != nil || string(got) != "stays" {
		t.Fatal(string(got), err)
	}
	pins, err := persistence.Pins(t.Context(), store, []byte("group"))
	check(t, err)
	if !slices.Equal(pins, []persistence.Pin{{Installation: bob, LowestEpoch: 5}}) {
		t.Fatal(pins)
	}
}

// A crash between the steps of Destroy never brings a readable record back.
func TestInterruptedDestroyIsUnreadable(t *testing.T) {
	store := memory.New()
	v := create(t, store, alice)
	for i := range 1300 {
		put(t, v, fmt.Sprint(i), "gone")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := &cancelAfter{Store: store, cancel: cancel, applies: 2}
	wants(t, persistence.DestroyVault(ctx, stop, alice), context.Canceled)
	store.Crash(nil)
	_, err := persistence.OpenVault(t.Context(), store, alice, key)
	wants(t, err, persistence.ErrNotFound)
	check(t, persistence.DestroyVault(t.Context(), store, alice))
	if left := rows(t, store); len(left) != 0 {
		t.Fatalf("%d rows are left", len(left))
	}
}

type cancelAfter struct {
	persistence.Store
	cancel  context.CancelFunc
	applies int
}

func (c *cancelAfter) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	err := c.Store.Apply(ctx, b, d)
	if c.applies--; c.applies == 0 {
		c.cancel()
	}
	return err
}

// S02: two installations under one database key still have different data keys.
func TestInstallationsDoNotShareDataKeys(t *testing.T) {
	store := memory.New()
	create(t, store, alice)
	create(t, store, bob)
	wrapped := rows(t, store)
	stolen := wrapped["\x02"+string(alice[:])]
	var b persistence.Batch
	b.Put([]byte("\x02"+string(bob[:])), []byte(stolen))
	check(t, store.Apply(t.Context(), &b, persistence.Durable))
	_, err := persistence.OpenVault(t.Context(), store, bob, key)
	wants(t, err, persistence.ErrWrongKey)
}

func TestSharedRecordIsSealedOnceAndNeedsItsSecret(t *testing.T) {
	store := memory.New()
	secret, foreign := [32]byte{9}, [32]byte{8}
	var before map[string]string
	for range 3 {
		var b persistence.Batch
		persistence.PutShared(&b, realm, []byte("seq1"), secret, []byte("shared body"))
		check(t, store.Apply(t.Context(), &b, persistence.Lazy))
		if before == nil {
			before = rows(t, store)
		}
	}
	if after := rows(t, store); len(after) != 1 || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatal("a later writer changed the row")
	}
	got, err := persistence.GetShared(t.Context(), store, realm, []byte("seq1"), secret)
	check(t, err)
	if string(got) != "shared body" {
		t.Fatalf("got %q", got)
	}
	_, err = persistence.GetShared(t.Context(), store, realm, []byte("seq1"), foreign)
	wants(t, err, persistence.ErrNotFound)
	_, err = persistence.GetShared(t.Context(), store, persistence.Realm{8}, []byte("seq1"), secret)
	wants(t, err, persistence.ErrNotFound)

	// A squatter with another secret takes nobody's place.
	var b persistence.Batch
	persistence.PutShared(&b, realm, []byte("seq2"), foreign, []byte("squatter"))
	persistence.PutShared(&b, realm, []byte("seq2"), secret, []byte("owner"))
	check(t, store.Apply(t.Context(), &b, persistence.Lazy))
	v := create(t, store, alice)
	check(t, v.View(t.Context(), func(r persistence.Records) error {
		got, err := r.GetShared(realm, []byte("seq2"), secret)
		if string(got) != "owner" {
			t.Errorf("got %q", got)
		}
		return err
	}))
}

func TestHostSweepsSharedRecordsWithoutSecrets(t *testing.T) {
	store := memory.New()
	var b persistence.Batch
	for _, suffix := range []string{"g1", "g2", "g3", "h1"} {
		persistence.PutShared(&b, realm, []byte(suffix), [32]byte{9}, []byte(suffix))
	}
	persistence.PutShared(&b, persistence.Realm{8}, []byte("g1"), [32]byte{9}, nil)
	check(t, store.Apply(t.Context(), &b, persistence.Lazy))
	var sweep persistence.Batch
	var seen []string
	check(t, persistence.ScanShared(t.Context(), store, realm, []byte("g"), []byte("g2"), func(row persistence.SharedRow) bool {
		seen = append(seen, string(row.Suffix()))
		row.Delete(&sweep)
		return true
	}))
	if got := strings.Join(seen, " "); got != "g2 g3" {
		t.Fatalf("swept %q", got)
	}
	check(t, store.Apply(t.Context(), &sweep, persistence.Durable))
	if left := rows(t, store); len(left) != 3 {
		t.Fatalf("%d rows are left", len(left))
	}
}

func TestHostRowsAndLimits(t *testing.T) {
	store := memory.New()
	var b persistence.Batch
	persistence.HostPut(&b, "incarnation", []byte("x"))
	check(t, store.Apply(t.Context(), &b, persistence.Durable))
	if got, err := persistence.HostGet(t.Context(), store, "incarnation"); err != nil || string(got) != "x" {
		t.Fatal(string(got), err)
	}
	_, err := persistence.HostGet(t.Context(), store, "nothing")
	wants(t, err, persistence.ErrNotFound)

	v := create(t, store, alice)
	var long persistence.Batch
	v.Put(&long, message, make([]byte, persistence.MaxKey), nil)
	wants(t, v.Apply(t.Context(), &long, persistence.Lazy), persistence.ErrLimit)
	for _, group := range [][]byte{nil, make([]byte, 256)} {
		if v.PutPin(&b, group, 1) == nil || v.DeletePin(&b, group) == nil {
			t.Errorf("a group id of %d bytes was taken", len(group))
		}
	}
}

// S10: the key can be kept in a file and found again after a restart.
func TestFileKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.key")
	first, err := persistence.OpenFileKeys(path)
	check(t, err)
	again, err := persistence.OpenFileKeys(path)
	check(t, err)
	a, err := first.DatabaseKey(t.Context(), alice)
	check(t, err)
	b, err := again.DatabaseKey(t.Context(), alice)
	check(t, err)
	c, err := again.DatabaseKey(t.Context(), bob)
	check(t, err)
	if a != b || a == c {
		t.Fatal("keys are not one per installation")
	}
	check(t, os.Chmod(path, 0o644))
	if _, err := persistence.OpenFileKeys(path); err == nil {
		t.Fatal("a file that others may read was taken")
	}
	check(t, os.Chmod(path, 0o600))
	for _, text := range []string{"", "00", strings.Repeat("0", 65), strings.Repeat("x", 64)} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := persistence.OpenFileKeys(path); err == nil {
			t.Errorf("%q was taken for a key", text)
		}
	}
	_, err = persistence.StaticKeys{alice: key}.DatabaseKey(t.Context(), bob)
	wants(t, err, persistence.ErrNotFound)
}

// D13: a key never prints.
func TestKeyIsRedacted(t *testing.T) {
	secret := persistence.Key(bytes.Repeat([]byte{0xab}, 32))
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("key", "key", secret)
	fmt.Fprintf(&out, "%v %+v %#v %x %X %s %q %d %v", secret, secret, secret, secret, secret, secret, secret, secret, []persistence.Key{secret})
	if s := strings.ToLower(out.String()); strings.Contains(s, "abab") || strings.Contains(s, "171") {
		t.Fatal(s)
	}
}
