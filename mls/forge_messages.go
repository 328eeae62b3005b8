//go:build forge

package mls

import (
	"bytes"
	"slices"
)

// Paths are commits whose path breaks a rule of Sections 7.5, 7.6, 12.4.1 and 12.4.2.
func (f *Forger) Paths() ([]Forged, error) {
	return f.forgeries(func() {
		do := func(name, rule string, change func(*forgery), proposals ...Proposal) {
			f.commit(name, rule, change, proposals...)
		}
		leaf := func(name, rule string, change func(*LeafNode)) {
			do(name, rule, func(c *forgery) { c.leaf = change })
		}
		path := func(name, rule string, change func(*UpdatePath)) {
			do(name, rule, func(c *forgery) { c.path = change })
		}
		keys := func(name, rule string, change func([][]byte)) {
			do(name, rule, func(c *forgery) { c.keys = change })
		}
		bare := func(c *forgery) { c.noPath = true }
		do("an empty commit without a path", "M63", bare)
		do("a removal without a path", "M63", bare, Remove{f.Victim})
		do("a change of the context without a path", "M63", bare, GroupContextExtensions{f.Group.Extensions()})
		do("an add without a path", "", bare, Add{f.newcomer(nil, nil)})
		path("a node less", "M33", func(p *UpdatePath) { p.nodes = p.nodes[1:] })
		path("a node more", "M33", func(p *UpdatePath) { p.nodes = append(p.nodes, p.nodes[0]) })
		path("a ciphertext less", "M34", func(p *UpdatePath) { p.nodes[0].secrets = nil })
		path("a ciphertext more", "M34", func(p *UpdatePath) { p.nodes[0].secrets = append(p.nodes[0].secrets, p.nodes[0].secrets[0]) })
		keys("the key of a leaf", "M29", func(k [][]byte) { k[0] = f.victim().EncryptionKey })
		keys("one key for two nodes", "M29", func(k [][]byte) { k[0] = k[1] })
		keys("a key that is too short", "M9", func(k [][]byte) { k[0] = k[0][1:] })
		leaf("another parent hash", "M31", func(l *LeafNode) { l.ParentHash = make([]byte, f.suite().hashSize()) })
		leaf("no parent hash", "M31", func(l *LeafNode) { l.ParentHash = nil })
		leaf("the old encryption key", "M29", func(l *LeafNode) {
			old, _ := f.Group.Member(f.Group.own)
			l.EncryptionKey = old.EncryptionKey
		})
		leaf("the encryption key of a member", "M29", func(l *LeafNode) { l.EncryptionKey = f.victim().EncryptionKey })
		do("the signature key of a member", "M28", func(c *forgery) {
			c.signLeaf = func(l LeafNode) (*LeafNode, error) {
				l.SignatureKey = f.Second.signer.Public()
				return l.signed(f.suite(), f.Second.signer, f.Group.GroupID(), f.Group.own)
			}
		})
		leaf("a leaf for an update", "M19", func(l *LeafNode) { l.Source = SourceUpdate })
		leaf("a leaf for a key package", "M19", func(l *LeafNode) { l.Source, l.Lifetime = SourceKeyPackage, f.Lifetime })
		leaf("an extension that is not supported", "M23", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff01}} })
		leaf("an extension twice", "M20", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff00}, {Type: 0xff00}} })
		leaf("a ratchet tree in the leaf", "M21", func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionRatchetTree, Data: []byte{0}}} })
		leaf("no support for the suite", "M22", func(l *LeafNode) { l.Capabilities.CipherSuites = nil })
		leaf("no support for the version", "M22", func(l *LeafNode) { l.Capabilities.Versions = []uint16{2} })
		leaf("no support for the group's extension", "M23", func(l *LeafNode) { l.Capabilities.Extensions = nil })
		leaf("no support for the credentials", "M25", func(l *LeafNode) {
			l.Credential, l.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77}
		})
		leaf("another identity", "", func(l *LeafNode) { l.Credential = BasicCredential([]byte("renamed")) })
		do("signed for another place", "M7", func(c *forgery) {
			c.signLeaf = func(l LeafNode) (*LeafNode, error) {
				return l.signed(f.suite(), f.Group.signer, f.Group.GroupID(), f.Victim)
			}
		})
		do("signed for another group", "M7", func(c *forgery) {
			c.signLeaf = func(l LeafNode) (*LeafNode, error) {
				return l.signed(f.suite(), f.Group.signer, []byte("other"), f.Group.own)
			}
		})
		do("signed by somebody else", "M7", func(c *forgery) {
			c.signLeaf = func(l LeafNode) (*LeafNode, error) {
				return l.signed(f.suite(), f.Second.signer, f.Group.GroupID(), f.Group.own)
			}
		})
		path("secrets that open for nobody", "ErrCannotDecryptPath", func(p *UpdatePath) {
			for i := range p.nodes {
				for j := range p.nodes[i].secrets {
					p.nodes[i].secrets[j].ciphertext[0] ^= 1
				}
			}
		})
	})
}

// Framings are commits whose frame breaks a rule of Sections 2.1, 6 and 8.1.
func (f *Forger) Framings() ([]Forged, error) {
	return f.forgeries(func() {
		do := func(name, rule string, change func(*forgery)) { f.commit(name, rule, change) }
		content := func(name, rule string, change func(*framedContent)) {
			do(name, rule, func(c *forgery) { c.content = change })
		}
		auth := func(name, rule string, change func(*authenticatedContent)) {
			do(name, rule, func(c *forgery) { c.auth = change })
		}
		tag := func(name, rule string, change func([]byte) []byte) {
			do(name, rule, func(c *forgery) { c.public = func(m *publicMessage) { m.membershipTag = change(m.membershipTag) } })
		}
		private := func(name, rule string, change func(*forgery)) {
			do(name, rule, func(c *forgery) { c.private = true; change(c) })
		}
		outside := func(name, rule string, change func([]byte) []byte) {
			do(name, rule, func(c *forgery) { c.outside = change })
		}
		short := func(b []byte) []byte { return b[:len(b)-1] }
		long := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
		none := func([]byte) []byte { return nil }
		bent := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
		do("nothing", "", nil)
		private("nothing, encrypted", "", func(*forgery) {})
		content("of the epoch before", "ErrWrongEpoch", func(c *framedContent) { c.epoch-- })
		content("of the epoch to come", "ErrWrongEpoch", func(c *framedContent) { c.epoch++ })
		content("of another group", "ErrWrongGroup", func(c *framedContent) { c.groupID = []byte("other") })
		content("from a blank leaf", "M32", func(c *framedContent) { c.sender.index = uint32(f.Group.tree.leaves() - 1) })
		content("from beyond the tree", "M32", func(c *framedContent) { c.sender.index = 1 << 31 })
		content("from another member", "M7", func(c *framedContent) { c.sender = memberSender(f.Second.own) })
		content("from an external sender", "M51", func(c *framedContent) { c.sender = sender{Type: SenderExternal} })
		content("from a new member who proposes", "M15", func(c *framedContent) { c.sender = sender{Type: SenderNewMemberProposal} })
		content("with authenticated data", "", func(c *framedContent) { c.aad = []byte("data") })
		for _, bend := range []struct {
			name   string
			change func([]byte) []byte
		}{{"bent", bent}, {"short", short}, {"long", long}, {"empty", none}} {
			auth(bend.name+" signature", "M7", func(a *authenticatedContent) { a.signature = bend.change(a.signature) })
			auth(bend.name+" confirmation tag", "M36", func(a *authenticatedContent) { a.confirmationTag = bend.change(a.confirmationTag) })
			tag(bend.name+" membership tag", "M17", bend.change)
		}
		do("signed by somebody else", "M7", func(c *forgery) { c.signer = f.Second.signer })
		outside("bytes behind it", "M2", long)
		outside("an end too soon", "M1", short)
		outside("another version", "M11", func(b []byte) []byte { b[1] = 2; return b })
		outside("an unknown wire format", "M12", func(b []byte) []byte { b[3] = 9; return b })
		outside("a length in too many bytes", "M4", func(b []byte) []byte {
			return slices.Concat(b[:4], []byte{0x40}, b[4:])
		})
		private("padding that is zero", "", func(c *forgery) {
			c.padding = func(b []byte) []byte { return append(b, make([]byte, 7)...) }
		})
		private("padding that is not", "M18", func(c *forgery) { c.padding = func(b []byte) []byte { return append(b, 0, 1) } })
		private("sender data of another member", "M6", func(c *forgery) { c.data = func(d *senderData) { d.leaf = f.Second.own } })
		private("sender data of a blank leaf", "M6", func(c *forgery) { c.data = func(d *senderData) { d.leaf = f.Group.tree.leaves() - 1 } })
		private("sender data from beyond the tree", "M43", func(c *forgery) { c.data = func(d *senderData) { d.leaf = 1 << 31 } })
		private("another generation", "M6", func(c *forgery) { c.data = func(d *senderData) { d.generation++ } })
		private("a generation far ahead", "M41", func(c *forgery) { c.data = func(d *senderData) { d.generation += 1 << 20 } })
		private("another guard", "M6", func(c *forgery) { c.data = func(d *senderData) { d.guard[0] ^= 1 } })
	})
}

// ExternalCommits break a rule of Section 12.4.3.2, from outside of the group.
func (f *Forger) ExternalCommits() ([]Forged, error) {
	return f.forgeries(func() {
		s := f.signer()
		init := func() (ExternalInit, secret) {
			_, public, err := f.Group.secrets.externalKeyPair()
			f.check("external key", err)
			kem, init, err := f.suite().encapsulateInit(f.Rand, public)
			f.check("external init", err)
			return ExternalInit{KEMOutput: kem}, init
		}
		do := func(name, rule string, change func(*forgery, ExternalInit), proposals ...Proposal) {
			p, secret := init()
			outside := &Group{signer: s, epoch: epoch{publicState: f.Group.publicState, secrets: f.Group.secrets}}
			c := &forgery{
				g: outside, rand: f.Rand, from: sender{Type: SenderNewMemberCommit}, init: secret,
				leafNow: LeafNode{Credential: BasicCredential([]byte("outsider")), Capabilities: f.capabilities()},
			}
			for _, p := range proposals {
				c.by(p)
			}
			if change == nil {
				change = func(c *forgery, p ExternalInit) { c.by(p) }
			}
			change(c, p)
			f.finish(name, rule, c, nil, nil)
		}
		with := func(more func(*forgery)) func(*forgery, ExternalInit) {
			return func(c *forgery, p ExternalInit) { c.by(p); more(c) }
		}
		do("nothing", "", nil)
		do("without an init", "M52", func(*forgery, ExternalInit) {})
		do("with two", "M52", func(c *forgery, p ExternalInit) { c.by(p); c.by(p) })
		do("with an add", "M52", nil, Add{f.newcomer(nil, nil)})
		do("with a removal of somebody else", "", nil, Remove{f.Victim})
		do("with two removals", "M52", nil, Remove{f.Victim}, Remove{f.Second.own})
		do("with a removal of nobody", "M32", nil, Remove{f.Group.tree.leaves() - 1})
		do("with a change of the context", "M52", nil, GroupContextExtensions{f.Group.Extensions()})
		do("with a proposal by reference", "M52", with(func(c *forgery) {
			c.wire = append(c.wire, proposalOrRef{ref: make([]byte, f.suite().hashSize())})
		}))
		do("with an init that nobody can open", "M37", func(c *forgery, _ ExternalInit) { c.by(ExternalInit{[]byte("short")}) })
		do("without a path", "M15", with(func(c *forgery) { c.noPath = true }))
		do("signed by somebody else", "M7", with(func(c *forgery) { c.signer = f.Second.signer }))
		do("with the signature key of a member", "M28", with(func(c *forgery) { c.g.signer = f.Second.signer }))
		do("encrypted", "M7", with(func(c *forgery) {
			c.private, c.g = true, &Group{signer: s, own: f.Group.own, epoch: f.Group.epoch}
		}))
		do("without the suite", "M22", with(func(c *forgery) { c.leafNow.Capabilities.CipherSuites = nil }))
		do("without the group's extension", "M23", with(func(c *forgery) { c.leafNow.Capabilities.Extensions = nil }))
		do("with the encryption key of a member", "M29", with(func(c *forgery) {
			c.leaf = func(l *LeafNode) { l.EncryptionKey = f.victim().EncryptionKey }
		}))
	})
}

// Welcomes break a rule of Section 12.4.3.1. Each is for all joiners.
func (f *Forger) Welcomes() ([]Forged, error) {
	return f.forgeries(func() {
		do := func(name, rule string, change func(*forgery)) {
			var adds []Proposal
			for _, k := range f.Joiners {
				adds = append(adds, Add{k})
			}
			c := f.Group.forge(f.Rand, adds...)
			if change != nil {
				change(c)
			}
			made, err := c.make()
			if f.check(name, err) {
				f.cases = append(f.cases, Forged{Name: name, Rule: rule, Welcome: made.welcome, Authenticator: made.authenticator})
			}
		}
		info := func(name, rule string, change func(*GroupInfo)) {
			do(name, rule, func(c *forgery) { c.info = change })
		}
		shaped := func(name, rule string, change func([]node) []node) {
			do(name, rule, func(c *forgery) {
				c.tree = func(t *tree) *tree { return forgeTree(f.suite(), change(t.nodes())) }
			})
		}
		psk := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, GroupID: []byte("old"), Nonce: make([]byte, f.suite().hashSize())}
		do("nothing", "", nil)
		do("no path secret", "", func(c *forgery) { c.noPath = true })
		info("another confirmation tag", "M36", func(g *GroupInfo) { g.confirmationTag = make([]byte, f.suite().hashSize()) })
		info("a short confirmation tag", "M36", func(g *GroupInfo) { g.confirmationTag = g.confirmationTag[:16] })
		info("no confirmation tag", "M36", func(g *GroupInfo) { g.confirmationTag = nil })
		info("another member as signer", "M7", func(g *GroupInfo) { g.signer = f.Second.own })
		info("a signer from beyond the tree", "M32", func(g *GroupInfo) { g.signer = 1 << 20 })
		info("another tree hash", "M35", func(g *GroupInfo) { g.context.TreeHash = make([]byte, f.suite().hashSize()) })
		info("another epoch", "M36", func(g *GroupInfo) { g.context.Epoch++ })
		info("another suite in the context", "M71", func(g *GroupInfo) { g.context.CipherSuite = 1 + f.suite()%3 })
		info("no tree", "M69", func(g *GroupInfo) { g.extensions = nil })
		info("two trees", "M20", func(g *GroupInfo) { g.extensions = append(g.extensions, g.extensions[0]) })
		info("bytes behind the tree", "M2", func(g *GroupInfo) { g.extensions[0].Data = append(bytes.Clone(g.extensions[0].Data), 0) })
		info("an application id", "M21", func(g *GroupInfo) { g.extensions = append(g.extensions, Extension{ExtensionApplicationID, []byte{0}}) })
		info("an unknown extension", "", func(g *GroupInfo) { g.extensions = append(g.extensions, Extension{0xabcd, []byte{0}}) })
		info("an external key that is none", "", func(g *GroupInfo) { g.extensions = append(g.extensions, Extension{ExtensionExternalPub, []byte{1, 1}}) })
		do("another path secret", "M64", func(c *forgery) { c.secrets = func(s *groupSecrets) { s.pathSecret = make(secret, len(s.pathSecret)) } })
		do("a path secret that is too short", "M64", func(c *forgery) { c.secrets = func(s *groupSecrets) { s.pathSecret = s.pathSecret[1:] } })
		do("a resumption key that nobody has", "ErrUnknownPSK", func(c *forgery) { c.secrets = func(s *groupSecrets) { s.psks = []PreSharedKeyID{psk} } })
		do("a key with a short nonce", "M60", func(c *forgery) { c.secrets = func(s *groupSecrets) { s.psks = []PreSharedKeyID{{Type: PSKExternal}} } })
		do("for another suite", "M71", func(c *forgery) { c.welcome = func(w *Welcome) { w.suite = 1 + f.suite()%3 } })
		do("for nobody", "M67", func(c *forgery) { c.welcome = func(w *Welcome) { w.secrets = nil } })
		do("bent group info", "M6", func(c *forgery) { c.welcome = func(w *Welcome) { w.groupInfo[5] ^= 1 } })
		do("an extension of the context that the joiner does not support", "M23", func(c *forgery) {
			c.context = func(g *GroupContext) { g.Extensions = Extensions{{Type: 0xabcd}} }
		})
		do("an application id in the context", "M21", func(c *forgery) {
			c.context = func(g *GroupContext) { g.Extensions = Extensions{{ExtensionApplicationID, []byte{0}}} }
		})
		do("an extension twice in the context", "M20", func(c *forgery) {
			c.context = func(g *GroupContext) { g.Extensions = Extensions{{Type: 0xff00}, {Type: 0xff00}} }
		})
		do("required capabilities that the joiner does not have", "M23", func(c *forgery) {
			c.context = func(g *GroupContext) {
				g.Extensions = Extensions{{ExtensionRequiredCapabilities, RequiredCapabilities{Extensions: []ExtensionType{0xabcd}}.Bytes()}}
			}
		})
		do("leaves of another group", "M7", func(c *forgery) { c.context = func(g *GroupContext) { g.GroupID = []byte("other") } })
		shaped("a tree that ends in a blank", "M26", func(n []node) []node { return append(n, node{}, node{}) })
		do("a tree without the joiners", "M68", func(c *forgery) { c.tree = func(*tree) *tree { return f.Group.tree } })
		shaped("a parent hash that links nothing", "M31", func(n []node) []node { n[1].parent.parentHash = make([]byte, 32); return n })
		shaped("a parent that nobody set", "M31", func(n []node) []node { n[5].parent = &parentNode{encryptionKey: f.public()}; return n })
		shaped("an unmerged leaf twice", "M30", func(n []node) []node { n[7].parent.unmerged = []LeafIndex{6, 6}; return n })
		shaped("an unmerged leaf of another subtree", "M30", func(n []node) []node { n[1].parent.unmerged = []LeafIndex{3}; return n })
		shaped("an encryption key twice", "M29", func(n []node) []node { n[1].parent.encryptionKey = n[0].leaf.EncryptionKey; return n })
		shaped("a leaf twice", "M28", func(n []node) []node { n[4].leaf = n[0].leaf; return n })
		shaped("two leaves exchanged", "M7", func(n []node) []node { n[0].leaf, n[2].leaf = n[2].leaf, n[0].leaf; return n })
	})
}

// Infos are group infos to join by, each breaking a rule of Sections 12.4.3 and
// 12.4.3.2.
func (f *Forger) Infos() ([]Forged, error) {
	return f.forgeries(func() {
		do := func(name, rule string, change func(*GroupInfo)) {
			_, external, err := f.Group.secrets.externalKeyPair()
			if !f.check(name, err) {
				return
			}
			info := &GroupInfo{
				context: f.Group.context, signer: f.Group.own,
				extensions:      Extensions{{ExtensionExternalPub, appendVector(nil, external)}, {ExtensionRatchetTree, f.Group.tree.append(nil)}},
				confirmationTag: f.Group.secrets.confirmationTag(f.Group.context.ConfirmedTranscriptHash),
			}
			info, err = f.Group.forgeInfo(info, change)
			if f.check(name, err) {
				f.cases = append(f.cases, Forged{Name: name, Rule: rule, Info: info.append(appendMessageHeader(nil, WireGroupInfo))})
			}
		}
		do("nothing", "", nil)
		do("another member as signer", "M7", func(g *GroupInfo) { g.signer = f.Second.own })
		do("a blank leaf as signer", "M32", func(g *GroupInfo) { g.signer = f.Group.tree.leaves() - 1 })
		do("a signer from beyond the tree", "M32", func(g *GroupInfo) { g.signer = 1 << 20 })
		do("another tree hash", "M35", func(g *GroupInfo) { g.context.TreeHash = make([]byte, f.suite().hashSize()) })
		do("no tree", "M69", func(g *GroupInfo) { g.extensions = g.extensions[:1] })
		do("two trees", "M20", func(g *GroupInfo) { g.extensions = append(g.extensions, g.extensions[1]) })
		do("no external key", "M70", func(g *GroupInfo) { g.extensions = g.extensions[1:] })
		do("an external key that is none", "M9", func(g *GroupInfo) { g.extensions[0].Data = []byte{1, 1} })
		do("a suite that nobody has", "ErrUnsupportedSuite", func(g *GroupInfo) { g.context.CipherSuite = 0x7777 })
		do("an extension of the context that nobody supports", "M23", func(g *GroupInfo) { g.context.Extensions = Extensions{{Type: 0xabcd}} })
		do("the tree of another group", "M7", func(g *GroupInfo) { g.context.GroupID = []byte("other") })
	})
}
