package forge

import "github.com/conclave-chat/conclave/mls"

// A commit's body taken apart: RFC 9420, Sections 7.6 and 12.4.

// A Body is the proposals of a commit, encoded, and its path.
type Body struct {
	Proposals []byte
	Leaf      []byte // nil: no path
	Nodes     []Node
}

// A Node is an UpdatePathNode.
type Node struct {
	Key     []byte
	Secrets [][2][]byte // KEM output and ciphertext, by member of the copath's resolution
}

// ParseBody reads a commit's body.
func ParseBody(b []byte) (c Body) {
	r := &reader{b}
	c.Proposals = r.vector()
	if r.u8() == 0 {
		return c
	}
	start := r.in
	skipLeaf(r)
	c.Leaf = r.since(start)
	for nodes := (&reader{r.vector()}); len(nodes.in) > 0; {
		n := Node{Key: nodes.vector()}
		for list := (&reader{nodes.vector()}); len(list.in) > 0; {
			n.Secrets = append(n.Secrets, [2][]byte{list.vector(), list.vector()})
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// Bytes encodes it.
func (c Body) Bytes() []byte {
	b := vector(nil, c.Proposals)
	if c.Leaf == nil {
		return append(b, 0)
	}
	var nodes []byte
	for _, n := range c.Nodes {
		var list []byte
		for _, s := range n.Secrets {
			list = vector(vector(list, s[0]), s[1])
		}
		nodes = vector(vector(nodes, n.Key), list)
	}
	return vector(append(append(b, 1), c.Leaf...), nodes)
}

func skipPath(r *reader) {
	skipLeaf(r)
	r.vector()
}

// skipLeaf reads a LeafNode (Section 7.2).
func skipLeaf(r *reader) {
	r.vector() // encryption key
	r.vector() // signature key
	r.u16()
	r.vector() // credential
	for range 5 {
		r.vector() // capabilities
	}
	switch mls.LeafNodeSource(r.u8()) {
	case mls.SourceKeyPackage:
		r.take(16)
	case mls.SourceCommit:
		r.vector()
	}
	r.vector() // extensions
	r.vector() // signature
}

// Edit makes a change of a commit's body a step of a Bend.
func Edit(change func(*Body)) func(*Framed) {
	return func(f *Framed) {
		c := ParseBody(f.Body)
		change(&c)
		f.Body = c.Bytes()
	}
}

// Proposal encodes a proposal that stands on its own.
func Proposal(t mls.ProposalType, body []byte) []byte { return append(u16(nil, uint16(t)), body...) }

// ByValue encodes a proposal as it stands in a commit (Section 12.4).
func ByValue(t mls.ProposalType, body []byte) []byte { return append([]byte{1}, Proposal(t, body)...) }

// RemoveBody is the body of a Remove.
func RemoveBody(leaf uint32) []byte { return u32(nil, leaf) }

// ContextBody is the body of a GroupContextExtensions.
func ContextBody(list mls.Extensions) []byte { return vector(nil, encodeExtensions(list)) }
