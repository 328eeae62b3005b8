package group_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// The rules of errors.go, each broken by somebody whose client checks nothing.

// cited are people with the newest update of each.
func (w *world) cited(people ...string) map[string]uint64 {
	members := map[string]uint64{}
	for _, p := range people {
		in := w.inboxes[p]
		members[in.id] = in.log.LatestID()
	}
	return members
}

// keyPackage makes one like the installation's own, but for what is changed.
func (h *home) keyPackage(change func(*mls.KeyPackageConfig)) *mls.KeyPackage {
	own := h.secrets.KeyPackage.MLS
	c := mls.KeyPackageConfig{
		Rand: h.world.rand, Suite: own.CipherSuite, Signer: h.signer, Credential: own.LeafNode.Credential,
		Capabilities: own.LeafNode.Capabilities, Lifetime: own.LeafNode.Lifetime,
		LeafExtensions: own.LeafNode.Extensions, Extensions: own.Extensions,
	}
	change(&c)
	k, _, err := mls.NewKeyPackage(c)
	h.must(err)
	return k
}

// as makes a key package claim another installation's inbox.
func (w *world) as(name string) func(*mls.KeyPackageConfig) {
	return func(c *mls.KeyPackageConfig) {
		c.Credential = w.homes[name].secrets.KeyPackage.MLS.LeafNode.Credential
	}
}

// commit makes a commit that asks nobody.
func (h *home) commit(proposals ...mls.Proposal) *mls.StagedCommit {
	h.t.Helper()
	c, err := h.replica.Group().Commit(mls.CommitConfig{Rand: h.world.rand, Proposals: proposals})
	h.must(err)
	return c
}

// replaced commits the group's context with one extension replaced, or dropped where
// data is nil.
func (h *home) replaced(t mls.ExtensionType, data []byte) []byte {
	exts := slices.DeleteFunc(slices.Clone(h.replica.Group().Extensions()), func(e mls.Extension) bool { return e.Type == t })
	if data != nil {
		exts = append(exts, mls.Extension{Type: t, Data: data})
	}
	return h.commit(mls.GroupContextExtensions{Extensions: exts}).Message()
}

// refuses delivers an envelope that must be read past for a reason, and nothing
// else: the group, its epoch and the history stay, and what is stored says where
// the reading stands and what was refused.
func (h *home) refuses(t *testing.T, at time.Time, data []byte, want error) {
	t.Helper()
	r := h.replica
	state, meta, stalled, cursor := r.Group(), r.Metadata(), r.Stalled(), r.Cursor()
	id := h.nextID()
	fx, err := r.Step(group.Delivered{ID: id, Time: at, Commit: true, Data: data})
	if len(fx.Resolve) > 0 { // it waits for an identity that never comes
		if r.Cursor() != cursor || r.Stalled() == "" || r.Group() != state {
			t.Errorf("%s: read past what it waits for", h.name)
		}
		h.carry(fx)
		fx, err = r.Step(group.Resolved{})
	}
	if err != nil {
		t.Fatalf("%s: %v", h.name, err)
	}
	var reason error
	for _, e := range fx.Emit {
		switch e := e.(type) {
		case group.Rejected:
			if reason = e.Reason; e.ID != id {
				t.Errorf("%s: rejected %d instead of %d", h.name, e.ID, id)
			}
		case group.StandingChanged:
		default:
			t.Errorf("%s: %T", h.name, e)
		}
	}
	if !errors.Is(reason, want) || !errors.Is(reason, group.ErrRejected) {
		t.Errorf("%s: got %v, want %v", h.name, reason, want)
	}
	for _, row := range fx.Save {
		if row.Table != group.TableMeta && row.Table != group.TableRejected {
			t.Errorf("%s: changed table %d", h.name, row.Table)
		}
	}
	if r.Group() != state || r.Metadata() != meta || r.Stalled() != stalled || r.Cursor() != id || len(fx.Send) > 0 {
		t.Errorf("%s: something changed", h.name)
	}
	h.carry(fx)
}

// three is a world in which alice, bob and carol share a group, carol nothing
// but the group. Dave is outside.
func three(t *testing.T) *world {
	w := newWorld(t)
	w.run(words("people alice bob carol dave"))
	w.run(words("alone carol"))
	w.run(words("create alice"))
	w.run(words("add alice bob carol"))
	w.sync(w.order)
	return w
}

// goesOn shows that whatever came, the three still share a group.
func (w *world) goesOn(t *testing.T) {
	t.Helper()
	w.run(words("rename bob works"))
	w.sync(w.order)
	w.agree()
	for _, name := range []string{"alice", "bob", "carol"} {
		if r := w.homes[name].replica; r.Metadata().Attributes[group.AttributeName] != "works" || r.Epoch() != 2 {
			t.Errorf("%s did not go on", name)
		}
	}
}

// TestCommitsThatAreRefused: what a member may commit by RFC 9420 and not here.
// C6, C14, C16.
func TestCommitsThatAreRefused(t *testing.T) {
	w := three(t)
	alice, dave := w.homes["alice"], w.homes["dave"]
	g := alice.replica.Group()
	extensions := func(members map[string]uint64) mls.Proposal {
		return mls.GroupContextExtensions{Extensions: group.ReplaceMembers(g.Extensions(), members)}
	}
	all := w.cited("alice", "bob", "carol", "dave")
	// adds commits dave with another key package.
	adds := func(change func(*mls.KeyPackageConfig)) []byte {
		return alice.commit(extensions(all), mls.Add{KeyPackage: dave.keyPackage(change)}).Message()
	}
	from := func(begin, end time.Duration) func(*mls.KeyPackageConfig) {
		return func(c *mls.KeyPackageConfig) {
			c.Lifetime = mls.Lifetime{NotBefore: uint64(w.now.Add(begin).Unix()), NotAfter: uint64(w.now.Add(end).Unix())}
		}
	}
	future := maps.Clone(all)
	future[dave.inbox.id] = 1 << 40
	pathless, err := g.Commit(mls.CommitConfig{Rand: w.rand, NoPath: true, Proposals: []mls.Proposal{mls.Add{KeyPackage: dave.secrets.KeyPackage.MLS}}})
	w.must(err)
	psk := func(p mls.PreSharedKeyID) []byte {
		p.Nonce = make([]byte, 32)
		mine := g.WithPSK(func(mls.PreSharedKeyID) ([]byte, bool) { return make([]byte, 32), true })
		c, err := mine.Commit(mls.CommitConfig{Rand: w.rand, Proposals: []mls.Proposal{mls.PreSharedKey{ID: p}}})
		w.must(err)
		return c.Message()
	}
	_, proposal, err := w.homes["bob"].replica.Group().Propose(w.rand, mls.Update{}, nil)
	w.must(err)
	queued, _, err := g.Open(must(w.realm.Parse(proposal))(t))
	w.must(err)
	byReference := must(queued.Commit(mls.CommitConfig{Rand: w.rand, ByReference: true}))(t)
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"no path", pathless.Message(), group.RuleActorKey},
		{"pre-shared key of the group", psk(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.ResumptionApplication,
			GroupID: g.GroupID(), Epoch: g.Epoch()}), group.RuleProposalType},
		{"pre-shared key from elsewhere", psk(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("x")}), mls.ErrUnknownPSK},
		{"reinit", alice.commit(mls.ReInit{GroupID: make([]byte, 16), Version: 1, CipherSuite: g.Suite()}).Message(), group.RuleProposalType},
		{"proposal by reference", byReference.Message(), mls.ErrUnknownProposal},
		{"identity that nobody published", alice.commit(extensions(future), mls.Add{KeyPackage: dave.secrets.KeyPackage.MLS}).Message(),
			group.RuleMissingIdentity},
		{"leaf with group metadata", adds(func(c *mls.KeyPackageConfig) {
			c.LeafExtensions = append(slices.Clone(c.LeafExtensions), mls.Extension{Type: 0xf000})
		}), group.RuleLeafMetadata},
		{"required capabilities dropped", alice.replaced(mls.ExtensionRequiredCapabilities, nil), group.RuleNotRequired},
		{"required capabilities without an extension in use", alice.replaced(mls.ExtensionRequiredCapabilities, mls.RequiredCapabilities{
			Extensions: []mls.ExtensionType{0xff01, 0xff00, 0xf000}, Credentials: []mls.CredentialType{1}}.Bytes()), group.RuleNotRequired},
		{"immutable metadata dropped", alice.replaced(0xf000, nil), group.ErrMetadata},
		{"key package that has ended", adds(from(-2*time.Hour, -time.Hour)), group.RuleExpired},
		{"key package that ends now", adds(from(-time.Hour, 0)), group.RuleExpired},
		{"key package that begins now", adds(from(0, time.Hour)), group.RuleExpired},
		{"key package for too long", adds(from(-time.Hour, 84*24*time.Hour+time.Second)), group.RuleExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"bob", "carol"} {
				w.homes[name].refuses(t, w.now, c.data, c.want)
			}
		})
	}
	w.goesOn(t)
}

// TestRequiredOfWhoeverWasAMember: an extension is required only where all who were
// members before the commit know it, also those whom it removes.
func TestRequiredOfWhoeverWasAMember(t *testing.T) {
	r := three(t).homes["bob"].replica
	for extension, want := range map[mls.ExtensionType]error{
		mls.ExtensionLastResort: nil,
		0xff03:                  group.RuleRequiredOfAll, // alice, who made the group, does not say that she knows it
	} {
		exts := slices.DeleteFunc(slices.Clone(r.Group().Extensions()), func(e mls.Extension) bool { return e.Type == mls.ExtensionRequiredCapabilities })
		exts = append(exts, mls.Extension{Type: mls.ExtensionRequiredCapabilities, Data: mls.RequiredCapabilities{
			Extensions: []mls.ExtensionType{0xff00, 0xff01, 0xff02, 0xf000, extension}}.Bytes()})
		if err := r.JudgeContext(exts); err != want {
			t.Errorf("%#x required: %v, want %v", extension, err, want)
		}
	}
}

// TestAnImpostorIsHeardByNobody: a leaf that claims an inbox which does not own its
// installation comes in, since real clients let it; what it sends is read past, it is
// listed for nobody, and it can be removed.
func TestAnImpostorIsHeardByNobody(t *testing.T) {
	for name, claim := range map[string]func(*world) func(*mls.KeyPackageConfig){
		"a member's inbox": func(w *world) func(*mls.KeyPackageConfig) { return w.as("bob") },
		"no inbox": func(*world) func(*mls.KeyPackageConfig) {
			return func(c *mls.KeyPackageConfig) { c.Credential = mls.BasicCredential(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			carol, dave := w.homes["carol"], w.homes["dave"]
			own := dave.secrets.KeyPackage.MLS
			c := mls.KeyPackageConfig{Rand: w.rand, Suite: own.CipherSuite, Signer: dave.signer, Capabilities: own.LeafNode.Capabilities, Lifetime: own.LeafNode.Lifetime}
			claim(w)(&c)
			k, secrets, err := mls.NewKeyPackage(c)
			w.must(err)
			id := carol.replica.ID()
			commit := carol.commit(mls.Add{KeyPackage: k}, mls.GroupContextExtensions{
				Extensions: group.ReplaceMembers(carol.replica.Group().Extensions(), w.cited("alice", "bob", "carol", "dave"))})
			w.publish(group.TopicCommits, id, group.EncodeGroupMessage(commit.Message(), nil, false))
			g, _, err := mls.Join(mls.JoinConfig{Signer: dave.signer, KeyPackage: k, Secrets: secrets, Welcome: must(w.realm.Parse(commit.Welcome()))(t)})
			w.must(err)
			for range 2 {
				var data []byte
				g, data, err = g.Seal(w.rand, nil, []byte{0x0a, 0x06, 0x0a, 0x01, 'x', 0x12, 0x01, 'k'})
				w.must(err)
				w.publish(group.TopicMessages, id, group.EncodeGroupMessage(data, nil, false))
				for _, name := range []string{"alice", "bob"} {
					h := w.homes[name]
					w.out.Reset()
					h.deliver()
					if h.replica.Epoch() != 2 || !strings.Contains(w.out.String(), "sender claims an inbox that does not own it") {
						t.Errorf("%s hears it: %s", name, w.out.String())
					}
					for key := range h.replica.Installations {
						if bytes.Equal(key, dave.signer.Public()) {
							t.Errorf("%s lists it", name)
						}
					}
					h.crash() // it is remembered
				}
			}
			w.run(words("remove alice dave"))
			w.sync([]string{"alice", "bob"})
			for _, name := range []string{"alice", "bob"} {
				if n := w.homes[name].replica.Group().Size(); n != 3 {
					t.Errorf("%s has %d leaves: %s", name, n, w.out.String())
				}
			}
		})
	}
}

// TestLifetimesAreJudgedByTheLog: whatever the clocks of its maker and its
// readers say, the time at which the log took a commit decides. C16
func TestLifetimesAreJudgedByTheLog(t *testing.T) {
	w := three(t)
	alice, dave := w.homes["alice"], w.homes["dave"]
	k := dave.keyPackage(func(c *mls.KeyPackageConfig) {
		c.Lifetime.NotAfter = uint64(w.now.Add(time.Hour).Unix())
	})
	data := alice.commit(mls.GroupContextExtensions{Extensions: group.ReplaceMembers(alice.replica.Group().Extensions(),
		w.cited("alice", "bob", "carol", "dave"))}, mls.Add{KeyPackage: k}).Message()
	for _, name := range []string{"bob", "carol"} {
		h := w.homes[name]
		h.refuses(t, w.now.Add(time.Hour), data, group.RuleExpired)
		h.refuses(t, w.now.Add(-2*time.Hour), data, group.RuleExpired)
		h.step(group.Delivered{ID: w.nextID(), Time: w.now.Add(time.Hour - time.Second), Commit: true, Data: data})
		if h.replica.Epoch() != 2 {
			t.Errorf("%s refuses a second before the end", name)
		}
	}
}

// TestProposalsAreTheCommitters: were a proposal of somebody else at hand, a
// commit of it is refused none the less. C14
func TestProposalsAreTheCommitters(t *testing.T) {
	w := three(t)
	alice, bob := w.homes["alice"], w.homes["bob"]
	_, proposal, err := w.homes["carol"].replica.Group().Propose(w.rand, mls.Update{}, nil)
	w.must(err)
	alice.replica.Queue(t, proposal)
	bob.replica.Queue(t, proposal)
	c := must(alice.replica.Group().Commit(mls.CommitConfig{Rand: w.rand, ByReference: true}))(t)
	bob.refuses(t, w.now, c.Message(), group.RuleManyActors)
}

// TestCommitterKeepsItsKey: a path may change the signature key by RFC 9420, but
// the key is the installation.
func TestCommitterKeepsItsKey(t *testing.T) {
	w := three(t)
	data := w.homes["alice"].commit().Message()
	for who, want := range map[string]error{"alice": nil, "dave": group.RuleActorKey} {
		if err := w.homes["carol"].replica.JudgeWithKey(t, data, w.homes[who].signer.Public()); !errors.Is(err, want) {
			t.Errorf("with the key of %s: %v, want %v", who, err, want)
		}
	}
}

// TestEnvelopesThatAreRefused: what no commit or message is taken from. C14
func TestEnvelopesThatAreRefused(t *testing.T) {
	w := three(t)
	alice, dave := w.homes["alice"], w.homes["dave"]
	g := alice.replica.Group()
	seal := func(g *mls.Group) []byte {
		_, data, err := g.Seal(w.rand, nil, []byte("x"))
		w.must(err)
		return data
	}
	propose := func(p mls.Proposal) []byte {
		_, data, err := g.Propose(w.rand, p, nil)
		w.must(err)
		return data
	}
	elsewhere, _, err := group.Create(alice.env(), group.CreateConfig{Now: w.now})
	w.must(err)
	public := must(g.Commit(mls.CommitConfig{Rand: w.rand, Public: true}))(t)
	info := must(g.Info())(t)
	own := dave.secrets.KeyPackage.MLS.LeafNode
	_, external, err := mls.JoinExternal(mls.ExternalConfig{
		Rand: w.rand, Signer: dave.signer, Credential: own.Credential, Capabilities: own.Capabilities,
		LeafExtensions: own.Extensions, GroupInfo: must(w.realm.Parse(info))(t),
	})
	w.must(err)
	next := must(g.Merge(alice.commit()))(t)
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"message of another group", seal(elsewhere.Group()), group.RuleWrongGroup},
		{"commit of another group", must(elsewhere.Group().Commit(mls.CommitConfig{Rand: w.rand}))(t).Message(), group.RuleWrongGroup},
		{"public commit", public.Message(), group.RuleNotPrivate},
		{"external commit", external.Message(), group.RuleNotPrivate},
		{"group info", info, group.RuleNotPrivate},
		{"welcome", alice.commit(mls.Add{KeyPackage: dave.secrets.KeyPackage.MLS}).Welcome(), group.RuleNotPrivate},
		{"update on its own", propose(mls.Update{}), group.RuleByReference},
		{"removal on its own", propose(mls.Remove{Removed: 1}), group.RuleByReference},
		{"addition on its own", propose(mls.Add{KeyPackage: dave.secrets.KeyPackage.MLS}), group.RuleByReference},
		{"message of the next epoch", seal(next), group.RuleFutureEpoch},
		{"commit of the next epoch", must(next.Commit(mls.CommitConfig{Rand: w.rand}))(t).Message(), group.RuleFutureEpoch},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"bob", "carol"} {
				w.homes[name].refuses(t, w.now, c.data, c.want)
			}
		})
	}
	w.goesOn(t)
}

// TestNoCommitOnALeftBranch: a store that went back finds its own commit in the
// log, which the others followed and it cannot; a late commit of the old epoch
// would now lead it away from them. D4
func TestNoCommitOnALeftBranch(t *testing.T) {
	w := three(t)
	bob := w.homes["bob"]
	late := w.homes["carol"].commit().Message()
	w.run(words("backup bob"))
	w.run(words("rename bob gone"))
	w.sync(w.order)
	w.run(words("restore bob"))
	bob.deliver()
	if bob.replica.Epoch() != 1 || bob.replica.Stalled() == "" {
		t.Fatal("bob is not behind")
	}
	bob.refuses(t, w.now, late, group.RuleLeftBehind)
}

// TestWelcomesThatAreRefused: a group that is not what its members say.
func TestWelcomesThatAreRefused(t *testing.T) {
	// The inviter has a group, or a direct message with bob; it changes the
	// context and adds the joiner and whom else it likes.
	type change func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage)
	members := func(people ...string) change {
		return func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			return group.ReplaceMembers(exts, w.cited(people...)), nil
		}
	}
	both := members("alice", "bob")
	// with changes more than the members.
	with := func(more func(*world, mls.Extensions) mls.Extensions) change {
		return func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			exts, adds := both(w, exts)
			return more(w, exts), adds
		}
	}
	dm := func(w *world, exts mls.Extensions, one, two string) mls.Extensions {
		return group.ReplaceKind(exts, group.KindDM, w.inboxes[one].id, w.inboxes[two].id)
	}
	between := func(one, two string) change {
		return with(func(w *world, exts mls.Extensions) mls.Extensions { return dm(w, exts, one, two) })
	}
	for _, c := range []struct {
		name   string
		dm     bool
		by     string // bob2 is another installation of bob's
		change change
		want   error
	}{
		{"nothing wrong", false, "alice", both, nil},
		{"nothing wrong", true, "alice", both, nil},
		{"joiner is no member", false, "alice", members("alice"), group.RuleUnknownLeaf},
		{"inviter is no member", false, "alice", members("bob"), group.RuleUnknownLeaf},
		{"leaf that claims another's inbox", false, "alice", func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			return group.ReplaceMembers(exts, w.cited("alice", "bob", "carol")), []*mls.KeyPackage{w.homes["dave"].keyPackage(w.as("carol"))}
		}, group.RuleUnknownLeaf},
		{"leaf that claims no inbox", false, "alice", func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			return group.ReplaceMembers(exts, w.cited("alice", "bob")), []*mls.KeyPackage{
				w.homes["dave"].keyPackage(func(c *mls.KeyPackageConfig) { c.Credential = mls.BasicCredential(nil) })}
		}, group.RuleUnknownLeaf},
		{"member without a leaf", false, "alice", members("alice", "bob", "carol"), group.RuleMissingLeaf},
		{"member whose installation failed", false, "alice", func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			return group.ReplaceMembers(exts, w.cited("alice", "bob", "carol"), w.homes["carol"].signer.Public()), nil
		}, nil},
		{"phantom, whom nobody looks up", false, "alice", with(func(w *world, exts mls.Extensions) mls.Extensions {
			m := w.cited("alice", "bob")
			m["nobody"] = 0
			return group.ReplaceMembers(exts, m)
		}), nil},
		{"leaf of an inbox at no update", false, "alice", with(func(w *world, exts mls.Extensions) mls.Extensions {
			m := w.cited("alice", "bob")
			m[w.inboxes["alice"].id] = 0
			return group.ReplaceMembers(exts, m)
		}), group.RuleUnknownLeaf},
		{"identity that nobody published", false, "alice", with(func(w *world, exts mls.Extensions) mls.Extensions {
			m := w.cited("alice", "bob")
			m[w.inboxes["bob"].id] = 1 << 40
			return group.ReplaceMembers(exts, m)
		}), group.RuleMissingIdentity},
		{"oneshot group", false, "alice", with(func(_ *world, exts mls.Extensions) mls.Extensions {
			return group.ReplaceKind(exts, group.KindOneshot)
		}), group.RuleOneshot},
		{"direct message of the inviter with another", true, "alice", between("alice", "carol"), group.RuleDMMembers},
		{"direct message of the joiner with another", true, "alice", between("carol", "bob"), group.RuleDMMembers},
		{"direct message of strangers", true, "alice", between("carol", "dave"), group.RuleDMMembers},
		{"direct message of strangers, from an own installation", true, "bob2", func(w *world, exts mls.Extensions) (mls.Extensions, []*mls.KeyPackage) {
			return dm(w, group.ReplaceMembers(exts, w.cited("bob")), "carol", "dave"), nil
		}, group.RuleDMMembers},
		{"direct message with a super admin", true, "alice", with(func(w *world, exts mls.Extensions) mls.Extensions {
			return group.ReplaceSuperAdmins(w.t, exts, w.inboxes["alice"].id)
		}), group.RuleDMAdmins},
		{"direct message in which all may", true, "alice", with(func(_ *world, exts mls.Extensions) mls.Extensions {
			return group.ReplacePermissions(exts, group.PresetDefault.Permissions())
		}), group.RuleDMPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.run(words("people alice bob carol dave"))
			bob, inviter := w.homes["bob"], w.homes["alice"]
			if c.by == "bob2" {
				inviter = w.install("bob2", "bob")
			}
			kind := group.KindGroup
			if c.dm {
				kind = group.KindDM
			}
			inviter.create(group.CreateConfig{Kind: kind, Peer: bob.inbox.id, Now: w.now})
			exts, adds := c.change(w, inviter.replica.Group().Extensions())
			proposals := []mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}
			for _, k := range append(adds, bob.secrets.KeyPackage.MLS) {
				proposals = append(proposals, mls.Add{KeyPackage: k})
			}
			join := group.JoinConfig{Welcome: group.Welcome{Data: inviter.commit(proposals...).Welcome()},
				Secrets: bob.secrets, Created: w.now, Resolved: true}
			for range 2 { // what is remembered must not make it valid
				r, fx, err := group.Join(bob.env(), join)
				if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, group.ErrRejected) {
					t.Fatalf("got %v, want %v", err, c.want)
				}
				if (r == nil) != (err != nil) || err != nil && len(fx.Save)+len(fx.Emit)+len(fx.Send) > 0 {
					t.Error("something is left of it")
				}
			}
		})
	}
}

// TestWelcomesOfOtherGroups: a welcome is to the group whose replica is there,
// and to one whose id is as long as all of them.
func TestWelcomesOfOtherGroups(t *testing.T) {
	w, alice, bob := two(t)
	dave := w.install("dave", "dave")
	elsewhere, _, err := group.Create(alice.env(), group.CreateConfig{Now: w.now})
	w.must(err)
	g := elsewhere.Group()
	welcome := func(g *mls.Group, h *home) group.Welcome {
		c := must(g.Commit(mls.CommitConfig{Rand: w.rand, Proposals: []mls.Proposal{
			mls.GroupContextExtensions{Extensions: group.ReplaceMembers(g.Extensions(), w.cited("alice", h.inbox.name))},
			mls.Add{KeyPackage: h.secrets.KeyPackage.MLS},
		}}))(t)
		return group.Welcome{Data: c.Welcome()}
	}
	before := bob.digest()
	_, _, err = group.Join(bob.env(), group.JoinConfig{Welcome: welcome(g, bob), Secrets: bob.secrets, Created: w.now, Previous: bob.replica})
	if !errors.Is(err, group.RuleWrongGroup) || bob.digest() != before {
		t.Errorf("in the place of another group: %v", err)
	}
	leaf, _ := g.Member(g.OwnLeaf())
	short := must(mls.Create(mls.CreateConfig{Rand: w.rand, Suite: g.Suite(), GroupID: []byte("short"), Signer: alice.signer,
		Credential: leaf.Credential, Capabilities: leaf.Capabilities, Lifetime: leaf.Lifetime, Extensions: slices.Clone(g.Extensions())}))(t)
	_, _, err = group.Join(dave.env(), group.JoinConfig{Welcome: welcome(short, dave), Secrets: dave.secrets, Created: w.now})
	if !errors.Is(err, group.RuleWrongGroup) {
		t.Errorf("with a short id: %v", err)
	}
	err = group.JoinSignedBy(dave.env(), alice.replica.Group(), 7, group.JoinConfig{Created: w.now})
	if !errors.Is(err, group.RuleAdderUnknown) || !errors.Is(err, group.ErrRejected) {
		t.Errorf("signed from a leaf that is blank: %v", err)
	}
}

// TestABadKeyFailsOnlyItsOwner: a key package that is signed as it should be, but
// with a key that nothing can be encrypted to, keeps its own installation out, is
// named, and is in nobody else's way.
func TestABadKeyFailsOnlyItsOwner(t *testing.T) {
	point := make([]byte, 32) // of low order
	for name, bad := range map[string]func(*home) *mls.KeyPackage{
		"init key of low order": func(h *home) *mls.KeyPackage { return h.withInitKey(point) },
		"init key of no length": func(h *home) *mls.KeyPackage { return h.withInitKey(nil) },
		"welcome key that is none of ML-KEM": func(h *home) *mls.KeyPackage {
			k := h.secrets.KeyPackage
			return h.keyPackage(func(c *mls.KeyPackageConfig) {
				for i, e := range c.Extensions {
					c.Extensions[i].Data = bytes.Replace(e.Data, k.WelcomeKey(), bytes.Repeat([]byte{0xff}, len(k.WelcomeKey())), 1)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(words("people alice bob dave"))
			dave := w.homes["dave"]
			dave.secrets.KeyPackage.MLS = bad(dave)
			w.run(words("create alice"))
			w.run(words("add alice bob dave")) // all or nobody, and dave is named
			w.run(words("sync"))
			if bob := w.homes["bob"].replica; bob != nil || !strings.Contains(w.out.String(), "unreachable [dave]") {
				t.Error(w.out.String())
			}
			w.run(words("add alice bob"))
			w.sync(w.order)
			if bob := w.homes["bob"].replica; bob == nil || bob.Epoch() != 1 || len(bob.Metadata().Members) != 2 {
				t.Error(w.out.String())
			}
		})
	}
}

// withInitKey is the installation's key package with another init key, signed
// again: RFC 9420, Sections 5.1.2 and 10.
func (h *home) withInitKey(key []byte) *mls.KeyPackage {
	own := h.secrets.KeyPackage.MLS
	vector := func(b []byte) []byte { // up to 2^14-1 bytes
		if len(b) < 64 {
			return append([]byte{byte(len(b))}, b...)
		}
		return append([]byte{0x40 | byte(len(b)>>8), byte(len(b))}, b...)
	}
	b := bytes.Replace(own.Bytes(), vector(own.InitKey), vector(key), 1)
	b = b[:len(b)-len(vector(own.Signature))]
	content := slices.Concat(vector([]byte("MLS 1.0 KeyPackageTBS")), vector(b))
	signature := ed25519.Sign(ed25519.NewKeyFromSeed(h.signer.Private()), content)
	k, err := mls.ParseKeyPackage(append(b, vector(signature)...))
	h.must(err)
	return k
}

// must returns what a call that cannot fail gave.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestWelcomesToAnotherKind: whoever adds a removed member again, the conversation
// is of the kind that it was.
func TestWelcomesToAnotherKind(t *testing.T) {
	w, alice, bob := two(t)
	w.run(words("remove alice bob"))
	w.sync(w.order)
	mallory := w.install("mallory", "mallory")
	r, _, err := group.Create(mallory.env(), group.CreateConfig{ID: alice.replica.ID(), Kind: group.KindDM, Peer: bob.inbox.id, Now: w.now})
	w.must(err)
	exts := group.ReplaceMembers(r.Group().Extensions(), w.cited("mallory", "bob"))
	s := must(r.Group().Commit(mls.CommitConfig{Rand: w.rand, Proposals: []mls.Proposal{
		mls.Add{KeyPackage: bob.secrets.KeyPackage.MLS}, mls.GroupContextExtensions{Extensions: exts}}}))(t)
	join := group.JoinConfig{Welcome: group.Welcome{Data: s.Welcome()}, Secrets: bob.secrets, Created: w.tick()}
	if _, _, err := group.Join(bob.env(), join); err != nil {
		t.Errorf("where the id is not known: %v", err)
	}
	join.Previous = bob.replica
	if _, _, err := group.Join(bob.env(), join); !errors.Is(err, group.RuleOtherKind) || !errors.Is(err, group.ErrRejected) {
		t.Errorf("in the place of a group: %v", err)
	}
}
