package ethereum_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

func TestKeySignsAsItsAddress(t *testing.T) {
	k, err := ethereum.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ethereum.ParseKey(k.PrivateBytes())
	if err != nil || again.Address() != k.Address() {
		t.Fatalf("parsed again: %v", err)
	}
	sig, err := k.SignMessage("text")
	if err != nil {
		t.Fatal(err)
	}
	who, _, err := ethereum.Verifier{}.RecoverEOA("text", sig)
	if err != nil || who != k.Identifier() || who.String() != k.Address() {
		t.Errorf("recovered %s, %v; want %s", who, err, k.Address())
	}
	if _, err := identity.ParseAddress(k.Address()); err != nil {
		t.Error(err)
	}
	for name, b := range map[string][]byte{"empty": nil, "zero": make([]byte, 32), "over the order": bytes.Repeat([]byte{255}, 32)} {
		if _, err := ethereum.ParseKey(b); err == nil {
			t.Errorf("%s: accepted as a private key", name)
		}
	}
}

func TestCanonicalRefusesWhatIsNoSignature(t *testing.T) {
	good := make([]byte, 65)
	good[31], good[63], good[64] = 1, 1, 27
	for name, sig := range map[string][]byte{
		"empty":     nil,
		"63 bytes":  good[:63],
		"66 bytes":  append(bytes.Clone(good), 0),
		"V 2":       append(bytes.Clone(good[:64]), 2),
		"V 29":      append(bytes.Clone(good[:64]), 29),
		"V 255":     append(bytes.Clone(good[:64]), 255),
		"S = order": append(append(bytes.Clone(good[:32]), crypto.S256().Params().N.Bytes()...), 27),
	} {
		if _, err := ethereum.Canonical(sig); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := (ethereum.Verifier{}).RecoverEOA("text", make([]byte, 65)); err == nil {
		t.Error("R = S = 0: accepted")
	}
}

// D13: a wallet's key shows nowhere.
func TestKeysPrintRedacted(t *testing.T) {
	k, err := ethereum.ParseKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf("%x", k.PrivateBytes())
	b, err := json.Marshal(struct{ K *ethereum.Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k)
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %s", k, k, k, k), fmt.Sprintf("%v", *k), string(b), log.String()} {
		if !strings.Contains(s, "[redacted]") || strings.Contains(strings.ToLower(s), secret[:16]) {
			t.Errorf("printed %s", s)
		}
	}
}
