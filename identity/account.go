package identity

import (
	"fmt"
	"strconv"
	"strings"
)

// An Account is a smart contract wallet: an address on one chain. It is
// comparable.
type Account struct {
	Chain   uint64     // EIP-155's chain id, never 0
	Address Identifier // of kind Ethereum
}

// ParseAccount reads an account as CAIP-10 writes it, "eip155:<chain>:<address>",
// with the address in any case. Its errors are ErrMalformed and ErrBadAddress.
func ParseAccount(s string) (Account, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || parts[0] != "eip155" {
		return Account{}, fmt.Errorf("%w: account %.80q is not eip155:<chain>:<address>", ErrMalformed, s)
	}
	chain, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil || chain == 0 {
		return Account{}, fmt.Errorf("%w: account %.80q has no chain", ErrMalformed, s)
	}
	address, err := decodeAddress(strings.ToLower(parts[2]))
	if err != nil {
		return Account{}, err
	}
	return Account{chain, address}, nil
}

// String returns the account's one canonical spelling, with the address in lower
// case.
func (a Account) String() string {
	return "eip155:" + strconv.FormatUint(a.Chain, 10) + ":" + a.Address.String()
}
