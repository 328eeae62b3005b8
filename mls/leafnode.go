package mls

import (
	"bytes"
	"slices"
)

// LeafNodeSource says how a leaf came into the tree; see RFC 9420, Section 7.2.
type LeafNodeSource uint8

// The sources of a leaf node.
const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// Capabilities lists what a client supports beyond RFC 9420's defaults. See RFC
// 9420, Section 7.2.
type Capabilities struct {
	Versions     []uint16
	CipherSuites []CipherSuite
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

func decodeCapabilities(r *reader) Capabilities {
	return Capabilities{
		Versions:     decodeU16List[uint16](r),
		CipherSuites: decodeU16List[CipherSuite](r),
		Extensions:   decodeU16List[ExtensionType](r),
		Proposals:    decodeU16List[ProposalType](r),
		Credentials:  decodeU16List[CredentialType](r),
	}
}

func (c Capabilities) append(b []byte) []byte {
	b = appendU16List(b, c.Versions)
	b = appendU16List(b, c.CipherSuites)
	b = appendU16List(b, c.Extensions)
	b = appendU16List(b, c.Proposals)
	return appendU16List(b, c.Credentials)
}

// meets checks a group's requirements: every extension of the group context,
// and what its required_capabilities names. See RFC 9420, Sections 11.1 and 13.4.
func (c *Capabilities) meets(q requirements) error {
	switch {
	case !supports(c.Extensions, q.extensions):
		return errExtensionUnsupported
	case !supports(c.Proposals, q.proposals):
		return errProposalUnsupported
	case !supports(c.Credentials, q.credentials):
		return errCredentialUnsupported
	}
	return nil
}

// A codePoint is a type that capabilities name. Types that are default are
// supported without being named.
type codePoint interface {
	~uint16
	isDefault() bool
}

// A codeSet is a set of code points.
type codeSet [1 << 16 / 64]uint64

// add reports whether a code point is new to the set.
func (s *codeSet) add(v uint16) bool {
	known := s.has(v)
	s[v/64] |= 1 << (v % 64)
	return !known
}

func (s *codeSet) has(v uint16) bool { return s[v/64]&(1<<(v%64)) != 0 }

// supports reports whether all that is wanted is named or default. Lists from
// outside may be as long as their message: the time it takes grows with the sum of
// their lengths and not with the product.
func supports[T codePoint](named, wanted []T) bool {
	const few = 1 << 12
	if len(named)*len(wanted) <= few {
		return !slices.ContainsFunc(wanted, func(t T) bool { return !t.isDefault() && !slices.Contains(named, t) })
	}
	var set codeSet
	for _, t := range named {
		set.add(uint16(t))
	}
	return !slices.ContainsFunc(wanted, func(t T) bool { return !t.isDefault() && !set.has(uint16(t)) })
}

// distinct drops what a list names again.
func distinct[T codePoint](list []T) []T {
	if len(list) < 64 {
		return list
	}
	var set codeSet
	return slices.DeleteFunc(list, func(t T) bool { return !set.add(uint16(t)) })
}

// requirements is what a group context asks of each member's capabilities.
type requirements struct {
	extensions  []ExtensionType
	proposals   []ProposalType
	credentials []CredentialType
}

func (x Extensions) requirements() (requirements, error) {
	q := requirements{extensions: x.types()}
	data, ok := x.Get(ExtensionRequiredCapabilities)
	if !ok {
		return q, nil
	}
	c, err := ParseRequiredCapabilities(data)
	if err != nil {
		return q, err
	}
	q.extensions = distinct(append(q.extensions, c.Extensions...))
	q.proposals, q.credentials = distinct(c.Proposals), distinct(c.Credentials)
	return q, nil
}

// Lifetime is when a key package may be used, in Unix seconds, both ends
// included. This package has no clock: whoever adds a member judges it.
type Lifetime struct{ NotBefore, NotAfter uint64 }

// A LeafNode is one client's appearance in a group, signed by that client. It
// is immutable. See RFC 9420, Section 7.2.
type LeafNode struct {
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // SourceKeyPackage only
	ParentHash    []byte   // SourceCommit only
	Extensions    Extensions
	Signature     []byte

	raw []byte // the encoding
	tbs int    // raw[:tbs] is what precedes the signature
}

func decodeLeafNode(r *reader) *LeafNode {
	start := r.in
	n := &LeafNode{
		EncryptionKey: r.vector(),
		SignatureKey:  r.vector(),
		Credential:    decodeCredential(r),
		Capabilities:  decodeCapabilities(r),
		Source:        LeafNodeSource(r.u8()),
	}
	switch n.Source {
	case SourceKeyPackage:
		n.Lifetime = Lifetime{NotBefore: r.u64(), NotAfter: r.u64()}
	case SourceUpdate:
	case SourceCommit:
		n.ParentHash = r.vector()
	default:
		r.fail(errLeafSource)
	}
	n.Extensions = decodeExtensions(r)
	n.tbs = len(start) - len(r.in)
	n.Signature = r.vector()
	if r.err == nil {
		n.raw = start[: len(start)-len(r.in) : len(start)-len(r.in)]
	}
	return n
}

func (n *LeafNode) append(b []byte) []byte { return append(b, n.raw...) }

// Equal reports whether two leaves are the same, byte for byte.
func (n *LeafNode) Equal(m *LeafNode) bool { return bytes.Equal(n.raw, m.raw) }

// detached returns the leaf over a buffer of its own, so that a leaf that stays
// in the tree does not keep the message alive that brought it.
func (n *LeafNode) detached() *LeafNode {
	return decodeLeafNode(newReader(bytes.Clone(n.raw)))
}

// tbsBytes is LeafNodeTBS: the leaf before its signature, and for a leaf made
// within a group its place there.
func (n *LeafNode) tbsBytes(groupID []byte, i LeafIndex) []byte {
	if n.Source == SourceKeyPackage {
		return n.raw[:n.tbs]
	}
	b := append(make([]byte, 0, n.tbs+len(groupID)+8), n.raw[:n.tbs]...)
	return appendU32(appendVector(b, groupID), uint32(i))
}

// signed encodes and signs a leaf whose fields are set.
func (n LeafNode) signed(suite CipherSuite, signer *Signer, groupID []byte, i LeafIndex) (*LeafNode, error) {
	b := appendVector(nil, n.EncryptionKey)
	b = appendVector(b, n.SignatureKey)
	b = n.Credential.append(b)
	b = n.Capabilities.append(b)
	b = appendU8(b, uint8(n.Source))
	switch n.Source {
	case SourceKeyPackage:
		b = appendU64(appendU64(b, n.Lifetime.NotBefore), n.Lifetime.NotAfter)
	case SourceCommit:
		b = appendVector(b, n.ParentHash)
	}
	b = n.Extensions.append(b)
	n.raw, n.tbs = b, len(b)
	sig, err := suite.signWithLabel(signer, labelLeafNode, n.tbsBytes(groupID, i))
	if err != nil {
		return nil, err
	}
	r := newReader(appendVector(b, sig))
	return decodeLeafNode(r), r.end()
}

// verify checks what a leaf says by itself: its signature, and that what it uses is
// among its capabilities, the suite and the version of its group included (Section
// 7.2). The group's part, the rest of Section 7.3, is the tree's: see
// tree.checkLeaves.
func (n *LeafNode) verify(realm *Realm, suite CipherSuite, groupID []byte, i LeafIndex) error {
	if err := n.Extensions.check(inLeafNode); err != nil {
		return err
	}
	c := &n.Capabilities
	switch {
	case !slices.Contains(c.Versions, mls10), !slices.Contains(c.CipherSuites, suite):
		return errSuiteUnsupported
	case !supports(c.Extensions, n.Extensions.types()):
		return errExtensionUnsupported
	case !slices.Contains(c.Credentials, n.Credential.Type):
		return errCredentialUnsupported
	}
	return realm.verify(suite, n.SignatureKey, labelLeafNode, n.tbsBytes(groupID, i), n.Signature)
}
