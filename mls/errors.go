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
	errTruncated   = invalid("truncated input")                               // M1
	errTrailing    = invalid("bytes after the end of the structure")          // M2
	errBadLength   = invalid("vector length with the reserved prefix")        // M3
	errNotMinimal  = invalid("vector length is not minimally encoded")        // M4
	errBadOptional = invalid("optional<T> presence octet is neither 0 nor 1") // M5
)

// Cryptographic objects (Section 5).
const (
	errDecrypt       = invalid("ciphertext does not open")                         // M6
	errSignature     = invalid("signature does not verify")                        // M7
	errSignatureKey  = invalid("signature key is not valid for the cipher suite")  // M8
	errEncryptionKey = invalid("encryption key is not valid for the cipher suite") // M9
	errSignerSuite   = invalid("signer is for another signature scheme")           // M10
)

// Message framing (Section 6).
const (
	errVersion             = invalid("protocol version is not mls10")                 // M11
	errWireFormat          = invalid("unknown wire format")                           // M12
	errContentType         = invalid("unknown content type")                          // M13
	errSenderType          = invalid("unknown sender type")                           // M14
	errSenderContent       = invalid("this type of sender may not send this content") // M15
	errApplicationInPublic = invalid("application data in a PublicMessage")           // M16
	errMembershipTag       = invalid("membership tag does not match")                 // M17
	errPadding             = invalid("padding is not zero")                           // M18
)

// Ratchet tree (Section 7).
const (
	errLeafSource            = invalid("leaf node source does not fit where the leaf stands")                                // M19
	errDuplicateExtension    = invalid("two extensions of one type in a list")                                               // M20
	errExtensionPlace        = invalid("extension of a type that has no place here")                                         // M21
	errSuiteUnsupported      = invalid("cipher suite or protocol version is not among a leaf's capabilities")                // M22
	errExtensionUnsupported  = invalid("extension is not among a member's capabilities")                                     // M23
	errProposalUnsupported   = invalid("proposal type is not among a member's capabilities")                                 // M24
	errCredentialUnsupported = invalid("credential type is not among a member's capabilities")                               // M25
	errTreeSize              = invalid("ratchet tree is empty, too large, or ends in a blank node")                          // M26
	errTreeNode              = invalid("ratchet tree node is of the wrong type for its place")                               // M27
	errSignatureKeyTaken     = invalid("signature key appears twice in the tree")                                            // M28
	errEncryptionKeyTaken    = invalid("encryption key appears twice in the tree")                                           // M29
	errUnmergedLeaves        = invalid("unmerged leaves are not sorted, blank, out of the subtree or not listed on the way") // M30
	errParentHash            = invalid("parent hash does not match")                                                         // M31
	errBlankLeaf             = invalid("leaf index does not name a member")                                                  // M32
	errPathLength            = invalid("update path does not match the filtered direct path")                                // M33
	errPathCiphertexts       = invalid("update path does not have one ciphertext per node of the resolution")                // M34
	errTreeHash              = invalid("tree hash does not match")                                                           // M35
)

// Key schedule (Section 8).
const (
	errConfirmationTag = invalid("confirmation tag does not match")              // M36
	errExternalInit    = invalid("external init does not open")                  // M37
	errPSKType         = invalid("unknown type of pre-shared key")               // M38
	errPSKUsage        = invalid("unknown usage of a resumption pre-shared key") // M39
)

// Secret tree (Section 9). The first three are for callers to tell apart; they
// are also ErrInvalid.
const (
	// ErrReplayed says that the key of a message was used before, or erased
	// because newer messages of its sender left it behind.
	ErrReplayed = invalid("message key was used or erased") // M40
	// ErrTooFarAhead says that a message skips more generations of its sender
	// than a member will derive.
	ErrTooFarAhead = invalid("message is too many generations ahead") // M41
	// ErrRatchetExhausted says that a member has sent 2^32-1 messages in one
	// epoch. The next commit starts afresh.
	ErrRatchetExhausted = invalid("no generation is left in this epoch") // M42
	errSenderRange      = invalid("sender is not a leaf of the tree")    // M43
	errStoredTree       = invalid("stored secret tree is malformed")     // M44
)

// Key packages (Section 10).
const (
	errKeyPackageVersion = invalid("key package is for another protocol version")            // M45
	errInitKeyReused     = invalid("init key equals the leaf's encryption key")              // M46
	errKeyPackageSuite   = invalid("key package is for another cipher suite than the group") // M47
)

// Proposal lists and commits (Section 12).
const (
	errProposalType        = invalid("unknown proposal type")                                       // M48
	errProposalOrRef       = invalid("unknown kind of ProposalOrRef")                               // M49
	errProposalRef         = invalid("ProposalRef is shorter than a hash")                          // M50
	errExternalSender      = invalid("external sender is not in the group's list")                  // M51
	errExternalCommit      = invalid("proposals do not make an external commit")                    // M52
	errExternalInitInside  = invalid("external init in a commit by a member")                       // M53
	errOwnUpdate           = invalid("update by the committer, or by somebody who is not a member") // M54
	errRemoveCommitter     = invalid("commit removes its committer")                                // M55
	errLeafChangedTwice    = invalid("two updates or removes of one leaf")                          // M56
	errReInitVersion       = invalid("reinit to an older protocol version")                         // M57
	errReInitWithOthers    = invalid("reinit with other proposals")                                 // M58
	errTwoExtensionChanges = invalid("two changes of the group context's extensions")               // M59
	errPSKNonce            = invalid("nonce of a pre-shared key has the wrong length")              // M60
	errPSKTwice            = invalid("pre-shared key named twice")                                  // M61
	errTooManyPSKs         = invalid("too many pre-shared keys")                                    // M62
	errPathMissing         = invalid("commit has no path where it must have one")                   // M63
	errPathKey             = invalid("path secret is missing, or does not fit its public key")      // M64
	errQueueFull           = invalid("too many proposals wait in this epoch")                       // M65
	errMessageKind         = invalid("message is of another kind than expected here")               // M66
)

// Joining (Section 12.4.3).
const (
	errNotForUs        = invalid("welcome does not name this key package")                        // M67
	errOwnLeafMissing  = invalid("own leaf is not in the tree")                                   // M68
	errNoTree          = invalid("no ratchet tree at hand")                                       // M69
	errNoExternalPub   = invalid("group info has no external key")                                // M70
	errSuiteMismatch   = invalid("cipher suites do not match")                                    // M71
	errResumptionEpoch = invalid("resumption pre-shared key is not for this group's first epoch") // M72
)

// Stored state.
const (
	errStagedFormat = invalid("stored commit is malformed, or of another group or message") // M73
	errNotStorable  = invalid("only an own commit to the own group can be stored")          // M74
	errStoredGroup  = invalid("stored group is malformed")                                  // M75
)
