package identity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/sha3"

	"github.com/conclave-chat/conclave/proto/associations"
)

// SignatureText returns the one text that every signer of the update signs,
// whatever role it has. Lines end in LF; there is none after the last.
func SignatureText(u *associations.IdentityUpdate) (string, error) {
	if u.GetClientTimestampNs() > math.MaxInt64 {
		return "", fmt.Errorf("%w: time stamp beyond the year 2262", ErrMalformed)
	}
	at := time.Unix(0, int64(u.GetClientTimestampNs())).UTC()
	var b strings.Builder
	b.WriteString("XMTP : Authenticate to inbox\n\nInbox ID: ")
	b.WriteString(u.GetInboxId())
	b.WriteString("\nCurrent time: ")
	b.WriteString(at.Format("2006-01-02T15:04:05Z"))
	b.WriteString("\n\n")
	for _, a := range u.GetActions() {
		did, to, err := actionText(a)
		if err != nil {
			return "", err
		}
		b.WriteString("- " + did + "\n  (" + to + ")\n")
	}
	b.WriteString("\nFor more info: https://xmtp.org/signatures")
	return b.String(), nil
}

// actionText returns the two lines of one action, without their punctuation.
func actionText(a *associations.IdentityAction) (did, to string, err error) {
	switch a := a.GetKind().(type) {
	case *associations.IdentityAction_CreateInbox:
		id, err := ParseIdentifier(a.CreateInbox.GetInitialIdentifier(), a.CreateInbox.GetInitialIdentifierKind())
		return "Create inbox", "Owner: " + id.String(), err
	case *associations.IdentityAction_Add:
		id, err := memberFromProto(a.Add.GetNewMemberIdentifier())
		switch id.kind {
		case Installation:
			return "Grant messaging access to app", "ID: " + id.String(), err
		case Passkey:
			return "Link passkey to inbox", "Passkey: " + id.String(), err
		}
		return "Link address to inbox", "Address: " + id.String(), err
	case *associations.IdentityAction_Revoke:
		id, err := memberFromProto(a.Revoke.GetMemberToRevoke())
		switch id.kind {
		case Installation:
			return "Revoke messaging access from app", "ID: " + id.String(), err
		case Passkey:
			return "Unlink passkey from inbox", "Passkey: " + id.String(), err
		}
		return "Unlink address from inbox", "Address: " + id.String(), err
	case *associations.IdentityAction_ChangeRecoveryAddress:
		c := a.ChangeRecoveryAddress
		id, err := ParseIdentifier(c.GetNewRecoveryIdentifier(), c.GetNewRecoveryIdentifierKind())
		return "Change inbox recovery address", "Address: " + id.String(), err
	}
	return "", "", fmt.Errorf("%w: action of no known kind", ErrMalformed)
}

// HashMessage returns EIP-191's hash of a text, as personal_sign makes it.
func HashMessage(text string) (hash [32]byte) {
	h := sha3.NewLegacyKeccak256()
	h.Write([]byte("\x19Ethereum Signed Message:\n" + strconv.Itoa(len(text)) + text))
	h.Sum(hash[:0])
	return hash
}
