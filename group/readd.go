package group

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// An installation that is stranded cannot say so in its group: nobody is in its epoch.
// It asks beside it, as XMTP's clients do: it makes a group that nobody keeps, of kind
// oneshot, whose metadata holds the request, and welcomes the super admins of its group
// to it. The welcome shows who asks. A super admin takes the installation out and in
// again by one commit, which all members accept of a super admin alone (G23). Where
// the group has no super admin that can be reached, any member that may remove and add
// brings the installation back.

// An Ask is what a stranded installation says to the super admins of its group, by its
// own state. It holds no part of the replica that changes.
type Ask struct {
	Inboxes []string // to be fetched, with key packages: the super admins, and the own one
	env     Env
	request *contents.ReaddRequest
}

// Ask returns the request to be added again; false where this installation is not
// stranded, or nobody else is a super admin.
func (r *Replica) Ask() (Ask, bool) {
	if r.standing != Stranded {
		return Ask{}, false
	}
	admins := r.askable()
	if len(admins) == 0 {
		return Ask{}, false
	}
	at := (&step{Replica: *r}).lastCommitAt()
	return Ask{append(admins, r.env.Inbox), r.env, &contents.ReaddRequest{GroupId: r.ID(), LatestCommitSequenceId: at}}, true
}

// wayBack says what brings a stranded installation back.
func (r *Replica) wayBack() string {
	if len(r.askable()) > 0 {
		return "the super admins are asked to remove it and to add it again; an admin can do that by hand as well"
	}
	return "ask a member to remove it and to add it again"
}

// askable are the super admins but for the own inbox.
func (r *Replica) askable() (inboxes []string) {
	for _, inbox := range r.meta.SuperAdmins {
		if _, member := r.meta.Members[inbox]; member && inbox != r.env.Inbox {
			inboxes = append(inboxes, inbox)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(inboxes)))
}

// Welcomes makes the welcomes that carry the request, of what was fetched. The group
// that they lead to is nowhere else: its commit is not published, and nothing is stored.
func (a Ask) Welcomes(got Fetched) ([]Outbound, error) {
	oneshot := &contents.OneshotMessage{MessageType: &contents.OneshotMessage_ReaddRequest{ReaddRequest: a.request}}
	r, _, err := Create(a.env, CreateConfig{Kind: KindOneshot, oneshot: oneshot, Now: got.Now})
	if err != nil {
		return nil, err
	}
	var reached []string
	for _, in := range got.Inboxes {
		if in.Inbox != a.env.Inbox && len(in.KeyPackages) > 0 {
			reached = append(reached, in.Inbox)
		}
	}
	fx, err := r.Step(AddMembers{Inboxes: reached})
	if err != nil {
		return nil, err
	}
	got.Intent = fx.Intent
	if fx, err = r.Step(got); err != nil {
		return nil, err
	}
	if len(fx.Send) == 0 {
		return nil, fmt.Errorf("%w: no super admin", ErrNotReachable)
	}
	data, err := DecodeGroupMessage(fx.Send[0].Payload)
	if err != nil {
		return nil, err
	}
	fx, err = r.Step(Delivered{ID: 1, Time: got.Now, Commit: true, Data: data})
	return fx.Send, err
}

// A ReaddError says that a welcome leads to no group, but asks for an installation to be
// added again to one. Who asks is shown by the welcome. It is ErrRejected: there is
// nothing to join.
type ReaddError struct {
	Group []byte // that the installation cannot follow
	Readd Readd  // what its replica is to be stepped with
}

func (e *ReaddError) Error() string {
	return fmt.Sprintf("group: an installation of inbox %s asks to be added again", e.Readd.Inbox)
}
func (e *ReaddError) Is(target error) bool { return target == ErrRejected }

// readdOf returns the request that a oneshot group carries, by whoever signed its
// welcome.
func readdOf(m *Metadata, inbox string, leaf *mls.LeafNode) error {
	if m.readd == nil {
		return errOneshot
	}
	return &ReaddError{m.readd.GroupId, Readd{Inbox: inbox, Installation: bytes.Clone(leaf.SignatureKey)}}
}

// readd queues a request to be added again, where this member is a super admin and the
// installation is one of the inbox's in the group. Anything else is read past: who
// asks has no claim to an answer. The leaf that it has now is remembered, so that of
// several super admins one brings it back.
func (s *step) readd(in Readd) error {
	at, member := s.group.Find(in.Installation)
	if s.open() != nil || !member || s.meta.RoleOf(s.env.Inbox) != SuperAdmin || s.isImpostor(in.Installation) {
		return nil
	}
	leaf, _ := s.group.Member(at)
	if inbox, err := inboxOf(leaf.Credential); err != nil || inbox != in.Inbox || at == s.group.OwnLeaf() {
		return nil
	}
	in.leafKey = leaf.EncryptionKey
	same := func(it *intent) bool {
		w, is := it.command.(Readd)
		return is && bytes.Equal(w.Installation, in.Installation)
	}
	if !slices.ContainsFunc(s.intents, same) {
		s.queue(in)
	}
	return nil
}

// draftReadd takes an installation out and in again. It is moot where it has another
// leaf by now, or none.
func (s *step) draftReadd(w Readd, got *Fetched) (commitDraft, error) {
	at, member := s.group.Find(w.Installation)
	if !member || s.meta.RoleOf(s.env.Inbox) != SuperAdmin {
		return commitDraft{moot: true}, nil
	}
	if leaf, _ := s.group.Member(at); !bytes.Equal(leaf.EncryptionKey, w.leafKey) {
		return commitDraft{moot: true}, nil
	}
	k := packageFor(s.env.Realm, got, w)
	if k == nil {
		return commitDraft{}, fmt.Errorf("%w: %s", ErrNotReachable, w.Inbox)
	}
	failed := slices.DeleteFunc(slices.Clone(s.meta.Failed), func(key []byte) bool { return bytes.Equal(key, w.Installation) })
	exts := replaceExtension(s.group.Extensions(), extMembership, encodeMembership(s.meta.Members, failed))
	return commitDraft{
		proposals: []mls.Proposal{mls.Add{KeyPackage: k.MLS}, mls.GroupContextExtensions{Extensions: exts}, mls.Remove{Removed: at}},
		joiners:   []joiner{joinerOf(k)},
		at:        got.Now,
	}, nil
}

// packageFor returns the key package that was fetched for an installation; nil where
// there is none that is good.
func packageFor(realm *mls.Realm, got *Fetched, w Readd) *KeyPackage {
	for _, in := range got.Inboxes {
		for _, b := range in.KeyPackages {
			k, err := ParseKeyPackage(realm, b)
			if err == nil && k.Inbox == w.Inbox && bytes.Equal(k.Installation(), w.Installation) && k.ValidAt(got.Now) {
				return k
			}
		}
	}
	return nil
}
