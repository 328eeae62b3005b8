package forge_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
)

const suite = mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519

// club is four members of one group: the first is the insider.
func club(t *testing.T) (*forge.Insider, []*mls.Group) {
	t.Helper()
	random := rand.NewChaCha8(sha256.Sum256([]byte(t.Name())))
	caps := mls.Capabilities{Versions: []uint16{1}, CipherSuites: []mls.CipherSuite{suite}, Credentials: []mls.CredentialType{1}}
	life := mls.Lifetime{NotAfter: 1 << 40}
	var signers []*mls.Signer
	for range 4 {
		s, err := mls.GenerateSigner(suite, random)
		ok(t, err)
		signers = append(signers, s)
	}
	g, err := mls.Create(mls.CreateConfig{Rand: random, Suite: suite, GroupID: []byte("0123456789abcdef"), Signer: signers[0],
		Credential: mls.BasicCredential([]byte("insider")), Capabilities: caps, Lifetime: life})
	ok(t, err)
	var adds []mls.Proposal
	var packages []*mls.KeyPackage
	var secrets []*mls.KeyPackageSecrets
	for _, s := range signers[1:] {
		k, x, err := mls.NewKeyPackage(mls.KeyPackageConfig{Rand: random, Suite: suite, Signer: s,
			Credential: mls.BasicCredential([]byte("member")), Capabilities: caps, Lifetime: life})
		ok(t, err)
		adds, packages, secrets = append(adds, mls.Add{KeyPackage: k}), append(packages, k), append(secrets, x)
	}
	staged, err := g.Commit(mls.CommitConfig{Rand: random, Proposals: adds})
	ok(t, err)
	g, err = g.Merge(staged)
	ok(t, err)
	others := make([]*mls.Group, 3)
	welcome, err := (*mls.Realm)(nil).Parse(staged.Welcome())
	ok(t, err)
	for i := range others {
		others[i], _, err = mls.Join(mls.JoinConfig{Signer: signers[i+1], KeyPackage: packages[i], Secrets: secrets[i], Welcome: welcome})
		ok(t, err)
	}
	return forge.NewInsider(random, signers[0], g), others
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, g *mls.Group, data []byte) (*mls.Group, mls.Content, error) {
	t.Helper()
	m, err := (*mls.Realm)(nil).Parse(data)
	ok(t, err)
	return g.Open(m)
}

// TestWhatIsNotBentIsValid: the insider's own key schedule, transcript and framing are
// those of RFC 9420, so that what is refused of a forgery is what was bent of it.
func TestWhatIsNotBentIsValid(t *testing.T) {
	in, others := club(t)
	text, err := in.Say([]byte("hello"), forge.Bend{})
	ok(t, err)
	proposal, err := in.Propose(forge.Proposal(mls.ProposalRemove, forge.RemoveBody(3)), forge.Bend{})
	ok(t, err)
	commit, err := in.Commit(mls.CommitConfig{Rand: in.Rand, Proposals: []mls.Proposal{mls.Remove{Removed: 3}}}, forge.Bend{
		Unsigned: forge.Edit(func(b *forge.Body) {}), // taken apart and put together
	})
	ok(t, err)
	for i, g := range others[:2] {
		g, c, err := open(t, g, text)
		ok(t, err)
		if a, is := c.(*mls.Application); !is || string(a.Data) != "hello" || a.Sender != 0 {
			t.Errorf("member %d reads %+v", i, c)
		}
		if _, _, err = open(t, g, proposal); err != nil {
			t.Errorf("member %d: proposal: %v", i, err)
		}
		_, c, err = open(t, g, commit)
		ok(t, err)
		next, err := g.Merge(c.(*mls.StagedCommit))
		ok(t, err)
		others[i] = next
	}
	if !bytes.Equal(others[0].EpochAuthenticator(), others[1].EpochAuthenticator()) {
		t.Error("the others are in different epochs")
	}
}

// TestASpoiltPathIsolatesOne: with the tag made anew, a commit stays valid for all but
// those whose part of the path was spoilt.
func TestASpoiltPathIsolatesOne(t *testing.T) {
	in, others := club(t)
	commit, err := in.Commit(mls.CommitConfig{Rand: in.Rand}, forge.Bend{
		Unsigned: forge.Edit(func(b *forge.Body) { b.Nodes[0].Secrets[0][1][0] ^= 1 })})
	ok(t, err)
	for i, g := range others {
		_, _, err := open(t, g, commit)
		if isolated := errors.Is(err, mls.ErrCannotDecryptPath); isolated != (i == 0) || err != nil && !isolated {
			t.Errorf("member %d: %v", i+1, err)
		}
	}
}

// TestAnotherMembersLeaf: the insider has the ratchets of all members, and not their
// signature keys; the key that it spent is still there for whom it belongs to.
func TestAnotherMembersLeaf(t *testing.T) {
	in, others := club(t)
	as := forge.Bend{Unsigned: func(f *forge.Framed) { f.Sender, f.Leaf, f.Generation = 1, 1, 0 }}
	data, err := in.Say([]byte("I am the first"), as)
	ok(t, err)
	if _, _, err := open(t, others[1], data); !errors.Is(err, mls.ErrInvalid) {
		t.Errorf("member 2 reads it: %v", err)
	}
	_, honest, err := others[0].Seal(in.Rand, nil, []byte("no"))
	ok(t, err)
	if _, _, err := open(t, others[1], honest); err != nil {
		t.Errorf("the honest message with the same generation: %v", err)
	}
}
