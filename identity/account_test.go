package identity_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/conclave-chat/conclave/identity"
)

const someAddress = "0xd8da6bf26964af9d7eed9e03e53415d37aa96045"

// Account ids name contracts in updates and in requests; both are read here.
func TestParseAccount(t *testing.T) {
	for s, want := range map[string]string{
		"eip155:1:" + someAddress:                                                "eip155:1:" + someAddress,
		"eip155:007:" + someAddress:                                              "eip155:7:" + someAddress,
		"eip155:84532:0xD8dA6BF26964aF9D7eEd9e03E53415D37aA96045":                "eip155:84532:" + someAddress,
		"eip155:18446744073709551615:0XD8DA6BF26964AF9D7EED9E03E53415D37AA96045": "eip155:18446744073709551615:" + someAddress,
	} {
		if a, err := identity.ParseAccount(s); err != nil || a.String() != want {
			t.Errorf("%q = %s, %v", s, a, err)
		}
	}
	for s, want := range map[string]error{
		"":                         identity.ErrMalformed,
		"eip155:1":                 identity.ErrMalformed,
		"eip155::" + someAddress:   identity.ErrMalformed,
		"eip155:0:" + someAddress:  identity.ErrMalformed,
		"eip155:-1:" + someAddress: identity.ErrMalformed,
		"eip155:18446744073709551616:" + someAddress:          identity.ErrMalformed,
		"eip155:1:" + someAddress + ":":                       identity.ErrMalformed,
		"solana:1:" + someAddress:                             identity.ErrMalformed,
		"eip155:1:" + someAddress[2:]:                         identity.ErrBadAddress,
		"eip155:1:" + someAddress + "00":                      identity.ErrBadAddress,
		"eip155:1:0xzzda6bf26964af9d7eed9e03e53415d37aa96045": identity.ErrBadAddress,
	} {
		if a, err := identity.ParseAccount(s); !errors.Is(err, want) || a != (identity.Account{}) {
			t.Errorf("%q = %v, %v, want %v", s, a, err, want)
		}
	}
}

// What parses has one spelling, which parses to the same.
func FuzzParseAccount(f *testing.F) {
	f.Add("eip155:1:" + someAddress)
	f.Add("eip155:01:0XD8DA6BF26964AF9D7EED9E03E53415D37AA96045")
	f.Add("eip155:0:x:y")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := identity.ParseAccount(s)
		if err != nil {
			return
		}
		again, err := identity.ParseAccount(a.String())
		if err != nil || again != a || a.Chain == 0 || a.Address.Kind() != identity.Ethereum {
			t.Errorf("%q = %v, then %v, %v", s, a, again, err)
		}
	})
}

// The widely published EIP-191 hash of "hello".
func TestHashMessage(t *testing.T) {
	const want = "50b2c43fd39106bafbba0da34fc430e1f91e3c96ea2acee2bc34119f92b37750"
	if got := identity.HashMessage("hello"); hex.EncodeToString(got[:]) != want {
		t.Errorf("hash = %x, want %s", got, want)
	}
}
