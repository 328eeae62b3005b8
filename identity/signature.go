package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/legacy"
)

// A Verifier is the cryptography of wallets, which this package does not carry:
// package identity/ethereum has one. It must be safe for concurrent use.
type Verifier interface {
	// RecoverEOA returns who signed message under EIP-191 ("personal_sign").
	// sig is 65 bytes R‖S‖V with V 0, 1, 27 or 28 and S in either half, or 64
	// bytes as in ERC-2098. canonical is the same for every such spelling of
	// one signature.
	RecoverEOA(message string, sig []byte) (signer Identifier, canonical []byte, err error)

	// AddressOf returns the address of a secp256k1 public key in SEC1 form.
	AddressOf(publicKey []byte) (Identifier, error)

	// VerifyContract asks a smart contract wallet (ERC-1271, ERC-6492) whether
	// sig is its signature over hash, as its chain stood at block; nil stands
	// for the newest block. It returns the block asked, and an error with
	// ErrNeedChain in its chain where no answer could be had, any other error
	// where the answer is no.
	VerifyContract(account Account, block *uint64, hash [32]byte, sig []byte) (uint64, error)
}

// Trusting verifies like another Verifier, but takes it that every contract
// signed what it is said to have signed. What it refuses, no chain can save.
type Trusting struct{ Verifier }

// VerifyContract implements Verifier.
func (Trusting) VerifyContract(_ Account, block *uint64, _ [32]byte, _ []byte) (uint64, error) {
	if block == nil {
		return 0, nil
	}
	return *block, nil
}

// sigKind is what a signature was made with.
type sigKind uint8

const (
	byWallet       sigKind = iota + 1 // ERC-191
	byContract                        // ERC-1271, ERC-6492
	byLegacyKey                       // a v2 key that a wallet delegated to
	byInstallation                    // Ed25519ph
	byPasskey                         // WebAuthn
)

// fits reports whether a signature of this kind can speak for a member. It is
// asked once, when the signature is verified: rules compare signers afterwards.
func (k sigKind) fits(member Kind) bool {
	switch k {
	case byWallet, byContract, byLegacyKey:
		return member == Ethereum
	case byInstallation:
		return member == Installation
	case byPasskey:
		return member == Passkey
	}
	return false
}

// A proof is a signature that was verified.
type proof struct {
	signer Identifier
	kind   sigKind
	chain  uint64 // where a contract signed; otherwise 0
	key    replayKey
}

// A replayKey stands for a signature in the memory of what was used: 16 bytes of
// the SHA-256 of its canonical form. Two signatures that collide can only make
// their own author's update look replayed.
type replayKey [16]byte

func newReplayKey(canonical []byte) replayKey {
	sum := sha256.Sum256(canonical)
	return replayKey(sum[:16])
}

// verifySignature checks one signature over text and says whose it is.
func verifySignature(text string, s *associations.Signature, v Verifier) (proof, error) {
	switch s := s.GetSignature().(type) {
	case *associations.Signature_Erc_191:
		signer, canonical, err := recoverEOA(v, text, s.Erc_191.GetBytes())
		return proof{signer, byWallet, 0, newReplayKey(canonical)}, err
	case *associations.Signature_InstallationKey:
		return verifyInstallation(text, s.InstallationKey)
	case *associations.Signature_Erc_6492:
		return verifyContract(text, s.Erc_6492, v)
	case *associations.Signature_DelegatedErc_191:
		return verifyLegacy(text, s.DelegatedErc_191, v)
	case *associations.Signature_Passkey:
		return verifyPasskey(text, s.Passkey)
	}
	return proof{}, fmt.Errorf("%w: missing signature", ErrMalformed)
}

func recoverEOA(v Verifier, text string, sig []byte) (Identifier, []byte, error) {
	signer, canonical, err := v.RecoverEOA(text, sig)
	if err != nil {
		return Identifier{}, nil, fmt.Errorf("%w: wallet: %w", ErrBadSignature, err)
	}
	return signer, canonical, nil
}

func verifyInstallation(text string, s *associations.RecoverableEd25519Signature) (proof, error) {
	if err := verifyPrehashed(s.GetPublicKey(), text, s.GetBytes(), updateContext); err != nil {
		return proof{}, err
	}
	signer, err := InstallationFrom(s.GetPublicKey())
	return proof{signer, byInstallation, 0, newReplayKey(s.GetBytes())}, err
}

// verifyContract asks the contract. Only a contract knows how many spellings its
// signatures have, and ERC-6492 wraps any of them again, so what may not be used
// twice is that this account signed this text.
func verifyContract(text string, s *associations.SmartContractWalletSignature, v Verifier) (proof, error) {
	account, err := ParseAccount(s.GetAccountId())
	if err != nil {
		return proof{}, err
	}
	block := s.GetBlockNumber()
	if _, err := v.VerifyContract(account, &block, HashMessage(text), s.GetSignature()); err != nil {
		return proof{}, fmt.Errorf("identity: verify contract signature: %w", contractError{err})
	}
	return proof{account.Address, byContract, account.Chain, newReplayKey([]byte(account.String() + "\n" + text))}, nil
}

// contractError is ErrBadSignature unless nobody could be asked.
type contractError struct{ error }

func (e contractError) Unwrap() error { return e.error }
func (e contractError) Is(target error) bool {
	return target == ErrBadSignature && !errors.Is(e.error, ErrNeedChain)
}

// verifyLegacy checks both links: the v2 key signed the text, and the wallet
// signed the v2 key. The wallet's signature is what may not be used twice.
func verifyLegacy(text string, s *associations.LegacyDelegatedSignature, v Verifier) (proof, error) {
	delegate, _, err := recoverEOA(v, text, s.GetSignature().GetBytes())
	if err != nil {
		return proof{}, err
	}
	signed := s.GetDelegatedKey()
	unsigned := new(legacy.UnsignedPublicKey)
	if err := proto.Unmarshal(signed.GetKeyBytes(), unsigned); err != nil {
		return proof{}, fmt.Errorf("%w: legacy key: %w", ErrMalformed, err)
	}
	address, err := v.AddressOf(unsigned.GetSecp256K1Uncompressed().GetBytes())
	if err != nil {
		return proof{}, fmt.Errorf("%w: legacy key: %w", ErrBadSignature, err)
	}
	if address != delegate {
		return proof{}, fmt.Errorf("%w: not signed by the delegated legacy key", ErrBadSignature)
	}
	var compact []byte
	var recovery uint32
	switch u := signed.GetSignature().GetUnion().(type) {
	case *legacy.Signature_EcdsaCompact:
		compact, recovery = u.EcdsaCompact.GetBytes(), u.EcdsaCompact.GetRecovery()
	case *legacy.Signature_WalletEcdsaCompact:
		compact, recovery = u.WalletEcdsaCompact.GetBytes(), u.WalletEcdsaCompact.GetRecovery()
	}
	if len(compact) != 64 || recovery > 255 {
		return proof{}, fmt.Errorf("%w: legacy key without a wallet's signature", ErrMalformed)
	}
	grant := "XMTP : Create Identity\n" + hex.EncodeToString(signed.GetKeyBytes()) +
		"\n\nFor more info: https://xmtp.org/signatures/"
	wallet, canonical, err := recoverEOA(v, grant, append(compact[:64:64], byte(recovery)))
	return proof{wallet, byLegacyKey, 0, newReplayKey(canonical)}, err
}

// verifyPasskey checks a WebAuthn assertion (W3C Web Authentication, 7.2): the
// text is the challenge, and what is signed is the authenticator's data and the
// hash of the client's.
func verifyPasskey(text string, s *associations.RecoverablePasskeySignature) (proof, error) {
	// A map keeps the names case-sensitive, as the specification has them.
	var fields map[string]json.RawMessage
	var challenge, origin string
	err := json.Unmarshal(s.GetClientDataJson(), &fields)
	if err == nil {
		err = json.Unmarshal(fields["challenge"], &challenge)
	}
	if err == nil {
		err = json.Unmarshal(fields["origin"], &origin)
	}
	if err != nil {
		return proof{}, fmt.Errorf("%w: passkey client data: %w", ErrMalformed, err)
	}
	if challenge != base64.RawURLEncoding.EncodeToString([]byte(text)) {
		return proof{}, fmt.Errorf("%w: passkey answered another challenge", ErrBadSignature)
	}
	key, err := p256Key(s.GetPublicKey())
	if err != nil {
		return proof{}, err
	}
	clientHash := sha256.Sum256(s.GetClientDataJson())
	digest := sha256.New()
	digest.Write(s.GetAuthenticatorData())
	digest.Write(clientHash[:])
	if !ecdsa.VerifyASN1(key, digest.Sum(nil), s.GetSignature()) {
		return proof{}, fmt.Errorf("%w: passkey", ErrBadSignature)
	}
	canonical, err := canonicalP256(s.GetSignature())
	if err != nil {
		return proof{}, err
	}
	signer, err := PasskeyFrom(s.GetPublicKey())
	return proof{signer, byPasskey, 0, newReplayKey(canonical)}, err
}

func p256Key(sec1 []byte) (*ecdsa.PublicKey, error) {
	if len(sec1) == 33 {
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), sec1)
		if x == nil {
			return nil, fmt.Errorf("%w: passkey is not a point of P-256", ErrBadSignature)
		}
		sec1 = append([]byte{4}, make([]byte, 64)...)
		x.FillBytes(sec1[1:33])
		y.FillBytes(sec1[33:])
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), sec1)
	if err != nil {
		return nil, fmt.Errorf("%w: passkey: %w", ErrBadSignature, err)
	}
	return key, nil
}

// canonicalP256 returns R‖S with S in the lower half: (R, n-S) verifies as well.
func canonicalP256(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("%w: passkey: %w", ErrBadSignature, err)
	}
	n := elliptic.P256().Params().N
	if other := new(big.Int).Sub(n, sig.S); other.Cmp(sig.S) < 0 {
		sig.S = other
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}
