package mls

import (
	"errors"
	"fmt"
	"io"

	"github.com/conclave-chat/conclave/mls/hpke"
)

// The key schedule. See RFC 9420, Section 8.

// joinerSecret derives joiner_secret from the init secret of the epoch before,
// the commit secret and the encoded GroupContext of the new epoch.
func (s CipherSuite) joinerSecret(initSecret, commitSecret secret, groupContext []byte) secret {
	return s.expandWithLabel(s.extract(initSecret, commitSecret), "joiner", groupContext, hashSize)
}

// welcomeSecret derives welcome_secret from the joiner secret and the PSK
// secret (zeroSecret where there are no PSKs).
func (s CipherSuite) welcomeSecret(joinerSecret, pskSecret secret) secret {
	return s.deriveSecret(s.extract(joinerSecret, pskSecret), "welcome")
}

// epochSecret derives epoch_secret, of which everything below is made.
func (s CipherSuite) epochSecret(joinerSecret, pskSecret secret, groupContext []byte) secret {
	return s.expandWithLabel(s.extract(joinerSecret, pskSecret), "epoch", groupContext, hashSize)
}

// zeroSecret is the all-zero vector of length KDF.Nh: the PSK secret without
// PSKs, and the commit secret without a path.
func (s CipherSuite) zeroSecret() secret { return make(secret, hashSize) }

// epochSecrets are the secrets that all members of one epoch share and keep.
// See RFC 9420, Table 4. They are immutable. The epoch secret is not among
// them, nor is encryption_secret, which becomes the root of the secret tree.
type epochSecrets struct {
	suite         CipherSuite
	senderData    secret
	exporter      secret
	external      secret
	confirmation  secret
	membership    secret
	resumption    secret
	authenticator secret
	init          secret
}

// Format hides the secrets.
func (epochSecrets) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// nextEpochSecrets takes the key schedule from an epoch's init secret to the secrets
// of the epoch after it, whose encoded GroupContext is given (Section 8, Figure 22).
func (s CipherSuite) nextEpochSecrets(init, commit, psk secret, context []byte) (joiner secret, shared *epochSecrets, encryption secret) {
	joiner = s.joinerSecret(init, commit, context)
	shared, encryption = s.newEpochSecrets(s.epochSecret(joiner, psk, context))
	return joiner, shared, encryption
}

// newEpochSecrets derives the secrets of an epoch, and apart from them the
// encryption secret, which nobody keeps.
func (s CipherSuite) newEpochSecrets(epochSecret secret) (shared *epochSecrets, encryption secret) {
	shared = &epochSecrets{
		suite:         s,
		senderData:    s.deriveSecret(epochSecret, "sender data"),
		exporter:      s.deriveSecret(epochSecret, "exporter"),
		external:      s.deriveSecret(epochSecret, "external"),
		confirmation:  s.deriveSecret(epochSecret, "confirm"),
		membership:    s.deriveSecret(epochSecret, "membership"),
		resumption:    s.deriveSecret(epochSecret, "resumption"),
		authenticator: s.deriveSecret(epochSecret, "authentication"),
		init:          s.deriveSecret(epochSecret, "init"),
	}
	return shared, s.deriveSecret(epochSecret, "encryption")
}

// confirmationTag is the MAC that shows agreement on the transcript. See
// RFC 9420, Section 6.1.
func (e *epochSecrets) confirmationTag(confirmedTranscriptHash []byte) []byte {
	return e.suite.mac(e.confirmation, confirmedTranscriptHash)
}

// verifyConfirmationTag checks a received confirmation tag.
func (e *epochSecrets) verifyConfirmationTag(confirmedTranscriptHash, tag []byte) error {
	if !equalTags(e.confirmationTag(confirmedTranscriptHash), tag) {
		return errConfirmationTag
	}
	return nil
}

// maxExport is what HKDF-Expand can produce.
const maxExport = 255 * hashSize

// export is MLS-Exporter. See RFC 9420, Section 8.5.
func (e *epochSecrets) export(label string, context []byte, n int) (secret, error) {
	if n < 0 || n > maxExport {
		return nil, fmt.Errorf("mls: export %d bytes: more than %d", n, maxExport)
	}
	s := e.suite
	return s.expandWithLabel(s.deriveSecret(e.exporter, label), "exported", s.hash(context), n), nil
}

// externalKeyPair derives the key pair of the whole group to which external
// joiners encapsulate. See RFC 9420, Section 8.
func (e *epochSecrets) externalKeyPair() (private secret, public []byte, err error) {
	return e.suite.deriveKeyPair(e.external)
}

// External initialization. See RFC 9420, Section 8.3.

const labelExternalInit = "MLS 1.0 external init secret"

// encapsulateInit makes the init secret of an external commit, and the KEM
// output that carries it to the group.
func (s CipherSuite) encapsulateInit(rand io.Reader, externalPublic []byte) (kemOutput []byte, initSecret secret, err error) {
	kemOutput, c, err := s.hpke().SetupSender(rand, externalPublic, nil)
	if errors.Is(err, hpke.ErrKey) {
		return nil, nil, errEncryptionKey
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mls: encapsulate init secret: %w", err)
	}
	return kemOutput, c.Export([]byte(labelExternalInit), hashSize), nil
}

// decapsulateInit is the members' side of encapsulateInit.
func (e *epochSecrets) decapsulateInit(kemOutput []byte) (secret, error) {
	private, public, err := e.externalKeyPair()
	if err != nil {
		return nil, err
	}
	c, err := e.suite.hpke().SetupRecipient(private, public, kemOutput, nil)
	if err != nil {
		return nil, errExternalInit
	}
	return c.Export([]byte(labelExternalInit), hashSize), nil
}
