package group

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/mls"
)

// A group of libxmtp 1.11's rules demands extension 0xff05 of its members: RFC
// 9420 lets nobody bring in a client of this profile, nor move a group to it that
// one is in; and the reason has a name. A welcome or commit that tries all the
// same is refused by the same rule. X32.
func TestNewerProfileIsNamed(t *testing.T) {
	const extProposalSupport mls.ExtensionType = 0xff05
	signer := func() *mls.Signer {
		seed := make([]byte, 32)
		if _, err := rand.Read(seed); err != nil {
			t.Fatal(err)
		}
		s, err := mls.NewSigner(v3.suite, seed)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	create := func(exts mls.Extensions) *mls.Group {
		capable := v3.creator
		capable.Extensions = append([]mls.ExtensionType{extProposalSupport}, capable.Extensions...)
		g, err := mls.Create(mls.CreateConfig{
			Rand: rand.Reader, Suite: v3.suite, GroupID: make([]byte, groupIDSize), Signer: signer(),
			Credential: credentialOf("creator"), Capabilities: capable, Lifetime: mls.Lifetime{NotAfter: 1 << 40}, Extensions: exts,
		})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	ours, _, err := NewKeyPackage(KeyPackageConfig{Rand: rand.Reader, Signer: signer(), Inbox: "member", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	newer := mls.Extensions{{Type: extProposalSupport, Data: []byte{8, 1}}}
	required := mls.Extensions{{Type: mls.ExtensionRequiredCapabilities, Data: mls.RequiredCapabilities{Extensions: []mls.ExtensionType{extProposalSupport}}.Bytes()}}
	for _, c := range []struct {
		name      string
		group     mls.Extensions
		proposals []mls.Proposal
	}{
		{"adding to a group that has it", newer, []mls.Proposal{mls.Add{KeyPackage: ours.MLS}}},
		{"adding to a group that requires it", required, []mls.Proposal{mls.Add{KeyPackage: ours.MLS}}},
		{"adding and moving to it", nil, []mls.Proposal{mls.Add{KeyPackage: ours.MLS}, mls.GroupContextExtensions{Extensions: newer}}},
	} {
		_, err := create(c.group).Commit(mls.CommitConfig{Rand: rand.Reader, Proposals: c.proposals})
		if !errors.Is(err, mls.ErrUnsupported) || !errors.Is(err, mls.ErrInvalid) || !errors.Is(beyondProfile(err), ErrNewerProfile) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if errors.Is(beyondProfile(mls.ErrReplayed), ErrNewerProfile) {
		t.Error("another reason is taken for a newer profile")
	}
}
