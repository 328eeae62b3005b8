package identity

import "errors"

// Names.
var (
	// ErrBadAddress: not an Ethereum address, or its checksum does not match.
	ErrBadAddress = errors.New("identity: bad address")
	// ErrBadIdentifier: a key of the wrong length, or a kind that cannot stand here.
	ErrBadIdentifier = errors.New("identity: bad identifier")
	// ErrBadInboxID: not 64 lower-case hex digits.
	ErrBadInboxID = errors.New("identity: bad inbox id")
)

// Verifying an update.
var (
	// ErrMalformed: the bytes are not an update, lack a field, or are over a limit.
	ErrMalformed = errors.New("identity: malformed update")
	// ErrBadSignature: a signature does not verify over the update's text.
	ErrBadSignature = errors.New("identity: bad signature")
	// ErrSignatureKind: this kind of signature cannot speak for this kind of member.
	ErrSignatureKind = errors.New("identity: signature kind does not fit the member")
	// ErrNeedChain: a smart contract wallet signed, and no chain could be asked.
	// The update is neither valid nor invalid: wait.
	ErrNeedChain = errors.New("identity: verification needs a chain")
)

// Folding an update: one error for each rule.
var (
	// ErrMultipleCreate: the inbox exists and is created again.
	ErrMultipleCreate = errors.New("identity: inbox exists already")
	// ErrNotCreated: the first action of a log is not CreateInbox.
	ErrNotCreated = errors.New("identity: inbox does not exist")
	// ErrReplay: a signature served an earlier update.
	ErrReplay = errors.New("identity: signature was used before")
	// ErrWrongSigner: the one created or added did not sign.
	ErrWrongSigner = errors.New("identity: signed by somebody else")
	// ErrSelfAdd: a member adds itself.
	ErrSelfAdd = errors.New("identity: member adds itself")
	// ErrNotMember: the one who adds is neither a member nor the recovery identifier.
	ErrNotMember = errors.New("identity: signer is not a member")
	// ErrNotRecovery: only the recovery identifier revokes and changes recovery.
	ErrNotRecovery = errors.New("identity: signer is not the recovery identifier")
	// ErrLegacySignature: a delegated signature of XMTP v2 outside an inbox of nonce 0.
	ErrLegacySignature = errors.New("identity: legacy signature not allowed here")
	// ErrInstallationAdds: an installation adds an installation.
	ErrInstallationAdds = errors.New("identity: an installation may not add an installation")
	// ErrChainMismatch: a member signs from another chain than it was added on.
	ErrChainMismatch = errors.New("identity: signature is from another chain")
	// ErrWrongInbox: the update names another inbox than it acts on.
	ErrWrongInbox = errors.New("identity: update names another inbox")
)

// Building an update.
var (
	// ErrUnsigned: a signature is still missing.
	ErrUnsigned = errors.New("identity: update is not fully signed")
	// ErrNotAsked: nothing in the update waits for this signer.
	ErrNotAsked = errors.New("identity: this signer is not asked for")
)
