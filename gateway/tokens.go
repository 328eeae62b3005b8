package gateway

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// Tokens are the bearer tokens that a deployment accepts. It knows their
// SHA-256 only. Tokens are to be random, 16 bytes or more: a hash does not hide
// a guess.
type Tokens struct{ known []token }

type token struct {
	caller string
	hash   [sha256.Size]byte
	until  time.Time // zero: for ever
}

// ParseTokens reads lines of a caller's name, the SHA-256 of its token in hex and,
// where the token expires, the time at which it does (RFC 3339). Empty lines, and
// those that begin with #, are passed over. A caller may have several tokens, so
// that one can be replaced.
func ParseTokens(r io.Reader) (Tokens, error) {
	var t Tokens
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		// The line itself is not shown: it may be a token by mistake.
		fields := strings.Fields(line)
		if len(fields) < 2 || len(fields) > 3 || len(fields[1]) != hex.EncodedLen(sha256.Size) {
			return Tokens{}, fmt.Errorf("gateway: line %d is not a name, the SHA-256 of a token in hex and perhaps the time of its end", n)
		}
		known := token{caller: fields[0]}
		if _, err := hex.Decode(known.hash[:], []byte(fields[1])); err != nil {
			return Tokens{}, fmt.Errorf("gateway: line %d: the hash is not hex", n)
		}
		if len(fields) == 3 {
			var err error
			if known.until, err = time.Parse(time.RFC3339, fields[2]); err != nil {
				return Tokens{}, fmt.Errorf("gateway: line %d: the token's end is no time such as 2030-01-31T00:00:00Z", n)
			}
		}
		t.known = append(t.known, known)
	}
	if err := lines.Err(); err != nil {
		return Tokens{}, fmt.Errorf("gateway: read tokens: %w", err)
	}
	if len(t.known) == 0 {
		return Tokens{}, fmt.Errorf("gateway: there is no token: nobody could call")
	}
	return t, nil
}

// Authenticate is a Config.Authenticate. How long it takes says nothing about
// the tokens.
func (t Tokens) Authenticate(presented string) (caller string, ok bool) {
	hash := sha256.Sum256([]byte(presented))
	for _, k := range t.known {
		if subtle.ConstantTimeCompare(hash[:], k.hash[:]) == 1 && (k.until.IsZero() || time.Now().Before(k.until)) {
			caller, ok = k.caller, true
		}
	}
	return caller, ok
}
