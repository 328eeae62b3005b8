package mls

import "errors"

// ErrInvalid is in the chain of every error that says: these bytes, or this
// message, are not valid under RFC 9420. The group is unchanged.
var ErrInvalid = errors.New("mls: invalid")

// ErrUnsupported is in the chain of an error that says: a group asks for more
// than the capabilities of one of its members. It is ErrInvalid too.
var ErrUnsupported = errors.New("mls: not supported by a member")

// invalid makes a rule of RFC 9420 an error that satisfies
// errors.Is(err, ErrInvalid).
type invalid string

func (e invalid) Error() string { return "mls: " + string(e) }
func (e invalid) Is(target error) bool {
	switch e {
	case errExtensionUnsupported, errProposalUnsupported, errCredentialUnsupported:
		return target == ErrInvalid || target == ErrUnsupported
	}
	return target == ErrInvalid
}

// Decoding (Section 2.1).
const (
	errTruncated   = invalid("truncated input")
	errTrailing    = invalid("bytes after the end of the structure")
	errBadLength   = invalid("vector length with the reserved prefix")
	errNotMinimal  = invalid("vector length is not minimally encoded")
	errBadOptional = invalid("optional<T> presence octet is neither 0 nor 1")
)

// Cryptographic objects (Section 5).
const (
	errDecrypt       = invalid("ciphertext does not open")
	errSignature     = invalid("signature does not verify")
	errSignatureKey  = invalid("signature key is not valid for the cipher suite")
	errEncryptionKey = invalid("encryption key is not valid for the cipher suite")
	errSignerSuite   = invalid("signer is for another signature scheme")
)

// Message framing (Section 6).
const (
	errVersion             = invalid("protocol version is not mls10")
	errWireFormat          = invalid("unknown wire format")
	errContentType         = invalid("unknown content type")
	errSenderType          = invalid("unknown sender type")
	errSenderContent       = invalid("this type of sender may not send this content")
	errApplicationInPublic = invalid("application data in a PublicMessage")
	errMembershipTag       = invalid("membership tag does not match")
	errPadding             = invalid("padding is not zero")
)

// Ratchet tree (Section 7).
const (
	errLeafSource            = invalid("leaf node source does not fit where the leaf stands")
	errDuplicateExtension    = invalid("two extensions of one type in a list")
	errExtensionPlace        = invalid("extension of a type that has no place here")
	errSuiteUnsupported      = invalid("cipher suite or protocol version is not among a leaf's capabilities")
	errExtensionUnsupported  = invalid("extension is not among a member's capabilities")
	errProposalUnsupported   = invalid("proposal type is not among a member's capabilities")
	errCredentialUnsupported = invalid("credential type is not among a member's capabilities")
	errTreeSize              = invalid("ratchet tree is empty, too large, or ends in a blank node")
	errTreeNode              = invalid("ratchet tree node is of the wrong type for its place")
	errSignatureKeyTaken     = invalid("signature key appears twice in the tree")
	errEncryptionKeyTaken    = invalid("encryption key appears twice in the tree")
	errUnmergedLeaves        = invalid("unmerged leaves are not sorted, blank, out of the subtree or not listed on the way")
	errParentHash            = invalid("parent hash does not match")
	errBlankLeaf             = invalid("leaf index does not name a member")
	errPathLength            = invalid("update path does not match the filtered direct path")
	errPathCiphertexts       = invalid("update path does not have one ciphertext per node of the resolution")
	errTreeHash              = invalid("tree hash does not match")
)

// Key schedule (Section 8).
const (
	errConfirmationTag = invalid("confirmation tag does not match")
	errExternalInit    = invalid("external init does not open")
	errPSKType         = invalid("unknown type of pre-shared key")
	errPSKUsage        = invalid("unknown usage of a resumption pre-shared key")
)

// Secret tree (Section 9). The first three are for callers to tell apart; they
// are also ErrInvalid.
const (
	// ErrReplayed says that the key of a message was used before, or erased
	// because newer messages of its sender left it behind.
	ErrReplayed = invalid("message key was used or erased")
	// ErrTooFarAhead says that a message skips more generations of its sender
	// than a member will derive.
	ErrTooFarAhead = invalid("message is too many generations ahead")
	// ErrRatchetExhausted says that a member has sent 2^32-1 messages in one
	// epoch. The next commit starts afresh.
	ErrRatchetExhausted = invalid("no generation is left in this epoch")

	errSenderRange = invalid("sender is not a leaf of the tree")
	errStoredTree  = invalid("stored secret tree is malformed")
)

// Key packages (Section 10).
const (
	errKeyPackageVersion = invalid("key package is for another protocol version")
	errInitKeyReused     = invalid("init key equals the leaf's encryption key")
	errKeyPackageSuite   = invalid("key package is for another cipher suite than the group")
)

// Proposal lists and commits (Section 12).
const (
	errProposalType        = invalid("unknown proposal type")
	errProposalOrRef       = invalid("unknown kind of ProposalOrRef")
	errProposalRef         = invalid("ProposalRef is shorter than a hash")
	errExternalSender      = invalid("external sender is not in the group's list")
	errExternalCommit      = invalid("proposals do not make an external commit")
	errExternalInitInside  = invalid("external init in a commit by a member")
	errOwnUpdate           = invalid("update by the committer, or by somebody who is not a member")
	errRemoveCommitter     = invalid("commit removes its committer")
	errLeafChangedTwice    = invalid("two updates or removes of one leaf")
	errReInitVersion       = invalid("reinit to an older protocol version")
	errReInitWithOthers    = invalid("reinit with other proposals")
	errTwoExtensionChanges = invalid("two changes of the group context's extensions")
	errPSKNonce            = invalid("nonce of a pre-shared key has the wrong length")
	errPSKTwice            = invalid("pre-shared key named twice")
	errTooManyPSKs         = invalid("too many pre-shared keys")
	errPathMissing         = invalid("commit has no path where it must have one")
	errPathKey             = invalid("path secret is missing, or does not fit its public key")
	errQueueFull           = invalid("too many proposals wait in this epoch")
	errMessageKind         = invalid("message is of another kind than expected here")
)

// Joining (Section 12.4.3).
const (
	errNotForUs        = invalid("welcome does not name this key package")
	errOwnLeafMissing  = invalid("own leaf is not in the tree")
	errNoTree          = invalid("no ratchet tree at hand")
	errNoExternalPub   = invalid("group info has no external key")
	errSuiteMismatch   = invalid("cipher suites do not match")
	errResumptionEpoch = invalid("resumption pre-shared key is not for this group's first epoch")
)

// Stored state.
const (
	errStagedFormat = invalid("stored commit is malformed, or of another group or message")
	errNotStorable  = invalid("only an own commit to the own group can be stored")
	errStoredGroup  = invalid("stored group is malformed")
)
