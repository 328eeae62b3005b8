package mls

// A GroupInfo is what a newcomer must know of a group, signed by a member. See
// RFC 9420, Section 12.4.3.
type GroupInfo struct {
	context         *GroupContext
	extensions      Extensions
	confirmationTag []byte
	signer          LeafIndex
	signature       []byte

	raw []byte // the encoding
	tbs int    // raw[:tbs] is what precedes the signature
}

func decodeGroupInfo(r *reader) *GroupInfo {
	start := r.in
	g := &GroupInfo{
		context:         decodeGroupContext(r),
		extensions:      decodeExtensions(r),
		confirmationTag: r.vector(),
		signer:          LeafIndex(r.u32()),
	}
	g.tbs = len(start) - len(r.in)
	g.signature = r.vector()
	if r.err == nil {
		g.raw = start[: len(start)-len(r.in) : len(start)-len(r.in)]
	}
	return g
}

func (g *GroupInfo) append(b []byte) []byte { return append(b, g.raw...) }

// signed encodes and signs a GroupInfo whose fields are set.
func (g GroupInfo) signed(suite CipherSuite, signer *Signer) (*GroupInfo, error) {
	b := g.context.append(nil)
	b = g.extensions.append(b)
	b = appendVector(b, g.confirmationTag)
	b = appendU32(b, uint32(g.signer))
	sig, err := suite.signWithLabel(signer, labelGroupInfo, b)
	if err != nil {
		return nil, err
	}
	g.tbs, g.signature = len(b), sig
	g.raw = appendVector(b, sig)
	return &g, nil
}

// A Welcome brings new members into a group: the GroupInfo, encrypted once, and
// for each of them the secrets that open it. See RFC 9420, Section 12.4.3.1.
type Welcome struct {
	suite     CipherSuite
	secrets   []encryptedGroupSecrets
	groupInfo []byte // encrypted
}

type encryptedGroupSecrets struct {
	newMember []byte // KeyPackageRef
	secrets   hpkeCiphertext
}

func decodeWelcome(r *reader) *Welcome {
	w := &Welcome{suite: CipherSuite(r.u16())}
	r.list(func(r *reader) {
		w.secrets = append(w.secrets, encryptedGroupSecrets{newMember: r.vector(), secrets: decodeHPKECiphertext(r)})
	})
	w.groupInfo = r.vector()
	return w
}

func (w *Welcome) append(b []byte) []byte {
	b = appendU16(b, uint16(w.suite))
	b = appendList(b, func(b []byte) []byte {
		for _, s := range w.secrets {
			b = s.secrets.append(appendVector(b, s.newMember))
		}
		return b
	})
	return appendVector(b, w.groupInfo)
}

// groupSecrets is what one newcomer finds in its part of a Welcome.
type groupSecrets struct {
	joinerSecret secret
	pathSecret   secret // of the lowest common ancestor with the committer; nil: the commit had no path
	psks         []PreSharedKeyID
}

func decodeGroupSecrets(r *reader) (s groupSecrets) {
	s.joinerSecret = r.vector()
	if r.optional() {
		s.pathSecret = r.vector()
	}
	r.list(func(r *reader) { s.psks = append(s.psks, decodePreSharedKeyID(r)) })
	return s
}

func (s groupSecrets) append(b []byte) []byte {
	b = appendVector(b, s.joinerSecret)
	b = appendOptional(b, s.pathSecret != nil)
	if s.pathSecret != nil {
		b = appendVector(b, s.pathSecret)
	}
	return appendList(b, func(b []byte) []byte {
		for _, id := range s.psks {
			b = id.append(b)
		}
		return b
	})
}
