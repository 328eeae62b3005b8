//go:build forge

package mls

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// A Forged is something that one rule forbids, or that nothing does, for others to
// judge.
type Forged struct {
	Name string
	Rule string // its number in docs/validation.md, or the error that callers meet; empty: valid
	// Of these, what there is: messages, in the order in which a member gets them; a
	// Welcome; a GroupInfo to join by.
	Messages      [][]byte
	Welcome, Info []byte
	// Authenticator is the epoch authenticator of the epoch that it makes.
	Authenticator []byte
}

// A Forger makes forgeries as a member of a group. The second member is played by the
// same hands; the victim is a third leaf.
type Forger struct {
	Rand          io.Reader
	Group, Second *Group
	Victim        LeafIndex
	Lifetime      Lifetime
	// Joiners are key packages of those who judge Welcomes.
	Joiners []*KeyPackage

	cases []Forged
	err   error
}

// forgeries collects cases; the first failure to make one ends it.
func (f *Forger) forgeries(make func()) ([]Forged, error) {
	f.cases, f.err = nil, nil
	make()
	return f.cases, f.err
}

func (f *Forger) check(name string, err error) bool {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("forge %q: %w", name, err)
	}
	return f.err == nil
}

// commit forges a commit of these proposals.
func (f *Forger) commit(name, rule string, change func(*forgery), proposals ...Proposal) {
	c := f.Group.forge(f.Rand, proposals...)
	f.finish(name, rule, c, nil, change)
}

func (f *Forger) finish(name, rule string, c *forgery, before [][]byte, change func(*forgery)) {
	if f.err != nil {
		return
	}
	if change != nil {
		change(c)
	}
	made, err := c.make()
	if f.check(name, err) {
		f.cases = append(f.cases, Forged{Name: name, Rule: rule, Messages: append(before, made.message), Authenticator: made.authenticator})
	}
}

// A referred is a proposal that is sent before the commit, and who sends it.
type referred struct {
	by *Group
	p  Proposal
}

// commitRefs forges a commit of proposals by reference, and of others by value.
func (f *Forger) commitRefs(name, rule string, refs []referred, proposals ...Proposal) {
	c := f.Group.forge(f.Rand, proposals...)
	var sent [][]byte
	for _, r := range refs {
		m, err := c.reference(f.Group, memberSender(r.by.own), r.by.signer, r.p)
		if !f.check(name, err) {
			return
		}
		sent = append(sent, m)
	}
	f.finish(name, rule, c, sent, nil)
}

func (f *Forger) suite() CipherSuite { return f.Group.Suite() }

func (f *Forger) signer() *Signer {
	s, err := GenerateSigner(f.suite(), f.Rand)
	f.check("signer", err)
	return s
}

func (f *Forger) public() []byte {
	_, public, err := f.suite().generateKeyPair(f.Rand)
	f.check("key pair", err)
	return public
}

func (f *Forger) victim() *LeafNode { leaf, _ := f.Group.Member(f.Victim); return leaf }

// newcomer is a key package, changed: its leaf before the leaf is signed, the rest
// before that is.
func (f *Forger) newcomer(leaf func(*LeafNode), rest func(*forgedPackage)) *KeyPackage {
	s := f.signer()
	l := LeafNode{
		EncryptionKey: f.public(), SignatureKey: s.Public(), Credential: BasicCredential([]byte("newcomer")),
		Capabilities: f.capabilities(), Source: SourceKeyPackage, Lifetime: f.Lifetime,
	}
	if leaf != nil {
		leaf(&l)
	}
	p := &forgedPackage{version: mls10, suite: f.suite(), init: f.public(), label: labelKeyPackage, signer: s}
	var err error
	p.leaf, err = l.signed(f.suite(), s, nil, 0)
	f.check("leaf", err)
	if rest != nil {
		rest(p)
	}
	if f.err != nil {
		return new(KeyPackage)
	}
	k, err := forgeKeyPackage(f.suite(), p.signer, p.version, p.suite, p.init, p.leaf, p.extensions, p.label)
	f.check("key package", err)
	return k
}

type forgedPackage struct {
	version    uint16
	suite      CipherSuite
	init       []byte
	leaf       *LeafNode
	extensions Extensions
	label      string
	signer     *Signer
}

func (f *Forger) capabilities() Capabilities {
	leaf, _ := f.Group.Member(f.Group.own)
	return leaf.Capabilities
}

// update is a leaf for an Update of a member that the forger plays.
func (f *Forger) update(g *Group, change func(*LeafNode)) Update {
	old, _ := g.Member(g.own)
	leaf := *old
	leaf.Source, leaf.EncryptionKey = SourceUpdate, f.public()
	if change != nil {
		change(&leaf)
	}
	signed, err := leaf.signed(g.Suite(), g.signer, g.GroupID(), g.own)
	f.check("update", err)
	return Update{LeafNode: signed}
}

// KeyPackages are commits that add somebody by a key package, each breaking a rule of
// Sections 7.2, 7.3, 10 and 10.1.
func (f *Forger) KeyPackages() ([]Forged, error) {
	return f.forgeries(func() {
		leaf := func(name, rule string, change func(*LeafNode)) {
			f.commit(name, rule, nil, Add{f.newcomer(change, nil)})
		}
		rest := func(name, rule string, change func(*forgedPackage)) {
			f.commit(name, rule, nil, Add{f.newcomer(nil, change)})
		}
		leaf("nothing", "", nil)
		rest("another version", "M45", func(p *forgedPackage) { p.version = 2 })
		rest("another suite", "M47", func(p *forgedPackage) { p.suite = 1 + f.suite()%3 })
		rest("a suite that nobody has", "M47", func(p *forgedPackage) { p.suite = 0x7777 })
		rest("init key that is the leaf's", "M46", func(p *forgedPackage) { p.init = p.leaf.EncryptionKey })
		rest("init key that is too short", "", func(p *forgedPackage) { p.init = p.init[1:] })
		rest("signature over something else", "M7", func(p *forgedPackage) { p.label = labelLeafNode })
		rest("signature by somebody else", "M7", func(p *forgedPackage) { p.signer = f.signer() })
		rest("leaf of somebody else", "M7", func(p *forgedPackage) { p.leaf = f.newcomer(nil, nil).LeafNode })
		rest("an extension twice", "M20", func(p *forgedPackage) { p.extensions = Extensions{{Type: 0xff00}, {Type: 0xff00}} })
		rest("extension that is supported", "", func(p *forgedPackage) { p.extensions = Extensions{{Type: 0xff00}} })
		rest("extension that is not", "M23", func(p *forgedPackage) { p.extensions = Extensions{{Type: 0xff01}} })
		rest("application id", "M21", func(p *forgedPackage) { p.extensions = Extensions{{Type: ExtensionApplicationID, Data: []byte{0}}} })
		rest("ratchet tree", "M21", func(p *forgedPackage) { p.extensions = Extensions{{Type: ExtensionRatchetTree, Data: []byte{0}}} })
		rest("required capabilities", "M21", func(p *forgedPackage) {
			p.extensions = Extensions{{Type: ExtensionRequiredCapabilities, Data: RequiredCapabilities{}.Bytes()}}
		})
		rest("external key", "M21", func(p *forgedPackage) {
			p.extensions = Extensions{{Type: ExtensionExternalPub, Data: appendVector(nil, f.public())}}
		})
		rest("external senders", "M21", func(p *forgedPackage) { p.extensions = Extensions{{Type: ExtensionExternalSenders, Data: []byte{0}}} })
		leaf("leaf of an update", "M19", func(l *LeafNode) { l.Source = SourceUpdate })
		leaf("leaf of a commit", "M19", func(l *LeafNode) { l.Source = SourceCommit })
		leaf("leaf with an extension twice", "M20", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff00}, {Type: 0xff00}} })
		leaf("leaf with an extension that is not supported", "M23", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff01}} })
		leaf("leaf with an application id", "", func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionApplicationID, Data: []byte{1, 7}}} })
		leaf("leaf with a ratchet tree", "M21", func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionRatchetTree, Data: []byte{0}}} })
		leaf("leaf with required capabilities", "M21", func(l *LeafNode) {
			l.Extensions = Extensions{{Type: ExtensionRequiredCapabilities, Data: RequiredCapabilities{}.Bytes()}}
		})
		leaf("leaf with an external key", "M21", func(l *LeafNode) {
			l.Extensions = Extensions{{Type: ExtensionExternalPub, Data: appendVector(nil, f.public())}}
		})
		leaf("leaf with external senders", "M21", func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionExternalSenders, Data: []byte{0}}} })
		leaf("leaf with the mark of last resort", "M21", func(l *LeafNode) {
			l.Capabilities.Extensions = append(slices.Clone(l.Capabilities.Extensions), ExtensionLastResort)
			l.Extensions = Extensions{{Type: ExtensionLastResort}}
		})
		leaf("leaf with grease", "M23", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0x3a3a}} })
		leaf("leaf with grease that it names", "", func(l *LeafNode) {
			l.Capabilities.Extensions = append(slices.Clone(l.Capabilities.Extensions), 0x3a3a)
			l.Extensions = Extensions{{Type: 0x3a3a}}
		})
		leaf("no credential type", "M25", func(l *LeafNode) { l.Capabilities.Credentials = nil })
		leaf("a credential type that it does not name", "M25", func(l *LeafNode) { l.Credential = Credential{Type: 77} })
		leaf("a credential type that the others do not name", "M25", func(l *LeafNode) {
			l.Credential, l.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77, CredentialBasic}
		})
		leaf("no support for the others' credentials", "M25", func(l *LeafNode) {
			l.Credential, l.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77}
		})
		leaf("no support for the group's extension", "M23", func(l *LeafNode) { l.Capabilities.Extensions = nil })
		leaf("capabilities without the suite", "M22", func(l *LeafNode) { l.Capabilities.CipherSuites = []CipherSuite{1 + f.suite()%3} })
		leaf("capabilities without any suite", "M22", func(l *LeafNode) { l.Capabilities.CipherSuites = nil })
		leaf("capabilities without the version", "M22", func(l *LeafNode) { l.Capabilities.Versions = []uint16{2} })
		leaf("capabilities without any version", "M22", func(l *LeafNode) { l.Capabilities.Versions = nil })
		leaf("300 proposal types", "", func(l *LeafNode) {
			for i := range 300 {
				l.Capabilities.Proposals = append(l.Capabilities.Proposals, ProposalType(0xf000+i))
			}
		})
		leaf("a capability twice", "", func(l *LeafNode) { l.Capabilities.Extensions = []ExtensionType{0xff00, 0xff00} })
		leaf("default types among the capabilities", "", func(l *LeafNode) {
			l.Capabilities.Proposals = []ProposalType{ProposalAdd}
		})
		leaf("grease in all capabilities", "", func(l *LeafNode) {
			c := &l.Capabilities
			c.Versions, c.CipherSuites = append(slices.Clone(c.Versions), 0x1a1a), append(slices.Clone(c.CipherSuites), 0x1a1a)
			c.Extensions, c.Credentials = append(slices.Clone(c.Extensions), 0x1a1a), append(slices.Clone(c.Credentials), 0x1a1a)
			c.Proposals = append(slices.Clone(c.Proposals), 0x1a1a)
		})
		leaf("no identity", "", func(l *LeafNode) { l.Credential = BasicCredential(nil) })
		leaf("the identity of a member", "", func(l *LeafNode) { l.Credential = f.victim().Credential })
		leaf("encryption key of a member", "M29", func(l *LeafNode) { l.EncryptionKey = f.victim().EncryptionKey })
		leaf("encryption key that is too short", "M9", func(l *LeafNode) { l.EncryptionKey = l.EncryptionKey[1:] })
		leaf("no encryption key", "M9", func(l *LeafNode) { l.EncryptionKey = nil })
		leaf("a lifetime that is over", "G22", func(l *LeafNode) { l.Lifetime = Lifetime{1, 2} })
		leaf("a lifetime that has not begun", "G22", func(l *LeafNode) { l.Lifetime = Lifetime{l.Lifetime.NotAfter, l.Lifetime.NotAfter + 1000} })
		leaf("a lifetime of a thousand years", "", func(l *LeafNode) { l.Lifetime.NotAfter += 1000 * 366 * 86400 })
		if f.suite().ecdsa() {
			leaf("encryption key off the curve", "M9", func(l *LeafNode) { l.EncryptionKey = append([]byte{4}, bytes.Repeat([]byte{7}, 64)...) })
			return
		}
		leaf("encryption key zero", "", func(l *LeafNode) { l.EncryptionKey = make([]byte, 32) })
		leaf("encryption key of low order", "", func(l *LeafNode) { l.EncryptionKey = append([]byte{1}, make([]byte, 31)...) })
		rest("init key zero", "", func(p *forgedPackage) { p.init = make([]byte, 32) })
	})
}

// ProposalLists are commits whose lists break a rule of Sections 12.1 and 12.2.
func (f *Forger) ProposalLists() ([]Forged, error) {
	return f.forgeries(func() {
		second := f.Second.own
		list := func(name, rule string, proposals ...Proposal) { f.commit(name, rule, nil, proposals...) }
		context := func(name, rule string, x ...Extension) {
			list(name, rule, GroupContextExtensions{append(slices.Clone(f.Group.Extensions()), x...)})
		}
		required := func(name, rule string, add RequiredCapabilities) {
			add.Extensions = append([]ExtensionType{0xff00}, add.Extensions...)
			list(name, rule, GroupContextExtensions{Extensions{{ExtensionRequiredCapabilities, add.Bytes()}, {Type: 0xff00}}})
		}
		psk := func(change func(*PreSharedKeyID)) PreSharedKey {
			id := PreSharedKeyID{Type: PSKExternal, ID: []byte("unknown"), Nonce: make([]byte, f.suite().hashSize())}
			change(&id)
			return PreSharedKey{id}
		}
		newcomer := f.newcomer(nil, nil)
		list("nothing", "")
		list("a removal", "", Remove{f.Victim})
		list("one client twice", "M28", Add{newcomer}, Add{newcomer})
		list("the signature key of a member", "M28", Add{f.newcomer(func(l *LeafNode) {}, func(p *forgedPackage) {
			p.signer = f.Second.signer
			old, _ := f.Second.Member(second)
			l := *p.leaf
			l.SignatureKey = old.SignatureKey
			var err error
			p.leaf, err = l.signed(f.suite(), p.signer, nil, 0)
			f.check("twin", err)
		})})
		list("update by value", "M54", f.update(f.Group, nil))
		list("removal of the committer", "M55", Remove{f.Group.own})
		list("removal of a blank leaf", "M32", Remove{f.Group.tree.leaves() - 1})
		list("removal beyond the tree", "M32", Remove{1 << 31})
		list("two removals of one", "M56", Remove{f.Victim}, Remove{f.Victim})
		list("psk that nobody has", "ErrUnknownPSK", psk(func(*PreSharedKeyID) {}))
		list("psk with a short nonce", "M60", psk(func(id *PreSharedKeyID) { id.Nonce = id.Nonce[1:] }))
		list("psk twice", "M61", psk(func(*PreSharedKeyID) {}), psk(func(*PreSharedKeyID) {}))
		founding := func(name string, usage ResumptionPSKUsage) {
			list("psk for "+name, "M39", psk(func(id *PreSharedKeyID) {
				id.Type, id.Usage, id.GroupID, id.Epoch = PSKResumption, usage, f.Group.GroupID(), f.Group.Epoch()
			}))
		}
		founding("reinitialization", ResumptionReInit)
		founding("branching", ResumptionBranch)
		list("two changes of the context", "M59", GroupContextExtensions{f.Group.Extensions()}, GroupContextExtensions{f.Group.Extensions()})
		list("reinit with others", "M58", ReInit{GroupID: []byte("other"), Version: mls10, CipherSuite: f.suite()}, Remove{f.Victim})
		list("external init inside", "M53", ExternalInit{f.public()})
		context("an extension twice", "M20", Extension{Type: 0xff00}, Extension{Type: 0xff00})
		context("an extension that nobody supports", "M23", Extension{Type: 0xabcd})
		required("required extension that nobody supports", "M23", RequiredCapabilities{Extensions: []ExtensionType{0xabcd}})
		required("required proposal that nobody supports", "M24", RequiredCapabilities{Proposals: []ProposalType{0xabcd}})
		required("required credential that nobody supports", "M25", RequiredCapabilities{Credentials: []CredentialType{0xabcd}})
		required("required extension that all support", "", RequiredCapabilities{})
		required("required default types", "", RequiredCapabilities{Proposals: []ProposalType{ProposalAdd}, Credentials: []CredentialType{CredentialBasic}})
		list("an extension that is not required", "", GroupContextExtensions{Extensions{{Type: 0xff00}}})
		list("malformed required capabilities", "M1", GroupContextExtensions{Extensions{{ExtensionRequiredCapabilities, []byte{1}}}})
		context("malformed external senders", "M1", Extension{ExtensionExternalSenders, []byte{1}})
		context("no external senders", "", Extension{ExtensionExternalSenders, []byte{0}})
		context("application id", "M21", Extension{ExtensionApplicationID, []byte{0}})
		context("ratchet tree", "M21", Extension{ExtensionRatchetTree, []byte{0}})
		context("external key", "M21", Extension{ExtensionExternalPub, appendVector(nil, f.public())})
		context("mark of last resort", "M21", Extension{Type: ExtensionLastResort})
		context("grease", "M21", Extension{Type: 0x3a3a})
		list("no extensions", "", GroupContextExtensions{})

		refs := func(name, rule string, u Update, proposals ...Proposal) {
			f.commitRefs(name, rule, []referred{{f.Second, u}}, proposals...)
		}
		refs("a member's update", "", f.update(f.Second, nil))
		refs("update and removal of one", "M56", f.update(f.Second, nil), Remove{second})
		refs("update with the leaf of a key package", "M19", f.update(f.Second, func(l *LeafNode) { l.Source, l.Lifetime = SourceKeyPackage, f.Lifetime }))
		refs("update with the leaf of a commit", "M19", f.update(f.Second, func(l *LeafNode) { l.Source = SourceCommit }))
		refs("update that keeps the encryption key", "M29", f.update(f.Second, func(l *LeafNode) {
			old, _ := f.Second.Member(second)
			l.EncryptionKey = old.EncryptionKey
		}))
		refs("update to the encryption key of a member", "M29", f.update(f.Second, func(l *LeafNode) { l.EncryptionKey = f.victim().EncryptionKey }))
		refs("update without the suite", "M22", f.update(f.Second, func(l *LeafNode) { l.Capabilities.CipherSuites = nil }))
		refs("update without the group's extension", "M23", f.update(f.Second, func(l *LeafNode) { l.Capabilities.Extensions = nil }))
		refs("update with an extension that is not supported", "M23", f.update(f.Second, func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff01}} }))
		refs("update signed for another place", "M7", func() Update {
			u := f.update(f.Second, nil)
			leaf, err := (*u.LeafNode).signed(f.suite(), f.Second.signer, f.Group.GroupID(), f.Victim)
			f.check("elsewhere", err)
			return Update{leaf}
		}())
		refs("update to another identity", "", f.update(f.Second, func(l *LeafNode) { l.Credential = BasicCredential([]byte("renamed")) }))
		f.commitRefs("two updates of one", "M56", []referred{{f.Second, f.update(f.Second, nil)}, {f.Second, f.update(f.Second, nil)}})
		f.commitRefs("update of the committer by reference", "M54", []referred{{f.Group, f.update(f.Group, nil)}})
		f.commitRefs("removal of the committer by reference", "M55", []referred{{f.Second, Remove{f.Group.own}}})
		unknown := f.Group.forge(f.Rand)
		unknown.wire = []proposalOrRef{{ref: make([]byte, f.suite().hashSize())}}
		f.finish("a proposal that nobody sent", "ErrUnknownProposal", unknown, nil, nil)
	})
}
