package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/legacy"
)

// passkeySignature answers a WebAuthn challenge as an authenticator does.
func passkeySignature(t *testing.T, key *ecdsa.PrivateKey, public []byte, text string) *associations.RecoverablePasskeySignature {
	t.Helper()
	client, err := json.Marshal(map[string]any{
		"type": "webauthn.get", "origin": "https://conclave.example",
		"challenge": base64.RawURLEncoding.EncodeToString([]byte(text)),
	})
	if err != nil {
		t.Fatal(err)
	}
	authenticator := []byte("authenticator data")
	hash := sha256.Sum256(client)
	digest := sha256.Sum256(append(authenticator[:len(authenticator):len(authenticator)], hash[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return &associations.RecoverablePasskeySignature{
		PublicKey: public, Signature: sig, AuthenticatorData: authenticator, ClientDataJson: client,
	}
}

func asPasskey(s *associations.RecoverablePasskeySignature) *associations.Signature {
	return &associations.Signature{Signature: &associations.Signature_Passkey{Passkey: s}}
}

// A passkey owns an inbox, in both forms of its key; the twin of its signature
// is a replay, and what is forged is refused.
func TestPasskeyOwnsAnInbox(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	full, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, public := range map[string][]byte{
		"uncompressed": full,
		"compressed":   elliptic.MarshalCompressed(elliptic.P256(), key.X, key.Y),
	} {
		t.Run(name, func(t *testing.T) {
			owner, err := identity.PasskeyFrom(public)
			if err != nil {
				t.Fatal(err)
			}
			a := installation(t, "a1")
			d, err := identity.Register(owner, 1, a.id, start)
			if err != nil {
				t.Fatal(err)
			}
			text, err := d.Text()
			if err != nil || !strings.Contains(text, "(Owner: "+hex.EncodeToString(public)+")") {
				t.Fatalf("text = %s, %v", text, err)
			}
			if err := d.Attach(owner, asPasskey(passkeySignature(t, key, public, text))); err != nil {
				t.Fatal(err)
			}
			s := apply(t, nil, sign(t, d, a))

			d = identity.NewDraft(s.InboxID(), start).Revoke(a.id, owner)
			text, _ = d.Text()
			sig := passkeySignature(t, key, public, text)
			if err := d.Attach(owner, asPasskey(sig)); err != nil {
				t.Fatal(err)
			}
			update := sign(t, d)
			s = apply(t, s, update)
			if s.Has(a.id) {
				t.Error("revocation by a passkey did nothing")
			}
			twin := edit(update, func(u *associations.IdentityUpdate) {
				p := u.Actions[0].GetRevoke().GetRecoveryIdentifierSignature().GetPasskey()
				p.Signature = p256Twin(t, p.Signature)
			})
			for _, u := range []*associations.IdentityUpdate{update, twin} {
				if _, err := s.Apply(verify(t, u)); !errors.Is(err, identity.ErrReplay) {
					t.Errorf("replay: %v", err)
				}
			}
			forgePasskey(t, update)
		})
	}
}

func p256Twin(t *testing.T, der []byte) []byte {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	out, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func forgePasskey(t *testing.T, update *associations.IdentityUpdate) {
	t.Helper()
	for name, change := range map[string]func(*associations.RecoverablePasskeySignature){
		"other authenticator data": func(p *associations.RecoverablePasskeySignature) { p.AuthenticatorData = []byte("x") },
		"other challenge": func(p *associations.RecoverablePasskeySignature) {
			p.ClientDataJson = []byte(`{"challenge":"AAAA","origin":"x"}`)
		},
		"name in capitals": func(p *associations.RecoverablePasskeySignature) {
			p.ClientDataJson = []byte(strings.Replace(string(p.ClientDataJson), "challenge", "Challenge", 1))
		},
		"no JSON":       func(p *associations.RecoverablePasskeySignature) { p.ClientDataJson = []byte("{") },
		"no signature":  func(p *associations.RecoverablePasskeySignature) { p.Signature = nil },
		"no point":      func(p *associations.RecoverablePasskeySignature) { p.PublicKey = make([]byte, 65) },
		"no point (33)": func(p *associations.RecoverablePasskeySignature) { p.PublicKey = make([]byte, 33) },
		"no key":        func(p *associations.RecoverablePasskeySignature) { p.PublicKey = nil },
	} {
		forged := edit(update, func(u *associations.IdentityUpdate) {
			change(u.Actions[0].GetRevoke().GetRecoveryIdentifierSignature().GetPasskey())
		})
		_, err := identity.Verify(forged, ethereum.Verifier{})
		if !errors.Is(err, identity.ErrBadSignature) && !errors.Is(err, identity.ErrMalformed) {
			t.Errorf("passkey with %s: %v", name, err)
		}
	}
}

// A contract is one wallet of one chain.
type contract struct {
	account common.Address
	down    bool
}

func (c contract) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	if c.down {
		return 0, fmt.Errorf("dial: %w", identity.ErrNeedChain)
	}
	// A contract may read its signatures as loosely as it likes: this one takes
	// any white space around them.
	if strings.TrimSpace(string(sig)) != fmt.Sprint(account, hash, *block) || account.Address != identity.AddressFrom(c.account) {
		return *block, errors.New("not by this contract")
	}
	return *block, nil
}

func (c contract) sign(t *testing.T, chain, block uint64, text string) *associations.Signature {
	t.Helper()
	account := identity.Account{Chain: chain, Address: identity.AddressFrom(c.account)}
	return &associations.Signature{Signature: &associations.Signature_Erc_6492{Erc_6492: &associations.SmartContractWalletSignature{
		AccountId:   fmt.Sprintf("eip155:%d:%s", chain, c.account.Hex()), // checksummed, as wallets write it
		BlockNumber: block,
		Signature:   []byte(fmt.Sprint(account, identity.HashMessage(text), block)),
	}}}
}

// I4, I8: a smart contract wallet stays on the chain that it was added on, and
// without a chain the answer is "wait", not "no".
func TestContractWallet(t *testing.T) {
	c := contract{account: common.HexToAddress("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")}
	owner := identity.AddressFrom(c.account)
	a := installation(t, "a1")
	d, err := identity.Register(owner, 1, a.id, start)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := d.Text()
	if err := d.Attach(owner, c.sign(t, 8453, 77, text)); err != nil {
		t.Fatal(err)
	}
	update := sign(t, d, a)
	if _, err := identity.Verify(update, ethereum.Verifier{}); !errors.Is(err, identity.ErrNeedChain) || errors.Is(err, identity.ErrBadSignature) {
		t.Errorf("without a chain: %v", err)
	}
	if _, err := identity.Verify(update, ethereum.Verifier{Chain: contract{down: true}}); !errors.Is(err, identity.ErrNeedChain) || errors.Is(err, identity.ErrBadSignature) {
		t.Errorf("with a chain that is down: %v", err)
	}
	if _, err := identity.Verify(update, ethereum.Verifier{Chain: contract{}}); !errors.Is(err, identity.ErrBadSignature) {
		t.Errorf("refused by the contract: %v", err)
	}
	onChain := ethereum.Verifier{Chain: c}
	v, err := identity.Verify(update, onChain)
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.Fold(v)
	if err != nil {
		t.Fatal(err)
	}
	for chain, want := range map[uint64]error{8453: nil, 1: identity.ErrChainMismatch} {
		d := identity.NewDraft(s.InboxID(), start).Revoke(a.id, owner)
		text, _ := d.Text()
		if err := d.Attach(owner, c.sign(t, chain, 78, text)); err != nil {
			t.Fatal(err)
		}
		v, err := identity.Verify(sign(t, d), onChain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(v); !errors.Is(err, want) {
			t.Errorf("revocation from chain %d: %v, want %v", chain, err, want)
		}
	}
	for _, account := range []string{"", "eip155:1", "eip155:0:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "cosmos:1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "eip155:1:0x1", "eip155:-1:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"} {
		bad := edit(update, func(u *associations.IdentityUpdate) {
			u.Actions[0].GetCreateInbox().GetInitialIdentifierSignature().GetErc_6492().AccountId = account
		})
		if _, err := identity.Verify(bad, onChain); !errors.Is(err, identity.ErrMalformed) && !errors.Is(err, identity.ErrBadAddress) {
			t.Errorf("account %q: %v", account, err)
		}
	}
}

// attach lets a contract sign a draft on one chain, and an installation beside it.
func (c contract) attach(t *testing.T, d *identity.Draft, chain uint64, others ...any) identity.Verified {
	t.Helper()
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Attach(identity.AddressFrom(c.account), c.sign(t, chain, 1, text)); err != nil {
		t.Fatal(err)
	}
	v, err := identity.Verify(sign(t, d, others...), ethereum.Verifier{Chain: c})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// I8: a contract's chain is part of who it is, in every action, for as long as it
// is a member.
func TestContractWalletKeepsItsChain(t *testing.T) {
	w := newWorld(t)
	c := contract{account: common.BytesToAddress(w.w2.Identifier().Bytes())} // a key's address that became a contract
	id := identity.AddressFrom(c.account)
	s, err := w.state.Apply(c.attach(t, w.draft().Add(id, w.w1.Identifier()), 10, w.w1))
	if err != nil {
		t.Fatal(err)
	}
	for m := range s.Members() {
		want := uint64(0)
		if m.ID == id {
			want = 10
		}
		if m.Chain != want {
			t.Errorf("%s is on chain %d, want %d", m.ID, m.Chain, want)
		}
	}
	s, err = s.Apply(c.attach(t, w.draft().ChangeRecovery(id, w.w1.Identifier()).Add(w.w3.Identifier(), id), 10, w.w1, w.w3))
	if err != nil {
		t.Fatal(err)
	}
	for name, draft := range map[string]func() *identity.Draft{
		"adds":    func() *identity.Draft { return identity.NewDraft(w.inbox, start.Add(1e9)).Add(w.a2.id, id) },
		"revokes": func() *identity.Draft { return identity.NewDraft(w.inbox, start.Add(2e9)).Revoke(w.a1.id, id) },
		"changes recovery": func() *identity.Draft {
			return identity.NewDraft(w.inbox, start.Add(3e9)).ChangeRecovery(w.w1.Identifier(), id)
		},
	} {
		var others []any
		if name == "adds" {
			others = []any{w.a2}
		}
		if _, err := s.Apply(c.attach(t, draft(), 1, others...)); !errors.Is(err, identity.ErrChainMismatch) {
			t.Errorf("%s from another chain: %v", name, err)
		}
		if _, err := s.Apply(verify(t, sign(t, draft(), append(others, w.w2)...))); !errors.Is(err, identity.ErrChainMismatch) {
			t.Errorf("%s with its old key: %v", name, err)
		}
		if _, err := s.Apply(c.attach(t, draft(), 10, others...)); err != nil {
			t.Errorf("%s from its own chain: %v", name, err)
		}
	}
	// As recovery identifier alone it has no chain.
	s, err = s.Apply(c.attach(t, identity.NewDraft(w.inbox, start.Add(4e9)).Revoke(id, id), 10))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(c.attach(t, identity.NewDraft(w.inbox, start.Add(5e9)).Revoke(w.a1.id, id), 1)); err != nil {
		t.Errorf("recovery that is no member, from any chain: %v", err)
	}
}

// I8: a contract may take many spellings of one signature, and ERC-6492 wraps
// each again; whichever comes second is a replay.
func TestContractSignatureIsNotSpeltAnew(t *testing.T) {
	w := newWorld(t)
	c := contract{account: common.BytesToAddress(w.w2.Identifier().Bytes())}
	id := identity.AddressFrom(c.account)
	s, err := w.state.Apply(c.attach(t, w.draft().Add(id, w.w1.Identifier()).ChangeRecovery(id, w.w1.Identifier()), 10, w.w1))
	if err != nil {
		t.Fatal(err)
	}
	d := identity.NewDraft(w.inbox, start.Add(1e9)).Revoke(w.a1.id, id)
	if s, err = s.Apply(c.attach(t, d, 10)); err != nil {
		t.Fatal(err)
	}
	update, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	sig := update.Actions[0].GetRevoke().GetRecoveryIdentifierSignature().GetErc_6492()
	sig.Signature = append(sig.Signature, ' ')
	v, err := identity.Verify(update, ethereum.Verifier{Chain: c})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(v); !errors.Is(err, identity.ErrReplay) {
		t.Errorf("spelt anew: %v", err)
	}
}

// legacySignature signs text with a v2 key that a wallet delegated to.
func legacySignature(t *testing.T, grantor, delegate *ethereum.Key, text string) *associations.Signature {
	t.Helper()
	private, err := crypto.ToECDSA(delegate.PrivateBytes())
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := proto.Marshal(&legacy.UnsignedPublicKey{
		CreatedNs:             1,
		Secp256K1Uncompressed: &legacy.UnsignedPublicKey_Secp256K1Uncompressed{Bytes: crypto.FromECDSAPub(&private.PublicKey)},
	})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := grantor.SignMessage("XMTP : Create Identity\n" + hex.EncodeToString(keyBytes) + "\n\nFor more info: https://xmtp.org/signatures/")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := delegate.SignMessage(text)
	if err != nil {
		t.Fatal(err)
	}
	return &associations.Signature{Signature: &associations.Signature_DelegatedErc_191{DelegatedErc_191: &associations.LegacyDelegatedSignature{
		Signature: &associations.RecoverableEcdsaSignature{Bytes: sig},
		DelegatedKey: &legacy.SignedPublicKey{KeyBytes: keyBytes, Signature: &legacy.Signature{Union: &legacy.Signature_WalletEcdsaCompact{
			WalletEcdsaCompact: &legacy.Signature_WalletECDSACompact{Bytes: grant[:64], Recovery: uint32(grant[64] - 27)},
		}}},
	}}}
}

// A v2 key speaks for its wallet once, in the inbox of nonce 0, and never for
// the recovery identifier.
func TestLegacyDelegatedSignature(t *testing.T) {
	w := newWorld(t)
	owner := w.w1.Identifier()
	register := func(nonce uint64) identity.Verified {
		d, err := identity.Register(owner, nonce, w.a1.id, start)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := d.Text()
		if err := d.Attach(owner, legacySignature(t, w.w1, w.w2, text)); err != nil {
			t.Fatal(err)
		}
		return verify(t, sign(t, d, w.a1))
	}
	if _, err := identity.Fold(register(1)); !errors.Is(err, identity.ErrLegacySignature) {
		t.Errorf("in an inbox of nonce 1: %v", err)
	}
	s, err := identity.Fold(register(0))
	if err != nil {
		t.Fatal(err)
	}
	d := identity.NewDraft(s.InboxID(), start).Add(w.a2.id, owner)
	text, _ := d.Text()
	if err := d.Attach(owner, legacySignature(t, w.w1, w.w2, text)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(verify(t, sign(t, d, w.a2))); !errors.Is(err, identity.ErrReplay) {
		t.Errorf("the same delegation again: %v", err)
	}
	d = identity.NewDraft(s.InboxID(), start).Revoke(w.a1.id, owner)
	text, _ = d.Text()
	if err := d.Attach(owner, legacySignature(t, w.w1, w.w3, text)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(verify(t, sign(t, d))); !errors.Is(err, identity.ErrLegacySignature) {
		t.Errorf("a revocation by a v2 key: %v", err)
	}
	// The delegation names another key than the one that signed.
	forged := legacySignature(t, w.w1, w.w2, text)
	forged.GetDelegatedErc_191().Signature = legacySignature(t, w.w1, w.w3, text).GetDelegatedErc_191().Signature
	d = identity.NewDraft(s.InboxID(), start).Revoke(w.a1.id, owner)
	if err := d.Attach(owner, forged); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Verify(sign(t, d), ethereum.Verifier{}); !errors.Is(err, identity.ErrBadSignature) {
		t.Errorf("signed by a key that was not delegated to: %v", err)
	}
}

// What an app signs as itself serves no other purpose.
func TestPublicSignatures(t *testing.T) {
	a := installation(t, "a1")
	sig, err := identity.SignPublic(a.key, "I was here")
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifyPublic(a.id.Bytes(), "I was here", sig); err != nil {
		t.Error(err)
	}
	update, err := identity.SignUpdateText(a.key, "I was here")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"an update's": update, "none": nil, "cut": sig[:63]} {
		if err := identity.VerifyPublic(a.id.Bytes(), "I was here", bad); !errors.Is(err, identity.ErrBadSignature) {
			t.Errorf("%s signature: %v", name, err)
		}
	}
	if err := identity.VerifyPublic(nil, "I was here", sig); !errors.Is(err, identity.ErrBadSignature) {
		t.Error("verified without a key")
	}
}
