package forge

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-chat/conclave/mls"
)

// An Insider is a member's state and keys in the hands of a client that keeps no
// rule. It follows the group by itself, also through commits of its own.
type Insider struct {
	Signer *mls.Signer
	Rand   io.Reader

	group *mls.Group
	own   map[[32]byte]*mls.StagedCommit
}

// NewInsider takes a member's state.
func NewInsider(random io.Reader, signer *mls.Signer, g *mls.Group) *Insider {
	return &Insider{Signer: signer, Rand: random, group: g, own: map[[32]byte]*mls.StagedCommit{}}
}

// Group is the state that it has come to.
func (in *Insider) Group() *mls.Group { return in.group }

// Follow opens what it can of a message. Into an epoch it goes where accept says so,
// which is told of the authenticator: others may refuse a commit that MLS allows.
func (in *Insider) Follow(data []byte, accept func(authenticator []byte) bool) {
	staged := in.own[sha256.Sum256(data)]
	if staged == nil {
		m, err := (*mls.Realm)(nil).Parse(data)
		if err != nil {
			return
		}
		next, content, err := in.group.Open(m)
		if err != nil {
			return
		}
		in.group = next
		if staged, _ = content.(*mls.StagedCommit); staged == nil {
			return
		}
	}
	if next, err := in.group.Merge(staged); err == nil && (next.Active() && accept(next.EpochAuthenticator()) || !next.Active()) {
		in.group = next
	}
}

// Framed is FramedContent with its authentication, and how it is encrypted
// (RFC 9420, Sections 6 and 6.3).
type Framed struct {
	GroupID      []byte
	Epoch        uint64
	SenderType   byte
	Sender       uint32 // who is said to have sent it, in what is signed
	AAD          []byte
	Type         mls.ContentType
	Body         []byte
	Signature    []byte
	Confirmation []byte // commits only

	Leaf       uint32 // whose ratchet encrypts it, and who is the sender of the ciphertext
	Generation uint32
	Padding    []byte
}

// A Bend changes a message at three moments: before it is signed, before its
// confirmation tag is made, and before it is encrypted. Any of them may be nil.
type Bend struct {
	Unsigned, Signed, Whole func(*Framed)
	As                      *mls.Signer // signs; nil: the insider
}

func (b Bend) at(f func(*Framed), m *Framed) {
	if f != nil {
		f(m)
	}
}

// Commit makes a commit, bends it, and frames it as a private message. A commit that
// is not bent is one that the insider can follow.
func (in *Insider) Commit(c mls.CommitConfig, bend Bend) ([]byte, error) {
	c.Public = true
	staged, err := in.group.Commit(c)
	if err != nil {
		return nil, err
	}
	stored, err := staged.MarshalBinary()
	if err != nil {
		return nil, err
	}
	r := &reader{stored}
	r.take(1 + 2*hashSize)
	r.vector()
	r.vector()
	commit, psk := r.vector(), r.vector()

	f := in.unframe(staged.Message())
	s := secretsOf(in.group)
	bend.at(bend.Unsigned, f)
	in.sign(f, s.context, bend.As)
	bend.at(bend.Signed, f)
	h := sha256.New()
	h.Write(s.interim)
	h.Write(u16(nil, uint16(mls.WirePrivateMessage)))
	h.Write(f.content())
	h.Write(vector(nil, f.Signature))
	confirmed := h.Sum(nil)
	f.Confirmation = confirmation(s.init, commit, psk, contextOf(staged.Context(), confirmed), confirmed)
	bend.at(bend.Whole, f)
	return in.encrypt(f, s)
}

// Stage makes a commit by the rules and keeps it, so that the insider can follow it.
func (in *Insider) Stage(c mls.CommitConfig) (*mls.StagedCommit, error) {
	staged, err := in.group.Commit(c)
	if err == nil {
		in.own[sha256.Sum256(staged.Message())] = staged
	}
	return staged, err
}

// Say makes an application message of a plaintext.
func (in *Insider) Say(plaintext []byte, bend Bend) ([]byte, error) {
	return in.frame(mls.ContentApplication, vector(nil, plaintext), bend)
}

// Propose makes a proposal of an encoding.
func (in *Insider) Propose(proposal []byte, bend Bend) ([]byte, error) {
	return in.frame(mls.ContentProposal, proposal, bend)
}

func (in *Insider) frame(t mls.ContentType, body []byte, bend Bend) ([]byte, error) {
	s := secretsOf(in.group)
	own := uint32(in.group.OwnLeaf())
	f := &Framed{GroupID: in.group.GroupID(), Epoch: in.group.Epoch(), SenderType: byte(mls.SenderMember), Sender: own, Type: t, Body: body, Leaf: own}
	for ; f.Generation < 1000; f.Generation++ {
		if _, _, ok := s.ratchets.key(own, t != mls.ContentApplication, f.Generation); ok {
			break
		}
	}
	bend.at(bend.Unsigned, f)
	in.sign(f, s.context, bend.As)
	bend.at(bend.Signed, f)
	bend.at(bend.Whole, f)
	return in.encrypt(f, s)
}

// unframe reads a commit's PublicMessage.
func (in *Insider) unframe(message []byte) *Framed {
	r := &reader{message}
	r.take(4) // version and wire format
	f := &Framed{GroupID: r.vector(), Epoch: r.u64(), SenderType: r.u8(), Sender: r.u32(), AAD: r.vector(), Type: mls.ContentType(r.u8())}
	f.Leaf = f.Sender
	start := r.in
	r.vector()
	if r.u8() == 1 {
		skipPath(r)
	}
	f.Body = bytes.Clone(r.since(start))
	return f
}

func (f *Framed) content() []byte {
	b := u64(vector(nil, f.GroupID), f.Epoch)
	b = append(b, f.SenderType)
	if mls.SenderType(f.SenderType) == mls.SenderMember || mls.SenderType(f.SenderType) == mls.SenderExternal {
		b = u32(b, f.Sender)
	}
	return append(append(vector(b, f.AAD), byte(f.Type)), f.Body...)
}

// sign is SignWithLabel over FramedContentTBS.
func (in *Insider) sign(f *Framed, context []byte, as *mls.Signer) {
	if as == nil {
		as = in.Signer
	}
	tbs := append(u16(u16(nil, 1), uint16(mls.WirePrivateMessage)), f.content()...)
	f.Signature = Sign(as, "FramedContentTBS", append(tbs, context...))
}

// Sign is SignWithLabel of RFC 9420, Section 5.1.2.
func Sign(s *mls.Signer, label string, content []byte) []byte {
	b := vector(vector(nil, []byte("MLS 1.0 "+label)), content)
	return ed25519.Sign(ed25519.NewKeyFromSeed(s.Private()), b)
}

// encrypt makes the PrivateMessage.
func (in *Insider) encrypt(f *Framed, s secrets) ([]byte, error) {
	key, nonce, ok := s.ratchets.key(f.Leaf, f.Type != mls.ContentApplication, f.Generation)
	if !ok {
		return nil, fmt.Errorf("forge: generation %d of leaf %d is used", f.Generation, f.Leaf)
	}
	guard := make([]byte, 4)
	if _, err := io.ReadFull(in.Rand, guard); err != nil {
		return nil, err
	}
	for i := range guard {
		nonce[i] ^= guard[i]
	}
	header := append(u64(vector(nil, f.GroupID), f.Epoch), byte(f.Type))
	aad := vector(bytes.Clone(header), f.AAD)
	plaintext := vector(bytes.Clone(f.Body), f.Signature)
	if f.Type == mls.ContentCommit {
		plaintext = vector(plaintext, f.Confirmation)
	}
	sealed, err := seal(key, nonce, aad, append(plaintext, f.Padding...))
	if err != nil {
		return nil, err
	}
	sample := sealed[:min(len(sealed), hashSize)]
	sender := append(u32(u32(nil, f.Leaf), f.Generation), guard...)
	data, err := seal(expand(s.senderData, "key", sample, keySize), expand(s.senderData, "nonce", sample, nonceSize), header, sender)
	if err != nil {
		return nil, err
	}
	message := append(u16(u16(nil, 1), uint16(mls.WirePrivateMessage)), aad...)
	return vector(vector(message, data), sealed), nil
}

func seal(key, nonce, aad, plaintext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nonce, plaintext, aad), nil
}

// contextOf encodes a GroupContext with another transcript (Section 8.1).
func contextOf(c *mls.GroupContext, confirmed []byte) []byte {
	b := vector(u16(u16(nil, 1), uint16(c.CipherSuite)), c.GroupID)
	b = vector(vector(u64(b, c.Epoch), c.TreeHash), confirmed)
	return vector(b, encodeExtensions(c.Extensions))
}

func encodeExtensions(list mls.Extensions) (b []byte) {
	for _, e := range list {
		b = vector(u16(b, uint16(e.Type)), e.Data)
	}
	return b
}
