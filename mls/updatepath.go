package mls

// A Commit starts a new epoch: the proposals it applies and, unless it may do
// without, the committer's new path. See RFC 9420, Section 12.4.
type Commit struct {
	proposals []proposalOrRef
	path      *UpdatePath // nil: none
}

func decodeCommit(r *reader) *Commit {
	c := new(Commit)
	r.list(func(r *reader) { c.proposals = append(c.proposals, decodeProposalOrRef(r)) })
	if r.optional() {
		c.path = decodeUpdatePath(r)
	}
	return c
}

func (c *Commit) append(b []byte) []byte {
	b = appendList(b, func(b []byte) []byte {
		for _, p := range c.proposals {
			b = p.append(b)
		}
		return b
	})
	b = appendOptional(b, c.path != nil)
	if c.path != nil {
		b = c.path.append(b)
	}
	return b
}

// An UpdatePath carries a committer's new leaf and, for each node of its
// filtered direct path, a new public key and the path secret, encrypted to
// everyone below the other child. See RFC 9420, Section 7.6.
type UpdatePath struct {
	leaf  *LeafNode
	nodes []updatePathNode
}

type updatePathNode struct {
	encryptionKey []byte
	secrets       []hpkeCiphertext
}

type hpkeCiphertext struct {
	kemOutput  []byte
	ciphertext []byte
}

func decodeUpdatePath(r *reader) *UpdatePath {
	p := &UpdatePath{leaf: decodeLeafNode(r)}
	r.list(func(r *reader) {
		n := updatePathNode{encryptionKey: r.vector()}
		r.list(func(r *reader) { n.secrets = append(n.secrets, decodeHPKECiphertext(r)) })
		p.nodes = append(p.nodes, n)
	})
	return p
}

func (p *UpdatePath) append(b []byte) []byte {
	b = p.leaf.append(b)
	return appendList(b, func(b []byte) []byte {
		for _, n := range p.nodes {
			b = appendVector(b, n.encryptionKey)
			b = appendList(b, func(b []byte) []byte {
				for _, c := range n.secrets {
					b = c.append(b)
				}
				return b
			})
		}
		return b
	})
}

func decodeHPKECiphertext(r *reader) hpkeCiphertext {
	return hpkeCiphertext{kemOutput: r.vector(), ciphertext: r.vector()}
}

func (c hpkeCiphertext) append(b []byte) []byte {
	return appendVector(appendVector(b, c.kemOutput), c.ciphertext)
}
