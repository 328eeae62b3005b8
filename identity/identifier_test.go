package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/identity"
)

func TestInboxIDVector(t *testing.T) {
	owner, err := identity.ParseAddress("0x1234567890abcdef1234567890abcdef12345678")
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.InboxID(owner, 0)
	if want := "fcd18d86276d7a99fe522dba9660c420f03c8648785ada7c5daae232a3df77a9"; got != want || err != nil {
		t.Errorf("inbox id = %s, %v; want %s", got, err, want)
	}
}

func TestInstallationOwnsNoInbox(t *testing.T) {
	id, err := identity.InstallationFrom(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.InboxID(id, 1); !errors.Is(err, identity.ErrBadIdentifier) {
		t.Errorf("err = %v", err)
	}
}

// S21, I8: the same answer for lower case, upper case and a right checksum; a
// typed error for a wrong one and for whatever is no address.
func TestAddressSpellings(t *testing.T) {
	const checksummed = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed" // EIP-55's own example
	for _, s := range []string{
		checksummed,
		strings.ToLower(checksummed),
		"0x" + strings.ToUpper(checksummed[2:]),
		"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
		"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
		"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
	} {
		id, err := identity.ParseAddress(s)
		if err != nil || id.String() != strings.ToLower(s) {
			t.Errorf("ParseAddress(%q) = %s, %v", s, id, err)
		}
	}
	for name, s := range map[string]string{
		"empty":           "",
		"no prefix":       checksummed[2:],
		"wrong checksum":  "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
		"39 digits":       checksummed[:41],
		"41 digits":       checksummed + "0",
		"no hex":          "0xzzaeb6053f3e94c9b9a09f33669435e7ef1beaed",
		"zero":            "0x0000000000000000000000000000000000000000",
		"wildcard":        "0x*",
		"blank around":    " " + strings.ToLower(checksummed),
		"NUL":             "0x\x00aaeb6053f3e94c9b9a09f33669435e7ef1beae",
		"long s, lowered": "0x\u017faeb6053f3e94c9b9a09f33669435e7ef1beaed"[:42],
	} {
		if id, err := identity.ParseAddress(s); !errors.Is(err, identity.ErrBadAddress) {
			t.Errorf("%s: ParseAddress(%q) = %s, %v; want ErrBadAddress", name, s, id, err)
		}
	}
}

func TestParseInboxID(t *testing.T) {
	good := strings.Repeat("0f", 32)
	if _, err := identity.ParseInboxID(good); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", good[1:], good + "0", strings.ToUpper(good), strings.Repeat("*>", 32)} {
		if _, err := identity.ParseInboxID(s); !errors.Is(err, identity.ErrBadInboxID) {
			t.Errorf("ParseInboxID(%q): %v", s, err)
		}
	}
}
