package sim

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
)

// Everybody who can be in a world, with wallets that really sign. What a person
// does in the identity log is the same in every seed: an installation, a second
// one, the second one revoked, a third one. When it does it is the seed's.
// Signing is slow and the outcome always the same, so it is done once.
const (
	mostPeople   = 12
	installsEach = 3
)

// A script is a person's wallet, installations and identity updates.
type script struct {
	inbox   string
	signers [installsEach]*mls.Signer
	states  []*identity.State // after each update
	adds    []int             // the installation an update adds, -1 where it adds none
}

var scripts = sync.OnceValues(func() ([]*script, error) {
	all := make([]*script, mostPeople)
	for i := range all {
		var err error
		if all[i], err = newScript(i); err != nil {
			return nil, fmt.Errorf("person %d: %w", i, err)
		}
	}
	return all, nil
})

func newScript(i int) (*script, error) {
	seed := sha256.Sum256(fmt.Appendf(nil, "wallet %d", i))
	wallet, err := ethereum.ParseKey(seed[:])
	if err != nil {
		return nil, err
	}
	s := new(script)
	if s.inbox, err = identity.InboxID(wallet.Identifier(), identity.DefaultNonce); err != nil {
		return nil, err
	}
	var keys [installsEach]ed25519.PrivateKey
	var ids [installsEach]identity.Identifier
	for n := range installsEach {
		seed := sha256.Sum256(fmt.Appendf(nil, "installation %d of %d", n, i))
		keys[n] = ed25519.NewKeyFromSeed(seed[:])
		if s.signers[n], err = mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, seed[:]); err != nil {
			return nil, err
		}
		if ids[n], err = identity.InstallationFrom(s.signers[n].Public()); err != nil {
			return nil, err
		}
	}
	at := epochStart
	tick := func() time.Time { at = at.Add(time.Minute); return at }
	first, err := identity.Register(wallet.Identifier(), identity.DefaultNonce, ids[0], tick())
	if err != nil {
		return nil, err
	}
	var state *identity.State
	for _, u := range []struct {
		draft *identity.Draft
		adds  int
	}{
		{first, 0},
		{identity.NewDraft(s.inbox, tick()).Add(ids[1], wallet.Identifier()), 1},
		{identity.NewDraft(s.inbox, tick()).Revoke(ids[1], wallet.Identifier()), -1},
		{identity.NewDraft(s.inbox, tick()).Add(ids[2], wallet.Identifier()), 2},
	} {
		if err := u.draft.Sign(wallet); err != nil {
			return nil, err
		}
		if u.adds >= 0 {
			if err := u.draft.SignInstallation(keys[u.adds]); err != nil {
				return nil, err
			}
		}
		update, err := u.draft.Update()
		if err != nil {
			return nil, err
		}
		verified, err := identity.Verify(update, ethereum.Verifier{})
		if err != nil {
			return nil, err
		}
		if state, err = state.Apply(verified); err != nil {
			return nil, err
		}
		s.states, s.adds = append(s.states, state), append(s.adds, u.adds)
	}
	return s, nil
}

// A person is somebody in one world: how much of the script has happened, and
// when.
type person struct {
	*script
	index int
	seqs  []uint64 // of the updates that are in the identity log
}

// at is Env.Identity for who knows the log up to an update.
func (p *person) at(seq, known uint64) (state *identity.State, exact bool) {
	for i, n := range p.seqs {
		if n > seq || n > known {
			break
		}
		state, exact = p.states[i], n == seq
	}
	return state, exact
}

func (p *person) newest() uint64 {
	if len(p.seqs) == 0 {
		return 0
	}
	return p.seqs[len(p.seqs)-1]
}

// has reports whether an installation is the person's now.
func (p *person) has(installation []byte) bool {
	id, err := identity.InstallationFrom(installation)
	return err == nil && len(p.seqs) > 0 && p.states[len(p.seqs)-1].Has(id)
}

// owns reports whether an installation was ever the person's, as the log is now.
func (p *person) owns(installation []byte) bool {
	id, err := identity.InstallationFrom(installation)
	if err != nil {
		return false
	}
	for i := range p.seqs {
		if p.states[i].Has(id) {
			return true
		}
	}
	return false
}
