package mls

// mls10 is the protocol version of RFC 9420.
const mls10 = 1

// decodeVersion refuses every protocol version but mls10.
func decodeVersion(r *reader) {
	if r.u16() != mls10 {
		r.fail(errVersion)
	}
}

// A GroupContext summarises the state of a group in one epoch. All members
// hold the same one. It is immutable. See RFC 9420, Section 8.1.
type GroupContext struct {
	CipherSuite             CipherSuite
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

func decodeGroupContext(r *reader) *GroupContext {
	decodeVersion(r)
	return &GroupContext{
		CipherSuite:             CipherSuite(r.u16()),
		GroupID:                 r.vector(),
		Epoch:                   r.u64(),
		TreeHash:                r.vector(),
		ConfirmedTranscriptHash: r.vector(),
		Extensions:              decodeExtensions(r),
	}
}

func (c *GroupContext) append(b []byte) []byte {
	b = appendU16(b, mls10)
	b = appendU16(b, uint16(c.CipherSuite))
	b = appendVector(b, c.GroupID)
	b = appendU64(b, c.Epoch)
	b = appendVector(b, c.TreeHash)
	b = appendVector(b, c.ConfirmedTranscriptHash)
	return c.Extensions.append(b)
}
