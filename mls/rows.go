package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// RowKind says what a Row holds, and to whom it belongs.
type RowKind uint8

const (
	// RowTree and RowEpoch are shared: members of one group whose rows have the
	// same key have the same row. A deletion gives up this member's claim; the
	// row goes with the last one.
	RowTree  RowKind = iota + 1 // a ratchet tree, whole or as a difference
	RowEpoch                    // what all members of an epoch hold alike
	// RowMember and RowOwn are one member's.
	RowMember // an epoch's ratchets, and for the current one the private keys
	RowOwn    // the next own generations, in 17 bytes
)

// A Row is a piece of a group's stored form. Its value holds secrets.
type Row struct {
	Kind  RowKind
	Key   []byte
	Value []byte // nil: delete the row
	// Secret is the key under which to seal a shared row: 32 bytes that every
	// member of its epoch derives, and nobody else. It is nil in other rows.
	Secret []byte
}

// Format prints which row it is, not what it holds.
func (r Row) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Row(kind %d key %x %d bytes)", r.Kind, r.Key, len(r.Value))
}

const (
	rowFormat = 1
	// wholeTreeEvery is after how many epochs a tree is stored whole again.
	wholeTreeEvery = 16
	labelRow       = "conclave shared row"
)

// A lineage leads to a stored tree: a row with the whole of it, and rows with what
// each epoch changed since. An epoch's lineage also has the secret of its RowEpoch.
type lineage struct {
	key    []byte
	secret secret
	before *lineage // nil: the row has the whole tree
}

// newLineage derives the place of an epoch's tree row.
func (e *epoch) newLineage() *lineage {
	s := e.secrets.suite
	return &lineage{
		key:    e.rowKey(),
		secret: s.expandWithLabel(s.deriveSecret(e.secrets.exporter, labelRow), "exported", nil, 32),
	}
}

// rowKey names an epoch's shared rows: its number, and enough of its state's id
// to keep the epochs of a forked group apart.
func (e *epoch) rowKey() []byte {
	return append(memberKey(e.context.Epoch), e.id[:8]...)
}

func memberKey(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

// after is the lineage of the epoch that follows the one of before.
func (t *lineage) after(before *lineage, number uint64) *lineage {
	if number%wholeTreeEvery == 0 {
		return t
	}
	return &lineage{key: t.key, secret: t.secret, before: before}
}

// treeKey tells a whole tree from a difference at the same epoch.
func (t *lineage) treeKey() []byte {
	if t.before == nil {
		return append(bytes.Clone(t.key), 'w')
	}
	return append(bytes.Clone(t.key), 'd')
}

// Rows returns what must be stored to get from prev to g: prev is the group as
// stored, in the same epoch or at most three before, or nil for a group that has
// just been created or joined. If g has only sent since prev, that is one RowOwn.
// If the RowMember of what g has received is left out now and then, the group
// comes back able to open the same messages once more.
func (g *Group) Rows(prev *Group) []Row {
	return g.rows(prev, func(i int) bool { return g.sameMember(i, prev) })
}

// Checkpoint is Rows, and the RowMember also of an epoch in which g has only sent
// since prev: what is stored opens nothing any more that was sent or received.
func (g *Group) Checkpoint(prev *Group) []Row {
	return g.rows(prev, func(i int) bool {
		e := g.epochs()[i]
		return g.sameMember(i, prev) && e.ratchets.root == prev.live(e.context.Epoch).ratchets.root
	})
}

// rows is Rows, where same says whether prev's RowMember serves for epoch i.
func (g *Group) rows(prev *Group, same func(i int) bool) []Row {
	var rows []Row
	add := func(r Row) { rows = append(rows, r) }
	known := prev.sharedRows()
	needed := g.sharedRows()
	for i, e := range g.epochs() {
		if _, stored := known[string(e.lineage.treeKey())]; !stored {
			add(Row{Kind: RowTree, Key: e.lineage.treeKey(), Value: g.treeRow(i, prev), Secret: e.lineage.secret})
		}
		if _, stored := known[string(e.lineage.key)]; !stored {
			add(Row{Kind: RowEpoch, Key: e.lineage.key, Value: e.epochRow(), Secret: e.lineage.secret})
		}
		if !same(i) {
			add(Row{Kind: RowMember, Key: memberKey(e.context.Epoch), Value: g.memberRow(i)})
		}
	}
	if own := g.ownRow(); prev == nil || !bytes.Equal(own, prev.ownRow()) {
		add(Row{Kind: RowOwn, Key: []byte{0}, Value: own})
	}
	for key, kind := range known {
		if _, keep := needed[key]; !keep {
			add(Row{Kind: kind, Key: []byte(key)})
		}
	}
	for _, e := range prev.epochs() {
		if g.live(e.context.Epoch) == nil {
			add(Row{Kind: RowMember, Key: memberKey(e.context.Epoch)})
		}
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return bytes.Compare(a.Key, b.Key)
	})
	return rows
}

// epochs lists the live epochs, the latest first; none for a nil group.
func (g *Group) epochs() []*epoch {
	if g == nil {
		return nil
	}
	list := []*epoch{&g.epoch}
	for i := range g.past {
		list = append(list, &g.past[i])
	}
	return list
}

// sharedRows are the keys of the shared rows that a group is read from.
func (g *Group) sharedRows() map[string]RowKind {
	keys := make(map[string]RowKind)
	for _, e := range g.epochs() {
		keys[string(e.lineage.key)] = RowEpoch
		for t := e.lineage; t != nil; t = t.before {
			keys[string(t.treeKey())] = RowTree
		}
	}
	return keys
}

// sameMember reports whether prev's RowMember serves for g's epoch i, the
// current one being 0: nothing was received, and it is as current as before.
func (g *Group) sameMember(i int, prev *Group) bool {
	e := g.epochs()[i]
	if prev == nil {
		return false
	}
	old := prev.live(e.context.Epoch)
	if old == nil || old.id != e.id || !e.ratchets.sameBut(old.ratchets, g.own) {
		return false
	}
	if i > 0 {
		return prev.Epoch() != e.context.Epoch
	}
	return prev.keys == g.keys && prev.active == g.active && slices.Equal(prev.queue, g.queue)
}

// sameBut reports whether two secret trees differ in one leaf at most. Trees of
// one history share what is equal.
func (t secretTree) sameBut(u secretTree, own LeafIndex) bool {
	a, b := t.root, u.root
	for level := int(t.depth); a != b && level > 0; level-- {
		// Where one has descended and the other not, the children of the other
		// are derived from the same secret: only the own leaf was asked for.
		if a.secret != nil || b.secret != nil {
			return a.onlyToward(own, level) && b.onlyToward(own, level)
		}
		if own>>(level-1)&1 == 1 {
			if a.left != b.left {
				return false
			}
			a, b = a.right, b.right
		} else {
			if a.right != b.right {
				return false
			}
			a, b = a.left, b.left
		}
	}
	return true
}

// onlyToward reports whether below n at most the given leaf has been derived.
func (n *secretNode) onlyToward(leaf LeafIndex, level int) bool {
	for ; n.secret == nil && level > 0; level-- {
		toward, other := n.left, n.right
		if leaf>>(level-1)&1 == 1 {
			toward, other = other, toward
		}
		if other.secret == nil {
			return false
		}
		n = toward
	}
	return true
}

// treeRow is the value of the tree row of g's epoch i.
func (g *Group) treeRow(i int, prev *Group) []byte {
	e := g.epochs()[i]
	if e.lineage.before == nil {
		return e.tree.append(nil)
	}
	before := g.live(e.context.Epoch - 1)
	if before == nil {
		before = prev.live(e.context.Epoch - 1)
	}
	return e.tree.difference(before.tree)
}

// epochRow is what the members of an epoch hold alike.
func (e *epoch) epochRow() []byte {
	b := []byte{rowFormat}
	b = appendVector(b, e.encoded)
	b = appendVector(b, e.interim)
	for _, s := range e.secrets.all() {
		b = appendVector(b, *s)
	}
	return b
}

// all lists the secrets for storage. Those that a past epoch has dropped are
// empty.
func (e *epochSecrets) all() []*secret {
	return []*secret{&e.senderData, &e.exporter, &e.external, &e.confirmation, &e.membership, &e.resumption, &e.authenticator, &e.init}
}

// memberRow is one member's part of an epoch.
func (g *Group) memberRow(i int) []byte {
	e := g.epochs()[i]
	b := append([]byte{rowFormat}, e.id[:]...)
	b = appendU32(b, uint32(g.own))
	b = appendList(b, func(b []byte) []byte {
		for t := e.lineage; t != nil; t = t.before {
			b = appendVector(appendVector(b, t.key), t.secret)
		}
		return b
	})
	b = appendVector(b, e.ratchets.append(nil))
	current := i == 0 && g.active
	b = appendOptional(b, current)
	if !current {
		return b
	}
	b = g.keys.append(b)
	return appendList(b, func(b []byte) []byte {
		for _, q := range g.queue {
			b = appendVector(appendVector(b, q.content.append(nil)), q.leafKey)
		}
		return b
	})
}

func (g *Group) ownRow() []byte {
	b := append([]byte{rowFormat}, memberKey(g.Epoch())...)
	for _, t := range []ContentType{ContentProposal, ContentApplication} {
		b = appendU32(b, g.ratchets.nextGeneration(g.own, ratchetFor(t)))
	}
	return b
}

// Restore reads a group from its rows: get returns a row's value, opened with
// the given secret if the row is shared, and list a kind's keys. What the rows
// say is trusted as far as their seals go; they are checked for being whole.
func Restore(r *Realm, signer *Signer, get func(kind RowKind, key, secret []byte) ([]byte, error), list func(kind RowKind) ([][]byte, error)) (*Group, error) {
	keys, err := list(RowMember)
	if err != nil {
		return nil, fmt.Errorf("list epochs: %w", err)
	}
	if len(keys) == 0 {
		return nil, errStoredGroup
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, bytes.Compare)
	x := restoring{realm: r, get: get, trees: make(map[string]*tree), lineages: make(map[string]*lineage)}
	g := &Group{realm: r, signer: signer}
	for i, key := range keys {
		value, err := get(RowMember, key, nil)
		if err != nil {
			return nil, fmt.Errorf("read epoch: %w", err)
		}
		e, err := x.epoch(g, value, i == len(keys)-1)
		if err != nil {
			return nil, fmt.Errorf("restore epoch: %w", err)
		}
		if i == len(keys)-1 {
			g.epoch = *e
		} else {
			g.past = append([]epoch{*e}, g.past...)
		}
	}
	return g.restoreOwn(get)
}

// restoreOwn takes up the own generations, which are stored with every message.
func (g *Group) restoreOwn(get func(kind RowKind, key, secret []byte) ([]byte, error)) (*Group, error) {
	value, err := get(RowOwn, []byte{0}, nil)
	if err != nil {
		return nil, fmt.Errorf("read own generations: %w", err)
	}
	r := newReader(value)
	format, number, handshake, application := r.u8(), r.u64(), r.u32(), r.u32()
	if err := r.end(); err != nil || format != rowFormat || number > g.Epoch() {
		return nil, errStoredGroup
	}
	if number != g.Epoch() {
		return g, nil
	}
	for kind, next := range []uint32{handshakeRatchet: handshake, applicationRatchet: application} {
		if g.ratchets, err = g.ratchets.skipTo(g.own, ratchetKind(kind), next); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// restoring reads the epochs of a group, the oldest first.
type restoring struct {
	realm    *Realm
	get      func(kind RowKind, key, secret []byte) ([]byte, error)
	trees    map[string]*tree    // by tree key
	lineages map[string]*lineage // by tree key: epochs share them
}

func (x *restoring) epoch(g *Group, value []byte, current bool) (*epoch, error) {
	r := newReader(bytes.Clone(value))
	format, id := r.u8(), stateID{}
	copy(id[:], r.take(len(id)))
	g.own = LeafIndex(r.u32())
	t := x.lineage(r)
	ratchets := newReader(r.vector())
	e := &epoch{lineage: t}
	e.ratchets.decode(ratchets)
	if r.err == nil {
		r.err = ratchets.end()
	}
	g.active = r.optional()
	if g.active {
		g.keys = decodePathKeys(r)
	}
	var queued []storedProposal
	if g.active {
		r.list(func(r *reader) { queued = append(queued, storedProposal{content: r.vector(), leafKey: r.vector()}) })
	}
	if err := r.end(); err != nil || format != rowFormat || t == nil {
		return nil, errStoredGroup
	}
	if err := x.shared(e, id); err != nil {
		return nil, err
	}
	if g.active && !g.keys.fit(e.tree, g.own) {
		return nil, errStoredGroup
	}
	if !current {
		e.secrets = e.secrets.past()
		return e, nil
	}
	for _, p := range queued {
		q, err := p.queued(x.realm, e)
		if err != nil {
			return nil, err
		}
		g.queue = append(g.queue, q)
	}
	return e, nil
}

// A storedProposal is a QueuedProposal in a RowMember.
type storedProposal struct{ content, leafKey []byte }

func (p storedProposal) queued(realm *Realm, e *epoch) (*QueuedProposal, error) {
	u := new(unverifiedContent)
	r := newReader(p.content)
	u.decode(r)
	if err := r.end(); err != nil || u.contentType != ContentProposal {
		return nil, errStoredGroup
	}
	a, err := e.verify(realm, u)
	if err != nil {
		return nil, err
	}
	q := newQueuedProposal(a, e.context.CipherSuite)
	q.leafKey = p.leafKey
	return q, nil
}

// lineage reads a lineage; the part that an older epoch has read is taken from it.
func (x *restoring) lineage(r *reader) *lineage {
	var steps []*lineage
	r.list(func(r *reader) { steps = append(steps, &lineage{key: r.vector(), secret: r.vector()}) })
	var t *lineage
	for _, step := range slices.Backward(steps) {
		step.before = t
		t = step
		if known := x.lineages[string(t.treeKey())]; known != nil {
			t = known
		}
		x.lineages[string(t.treeKey())] = t
	}
	return t
}

// shared reads an epoch's RowEpoch, and its tree unless some member of the realm
// has it.
func (x *restoring) shared(e *epoch, id stateID) error {
	value, err := x.get(RowEpoch, e.lineage.key, e.lineage.secret)
	if err != nil {
		return fmt.Errorf("read epoch secrets: %w", err)
	}
	// What is kept is copied out: a context is as long as its group is large, and
	// the state that the realm's members share has one of its own.
	r := newReader(value)
	format, encoded, interim := r.u8(), newReader(r.vector()), bytes.Clone(r.vector())
	context := decodeGroupContext(encoded)
	e.secrets = &epochSecrets{suite: context.CipherSuite}
	for _, s := range e.secrets.all() {
		*s = bytes.Clone(r.vector())
	}
	if err := r.end(); err != nil || encoded.end() != nil || format != rowFormat {
		return errStoredGroup
	}
	if err := context.CipherSuite.supported(); err != nil {
		return err
	}
	state := newPublicState(context, nil, interim)
	if state.id != id {
		return errStoredGroup
	}
	known, ok := x.realm.shared(id)
	if !ok {
		if state.tree, err = x.tree(e.lineage, context.CipherSuite); err != nil {
			return err
		}
		if !bytes.Equal(state.tree.root.hash[:], context.TreeHash) {
			return errTreeHash
		}
		state.detach()
		known = x.realm.share(state)
	}
	e.publicState = known
	return nil
}

// tree follows a lineage to its tree.
func (x *restoring) tree(t *lineage, suite CipherSuite) (*tree, error) {
	key := string(t.treeKey())
	if known := x.trees[key]; known != nil {
		return known, nil
	}
	value, err := x.get(RowTree, t.treeKey(), t.secret)
	if err != nil {
		return nil, fmt.Errorf("read tree: %w", err)
	}
	value = bytes.Clone(value)
	var found *tree
	if t.before == nil {
		found, err = parseTree(suite, value)
	} else {
		var before *tree
		if before, err = x.tree(t.before, suite); err == nil {
			found, err = before.patched(value)
		}
	}
	if err != nil {
		return nil, err
	}
	x.trees[key] = found
	return found, nil
}
