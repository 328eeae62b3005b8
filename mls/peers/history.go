package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// A history is the random life of one group whose members are played by three
// engines. Its choices follow the seed; the keys of OpenMLS and mls-rs do not, so
// that a seed repeats what is done and not every byte.
type history struct {
	stage   *stage
	suite   int
	dice    *rand.Rand
	bytes   *rand.ChaCha8 // of this project's engine
	members []*player
	named   int
	state   state           // that all agreed on last
	pending []string        // kinds of the proposals of this epoch
	invited []*player       // whom a proposal of this epoch adds
	unloved *player         // whom a proposal of this epoch removes
	updates map[*player]int // how many each proposed in this epoch
	late    []*message      // to be delivered in a later epoch
	tally   tally
}

type player struct {
	member
	name, engine string
}

// A message that some members have yet to see.
type message struct {
	from  *player
	leaf  int
	sent  []byte
	data  []byte
	to    []*player
	after int // epochs
}

const (
	fewest = 3
	most   = 12
	// A member opens messages of this many past epochs, in every engine.
	latest = 3
)

var pskID, pskKey = []byte("shared"), bytes.Repeat([]byte{7}, 32)

// A mismatch is what the engines do not agree on.
type mismatch string

func (m mismatch) Error() string { return string(m) }

func newHistory(s *stage, suite int, seed uint64) (*history, error) {
	h := &history{stage: s, suite: suite, tally: newTally(), updates: map[*player]int{}}
	h.dice = rand.New(rand.NewPCG(seed, uint64(suite)))
	h.bytes = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(suite)})
	founder, err := h.newcomer(engines[h.dice.IntN(len(engines))])
	if err != nil {
		return nil, err
	}
	h.members = []*player{founder}
	h.state, err = founder.create([]byte(fmt.Sprintf("group %d of suite %d", seed, suite)))
	return h, err
}

// newcomer is a player with the shared key, in no group yet.
func (h *history) newcomer(engine string) (*player, error) {
	h.named++
	p := &player{name: fmt.Sprintf("s%d-%d", h.suite, h.named), engine: engine}
	private := h.dice.IntN(3) > 0
	var err error
	if engine == ours {
		p.member, err = newOwn(h.bytes, p.name, h.suite, private)
	} else {
		p.member, err = h.stage.newPeer(p.name, engine, h.suite, private)
	}
	if err != nil {
		return nil, fmt.Errorf("%s begins: %w", engine, err)
	}
	return p, p.psk(pskID, pskKey)
}

// rarest is the engine that plays the fewest members.
func (h *history) rarest() string {
	count := map[string]int{}
	for _, p := range append(slices.Clone(h.members), h.invited...) {
		count[p.engine]++
	}
	return slices.MinFunc(engines, func(a, b string) int { return count[a] - count[b] })
}

func (h *history) anyone() *player { return h.members[h.dice.IntN(len(h.members))] }

func (h *history) leaf(p *player) int { return h.state.leaves()[p.name] }

// step is one random event.
func (h *history) step() error {
	h.tally.steps++
	switch n := h.dice.IntN(20); {
	case len(h.members) < fewest:
		return h.commit()
	case n < 6:
		return h.talk()
	case n < 10:
		return h.propose()
	case n < 18:
		return h.commit()
	default:
		return h.joinExternally()
	}
}

// speaker is somebody who can send: OpenMLS and mls-rs do not while proposals wait.
// Nobody: nil.
func (h *history) speaker() *player {
	can := h.members
	if len(h.pending) > 0 {
		can = slices.DeleteFunc(slices.Clone(can), func(p *player) bool { return p.engine != ours })
	}
	if len(can) == 0 {
		return nil
	}
	return can[h.dice.IntN(len(can))]
}

func (h *history) talk() error {
	from := h.speaker()
	if from == nil {
		return nil
	}
	m := &message{from: from, leaf: h.leaf(from), data: fmt.Appendf(nil, "hello %d", h.dice.IntN(1000))}
	var err error
	if m.sent, err = from.seal(m.data); err != nil {
		return h.fails(from, "seals", err)
	}
	h.tally.messages[from.engine]++
	m.to = slices.DeleteFunc(slices.Clone(h.members), func(p *player) bool { return p == from })
	if h.dice.IntN(3) == 0 {
		m.after = 1 + h.dice.IntN(latest)
		h.late = append(h.late, m)
		return nil
	}
	return h.deliver(m)
}

// deliver brings an application message to those who have not seen it.
func (h *history) deliver(m *message) error {
	for _, p := range m.to {
		if !slices.Contains(h.members, p) {
			continue // removed since, or begun anew
		}
		// mls-rs reads nothing of a sender that has left its leaf since.
		if leaf, stays := h.state.leaves()[m.from.name]; p.engine == mlsRS && (!stays || leaf != m.leaf) {
			continue
		}
		o, err := p.open(m.sent)
		if err != nil {
			return h.fails(p, "opens a message of "+m.from.engine, err)
		}
		h.tally.opened++
		if o.kind != "application" || !bytes.Equal(o.data, m.data) || o.sender != strconv.Itoa(m.leaf) {
			return mismatch(fmt.Sprintf("%s opened %s of %s, which %s did not send", p.engine, o.kind, o.sender, m.from.engine))
		}
	}
	return nil
}

func (h *history) propose() error {
	from := h.anyone()
	c, err := h.proposal(from)
	if err != nil {
		return err
	}
	sent, err := from.propose(c)
	if err != nil {
		return h.fails(from, "proposes "+c.kind(), err)
	}
	h.pending = append(h.pending, c.kind())
	if c.kind() == "update" {
		h.updates[from]++
	}
	h.tally.proposals[from.engine]++
	for _, p := range h.members {
		if p == from {
			continue
		}
		if o, err := p.open(sent); err != nil || o.kind != "proposal" {
			return h.fails(p, "opens "+c.kind()+" proposed by "+from.engine, err)
		}
		h.tally.opened++
	}
	return nil
}

// proposal chooses what somebody proposes. What cannot stand in one commit twice is
// proposed once.
func (h *history) proposal(from *player) (change, error) {
	switch n := h.dice.IntN(10); {
	case n < 3:
		if p := h.anyone(); p != from && len(h.members) > fewest && h.unloved == nil {
			h.unloved = p
			return removal(h.leaf(p)), nil
		}
	case n < 5:
		if len(h.members)+len(h.invited) < most {
			p, c, err := h.invitation()
			h.invited = append(h.invited, p)
			return c, err
		}
	case n == 5 && !slices.Contains(h.pending, "psk"):
		return changeOf("psk", pskID), nil
	case n == 6 && !slices.Contains(h.pending, "context"):
		return h.context(), nil
	}
	return "update:", nil
}

// invitation is somebody new, and the Add of its key package.
func (h *history) invitation() (*player, change, error) {
	p, err := h.newcomer(h.rarest())
	if err != nil {
		return nil, "", err
	}
	k, err := p.keyPackage()
	if err != nil {
		return nil, "", h.fails(p, "makes a key package", err)
	}
	return p, changeOf("add", k), nil
}

func (h *history) context() change { return changeOf("context", []byte{byte(h.dice.IntN(256))}) }

// committer is somebody who can commit what is proposed; nobody: nil. OpenMLS commits
// nothing while its own removal is proposed. mls-rs commits an Update and a Remove of
// one leaf together, and two Updates of one, which RFC 9420, Section 12.2, forbids and
// all refuse, mls-rs too.
func (h *history) committer() *player {
	twice := h.updates[h.unloved] > 0
	for _, n := range h.updates {
		twice = twice || n > 1
	}
	can := slices.DeleteFunc(slices.Clone(h.members), func(p *player) bool {
		return p.engine == openMLS && p == h.unloved || p.engine == mlsRS && twice
	})
	if len(can) == 0 {
		return nil
	}
	return can[h.dice.IntN(len(can))]
}

// removable says whether somebody's commit may remove another by value.
func (h *history) removable(from, p *player) bool {
	return p != from && len(h.members) > fewest && h.unloved == nil && !(from.engine == mlsRS && h.updates[p] > 0)
}

// commit commits what is proposed, with further changes by value.
func (h *history) commit() error {
	from := h.committer()
	if from == nil {
		return h.talk()
	}
	var changes []change
	joiners := h.invited
	for len(h.members)+len(joiners) < most && (len(h.members)+len(joiners) < fewest || h.dice.IntN(5) < 2) {
		p, c, err := h.invitation()
		if err != nil {
			return err
		}
		joiners, changes = append(joiners, p), append(changes, c)
	}
	if p := h.anyone(); h.removable(from, p) && h.dice.IntN(4) == 0 {
		changes = append(changes, removal(h.leaf(p)))
	}
	if h.dice.IntN(6) == 0 && !slices.Contains(h.pending, "psk") {
		changes = append(changes, changeOf("psk", pskID))
	}
	if h.dice.IntN(6) == 0 && !slices.Contains(h.pending, "context") {
		changes = append(changes, h.context())
	}
	if h.dice.IntN(2) == 0 {
		changes = append(changes, "path:")
	}
	commit, welcome, err := from.commit(changes...)
	if err != nil {
		return h.fails(from, "commits "+kinds(changes)+" and proposed "+strings.Join(h.pending, ", "), err)
	}
	if err := h.enter(from, commit, from.merge); err != nil {
		return err
	}
	for _, p := range joiners {
		s, err := p.join(welcome)
		if err != nil {
			return h.fails(p, "joins by a welcome of "+from.engine, err)
		}
		h.tally.joins[p.engine]++
		if err := h.agree(p, s); err != nil {
			return err
		}
		h.members = append(h.members, p)
	}
	return h.settled()
}

// joinExternally lets somebody in by an external commit: new, or a member that
// starts anew.
func (h *history) joinExternally() error {
	info, err := h.anyone().info()
	if err != nil {
		return err
	}
	var p *player
	if again := h.dice.IntN(2) == 0; again || len(h.members) == most {
		p = h.anyone()
		h.members = slices.DeleteFunc(h.members, func(q *player) bool { return q == p })
		h.tally.resyncs[p.engine]++
		// Nobody is in one epoch twice: what the old self has not seen stays so.
		for _, m := range h.late {
			m.to = slices.DeleteFunc(m.to, func(q *player) bool { return q == p })
		}
	} else if p, err = h.newcomer(h.rarest()); err != nil {
		return err
	}
	commit, s, err := p.external(info)
	if err != nil {
		return h.fails(p, "joins by an external commit", err)
	}
	h.tally.externals[p.engine]++
	if err := h.enter(p, commit, func() (state, error) { return s, nil }); err != nil {
		return err
	}
	h.members = append(h.members, p)
	return h.settled()
}

// enter brings a commit to everyone. The committer enters its epoch first.
func (h *history) enter(from *player, commit []byte, merge func() (state, error)) error {
	s, err := merge()
	if err != nil {
		return h.fails(from, "enters the epoch of its own commit", err)
	}
	h.state = s
	h.tally.commits[from.engine]++
	leaves := s.leaves()
	for _, p := range slices.Clone(h.members) {
		if p == from {
			continue
		}
		o, err := p.open(commit)
		if err != nil {
			return h.fails(p, "opens a commit of "+from.engine, err)
		}
		if _, stays := leaves[p.name]; !stays {
			if o.kind != "removed" {
				return mismatch(fmt.Sprintf("%s does not see that it was removed: %s", p.engine, o.kind))
			}
			h.tally.removed++
			h.members = slices.DeleteFunc(h.members, func(q *player) bool { return q == p })
			if err := p.forget(); err != nil {
				return err
			}
			continue
		}
		if err := h.agree(p, o.state); err != nil {
			return err
		}
	}
	return nil
}

// settled ends an epoch: proposals are gone, and late messages arrive.
func (h *history) settled() error {
	if want, got := len(h.members), len(h.state.leaves()); want != got {
		return mismatch(fmt.Sprintf("%d members in the tree of %d", got, want))
	}
	h.pending, h.invited, h.unloved, h.updates = nil, nil, nil, map[*player]int{}
	var due []*message
	h.late = slices.DeleteFunc(h.late, func(m *message) bool {
		m.after--
		if m.after == 0 {
			due = append(due, m)
		}
		return m.after == 0
	})
	for _, m := range due {
		if err := h.deliver(m); err != nil {
			return fmt.Errorf("late: %w", err)
		}
	}
	return nil
}

// agree compares a member's state with the committer's.
func (h *history) agree(p *player, s state) error {
	h.tally.compared++
	if names := s.differences(h.state); names != nil {
		return mismatch(fmt.Sprintf("%s has another %s", p.engine, strings.Join(names, ", ")))
	}
	return nil
}

// fails says who could not do what. An engine that refuses what another made, or
// what it should be able to make, is a mismatch.
func (h *history) fails(p *player, what string, err error) error {
	if e := engineError(""); p.engine == ours || errors.As(err, &e) {
		return mismatch(fmt.Sprintf("%s %s: %v", p.engine, what, err))
	}
	return err
}

func kinds(changes []change) string {
	set := map[string]bool{}
	for _, c := range changes {
		set[c.kind()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}

// run plays so many steps. A mismatch ends the history: from then on there is no one
// group.
func (h *history) run(steps int) error {
	for range steps {
		if err := h.step(); err != nil {
			return fmt.Errorf("step %d: %w", h.tally.steps, err)
		}
	}
	for _, p := range h.members {
		if err := p.forget(); err != nil {
			return err
		}
	}
	return nil
}
