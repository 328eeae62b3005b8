package identity

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/associations"
)

// A Signer is a wallet. SignMessage signs as personal_sign does (EIP-191) and
// returns 65 bytes R‖S‖V.
type Signer interface {
	Address() string
	SignMessage(text string) ([]byte, error)
}

// SignerFunc makes a Signer of an address and a function.
func SignerFunc(address string, sign func(text string) ([]byte, error)) Signer {
	return funcSigner{address, sign}
}

type funcSigner struct {
	address string
	sign    func(string) ([]byte, error)
}

func (s funcSigner) Address() string                         { return s.address }
func (s funcSigner) SignMessage(text string) ([]byte, error) { return s.sign(text) }

// Checked is a wallet whose signatures are verified before anybody has them. What
// is not the signature of its own address is ErrBadSignature: another account was
// selected, or a device answered with an older one.
func Checked(w Signer, v Verifier) Signer {
	return SignerFunc(w.Address(), func(text string) ([]byte, error) {
		sig, err := w.SignMessage(text)
		if err != nil {
			return nil, err
		}
		by, _, err := recoverEOA(v, text, sig)
		if err != nil {
			return nil, err
		}
		if who, err := ParseAddress(w.Address()); err != nil || by != who {
			return nil, fmt.Errorf("%w: it is that of %s", ErrBadSignature, by)
		}
		return sig, nil
	})
}

// A Draft is an update on its way to being signed. Its actions are all added
// before its first signature, since every signature covers all of them.
type Draft struct {
	update *associations.IdentityUpdate
	slots  []slot
}

// A slot is one place that waits for one signer.
type slot struct {
	who Identifier
	put **associations.Signature
}

// NewDraft starts an update of an inbox; now becomes its time stamp.
func NewDraft(inboxID string, now time.Time) *Draft {
	return &Draft{update: &associations.IdentityUpdate{InboxId: inboxID, ClientTimestampNs: uint64(now.UnixNano())}}
}

// Register drafts the update that makes a new inbox with its first installation.
// The owner and the installation sign it.
func Register(owner Identifier, nonce uint64, installation Identifier, now time.Time) (*Draft, error) {
	inbox, err := InboxID(owner, nonce)
	if err != nil {
		return nil, err
	}
	return NewDraft(inbox, now).CreateInbox(owner, nonce).Add(installation, owner), nil
}

// CreateInbox makes the inbox; owner signs. It is the first action of a log.
func (d *Draft) CreateInbox(owner Identifier, nonce uint64) *Draft {
	c := &associations.CreateInbox{
		InitialIdentifier: owner.String(), InitialIdentifierKind: owner.ProtoKind(), Nonce: nonce,
	}
	d.slots = append(d.slots, slot{owner, &c.InitialIdentifierSignature})
	return d.act(&associations.IdentityAction{Kind: &associations.IdentityAction_CreateInbox{CreateInbox: c}})
}

// Add adds a wallet, passkey or installation; both it and by, a member or the
// recovery identifier, sign.
func (d *Draft) Add(member, by Identifier) *Draft {
	a := &associations.AddAssociation{NewMemberIdentifier: memberToProto(member)}
	d.slots = append(d.slots, slot{by, &a.ExistingMemberSignature}, slot{member, &a.NewMemberSignature})
	return d.act(&associations.IdentityAction{Kind: &associations.IdentityAction_Add{Add: a}})
}

// Revoke removes a member and the installations that it added; the recovery
// identifier signs.
func (d *Draft) Revoke(member, recovery Identifier) *Draft {
	r := &associations.RevokeAssociation{MemberToRevoke: memberToProto(member)}
	d.slots = append(d.slots, slot{recovery, &r.RecoveryIdentifierSignature})
	return d.act(&associations.IdentityAction{Kind: &associations.IdentityAction_Revoke{Revoke: r}})
}

// ChangeRecovery names another recovery identifier; the present one signs.
func (d *Draft) ChangeRecovery(to, recovery Identifier) *Draft {
	c := &associations.ChangeRecoveryAddress{
		NewRecoveryIdentifier: to.String(), NewRecoveryIdentifierKind: to.ProtoKind(),
	}
	d.slots = append(d.slots, slot{recovery, &c.ExistingRecoveryIdentifierSignature})
	return d.act(&associations.IdentityAction{Kind: &associations.IdentityAction_ChangeRecoveryAddress{ChangeRecoveryAddress: c}})
}

func (d *Draft) act(a *associations.IdentityAction) *Draft {
	d.update.Actions = append(d.update.Actions, a)
	return d
}

// Text returns what every signer signs.
func (d *Draft) Text() (string, error) { return SignatureText(d.update) }

// Waiting returns whose signatures are still missing, each once.
func (d *Draft) Waiting() []Identifier {
	var who []Identifier
	seen := map[Identifier]bool{}
	for _, s := range d.slots {
		if *s.put == nil && !seen[s.who] {
			seen[s.who] = true
			who = append(who, s.who)
		}
	}
	return who
}

// Sign lets a wallet sign, once for all its places.
func (d *Draft) Sign(w Signer) error {
	who, err := ParseAddress(w.Address())
	if err != nil {
		return err
	}
	text, err := d.askedText(who)
	if err != nil {
		return err
	}
	sig, err := w.SignMessage(text)
	if err != nil {
		return fmt.Errorf("identity: sign with wallet %s: %w", who, err)
	}
	return d.Attach(who, &associations.Signature{Signature: &associations.Signature_Erc_191{
		Erc_191: &associations.RecoverableEcdsaSignature{Bytes: sig},
	}})
}

// SignInstallation lets an installation key sign, once for all its places.
func (d *Draft) SignInstallation(key ed25519.PrivateKey) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("%w: installation private key of %d bytes", ErrBadIdentifier, len(key))
	}
	public := key.Public().(ed25519.PublicKey)
	who, err := InstallationFrom(public)
	if err != nil {
		return err
	}
	text, err := d.askedText(who)
	if err != nil {
		return err
	}
	sig, err := SignUpdateText(key, text)
	if err != nil {
		return err
	}
	return d.Attach(who, &associations.Signature{Signature: &associations.Signature_InstallationKey{
		InstallationKey: &associations.RecoverableEd25519Signature{Bytes: sig, PublicKey: public},
	}})
}

func (d *Draft) askedText(who Identifier) (string, error) {
	for _, s := range d.slots {
		if s.who == who {
			return d.Text()
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNotAsked, who)
}

// Attach puts a signature of any kind, made elsewhere, into all of who's places.
func (d *Draft) Attach(who Identifier, sig *associations.Signature) error {
	asked := false
	for _, s := range d.slots {
		if s.who == who {
			*s.put, asked = sig, true
		}
	}
	if !asked {
		return fmt.Errorf("%w: %s", ErrNotAsked, who)
	}
	return nil
}

// Update returns the signed update. It is a copy: the draft may be used again.
func (d *Draft) Update() (*associations.IdentityUpdate, error) {
	if w := d.Waiting(); len(w) > 0 {
		return nil, fmt.Errorf("%w: %s %s is missing", ErrUnsigned, w[0].kind, w[0])
	}
	return proto.Clone(d.update).(*associations.IdentityUpdate), nil
}
