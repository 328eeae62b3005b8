package identity

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/associations"
)

// Verified is an update whose signatures all verify. Whether its signers may do
// what it does is State.Apply's question. It is small, immutable, and made by
// Verify only.
type Verified struct {
	inbox   string
	at      uint64 // the client's time stamp, ns
	actions []action
}

// InboxID returns the inbox that the update names.
func (v Verified) InboxID() string { return v.inbox }

type actionKind uint8

const (
	create actionKind = iota + 1
	add
	revoke
	changeRecovery
)

// An action is one verified step. subject is whom it is about: the owner, the
// new member, the one revoked, the new recovery identifier.
type action struct {
	kind    actionKind
	subject Identifier
	nonce   uint64 // create
	by      proof  // the owner, the existing member, or the recovery identifier
	consent proof  // add: the new member
}

// Verify checks every signature of an update over the update's own text. Its
// cost is about 0.1 ms for each signature that differs.
func Verify(u *associations.IdentityUpdate, v Verifier) (Verified, error) {
	if _, err := ParseInboxID(u.GetInboxId()); err != nil {
		return Verified{}, err
	}
	if n := len(u.GetActions()); n > MaxActions {
		return Verified{}, fmt.Errorf("%w: %d actions, at most %d", ErrMalformed, n, MaxActions)
	}
	text, err := SignatureText(u)
	if err != nil {
		return Verified{}, err
	}
	check := &checker{text: text, verifier: v}
	out := Verified{u.GetInboxId(), u.GetClientTimestampNs(), make([]action, len(u.GetActions()))}
	for i, a := range u.GetActions() {
		if out.actions[i], err = check.action(a); err != nil {
			return Verified{}, fmt.Errorf("identity: verify action %d: %w", i+1, err)
		}
	}
	return out, nil
}

// A checker verifies each signature of one update once: all signers sign one
// text, so a wallet's signature is usually copied into several slots.
type checker struct {
	text     string
	verifier Verifier
	seen     []*associations.Signature
	proofs   []proof
}

func (c *checker) signature(s *associations.Signature) (proof, error) {
	for i, known := range c.seen {
		if proto.Equal(known, s) {
			return c.proofs[i], nil
		}
	}
	p, err := verifySignature(c.text, s, c.verifier)
	if err != nil {
		return proof{}, err
	}
	if !p.kind.fits(p.signer.kind) {
		return proof{}, ErrSignatureKind
	}
	c.seen, c.proofs = append(c.seen, s), append(c.proofs, p)
	return p, nil
}

func (c *checker) action(a *associations.IdentityAction) (out action, err error) {
	switch a := a.GetKind().(type) {
	case *associations.IdentityAction_CreateInbox:
		in := a.CreateInbox
		out.kind, out.nonce = create, in.GetNonce()
		if out.subject, err = ParseIdentifier(in.GetInitialIdentifier(), in.GetInitialIdentifierKind()); err != nil {
			return out, err
		}
		out.by, err = c.signature(in.GetInitialIdentifierSignature())
	case *associations.IdentityAction_Add:
		in := a.Add
		out.kind = add
		if out.subject, err = memberFromProto(in.GetNewMemberIdentifier()); err != nil {
			return out, err
		}
		if out.by, err = c.signature(in.GetExistingMemberSignature()); err != nil {
			return out, err
		}
		out.consent, err = c.signature(in.GetNewMemberSignature())
	case *associations.IdentityAction_Revoke:
		in := a.Revoke
		out.kind = revoke
		if out.subject, err = memberFromProto(in.GetMemberToRevoke()); err != nil {
			return out, err
		}
		out.by, err = c.signature(in.GetRecoveryIdentifierSignature())
	case *associations.IdentityAction_ChangeRecoveryAddress:
		in := a.ChangeRecoveryAddress
		out.kind = changeRecovery
		if out.subject, err = ParseIdentifier(in.GetNewRecoveryIdentifier(), in.GetNewRecoveryIdentifierKind()); err != nil {
			return out, err
		}
		out.by, err = c.signature(in.GetExistingRecoveryIdentifierSignature())
	default:
		err = fmt.Errorf("%w: action of no known kind", ErrMalformed)
	}
	return out, err
}
