package group

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// What a replica keeps in the store, and how it comes back. Nothing is written
// that did not change: a message costs one small row of its member's and one
// body that its co-hosted members share.

// Formats of the rows, by table.
const (
	metaFormat     = 9 // 1 had no times of commits, no kind and no trail; 2 had no putBack; 3 had flags in place of a standing; 4 had no path and no chain; 5 had no root, no revoked and no lives; 6 had no impostors; 7 had no survey and no hole; 8 had no former
	intentFormat   = 1
	sealedFormat   = 1
	indexFormat    = 3 // 1: the body, where it is shared, is in TableBody; 2 had no era and no mark of the envelope
	bodyFormat     = 1
	rejectedFormat = 1
	storageFormat  = 1
	commitFormat   = 1
	strayFormat    = 1
	usedFormat     = 1
)

// checkpointEvery is after how many messages, opened or sealed, the ratchets are
// saved. A reload opens at most as many again, and so long their keys are in the
// store, and in memory beside the newest state.
const checkpointEvery = 64

// hashOf identifies a message's bytes.
func hashOf(data []byte) [32]byte { return sha256.Sum256(data) }

// saveMLS takes over the rows that mls wants written.
func (s *step) saveMLS(rows []mls.Row) {
	for _, row := range rows {
		t := tableOf(row.Kind)
		s.fx.Save = append(s.fx.Save, Row{Table: t, Key: row.Key, Value: row.Value, Secret: row.Secret})
	}
}

func tableOf(kind mls.RowKind) Table {
	switch kind {
	case mls.RowTree:
		return TableTree
	case mls.RowEpoch:
		return TableEpoch
	case mls.RowMember:
		return TableMember
	}
	return TableOwn
}

// phase is where an installation's count to the next checkpoint begins: the
// members of a group on one host would otherwise all save their ratchets at the
// same message.
func (r *Replica) phase() uint64 { return uint64(r.env.installation()[0]) % checkpointEvery }

// checkpoint saves the ratchets as they are now, where a key was used.
func (s *step) checkpoint() {
	if s.opened > 0 {
		s.saveRatchets()
	}
}

func (s *step) saveRatchets() {
	s.saveMLS(s.group.Checkpoint(s.saved))
	s.saved, s.opened, s.dirt = s.group, 0, true
	s.savedRatchets()
}

// An epochKey is the secret under which the bodies of an epoch's messages lie in
// the store: all who could open them can derive it, nobody else.
type epochKey struct {
	epoch  uint64
	secret []byte
}

const storageLabel = "conclave storage"

// addStorageKey derives the current epoch's storage secret. It is kept as long
// as the history that it protects.
func (s *step) addStorageKey() {
	secret, err := s.group.Export(storageLabel, nil, 32)
	if err != nil {
		return // a removed member; bodies are written inline
	}
	epoch := storageEpoch(s.era, s.group.Epoch())
	s.keys = append(slices.Clone(s.keys), epochKey{epoch, secret})
	if len(s.keys) > pastEpochs+1 {
		s.keys = s.keys[len(s.keys)-pastEpochs-1:]
	}
	w := newRow(storageFormat, len(secret))
	w.raw(secret)
	s.put(TableStorage, keyOf(epoch), w.b)
}

// storageEpoch numbers epochs for storage. Where the log lost an epoch and a
// welcome led back to before it, the same number comes again.
func storageEpoch(era, epoch uint64) uint64 { return era<<40 | epoch }

// storageSecret returns the secret for bodies of an epoch; nil where it is not
// known, and then a body is the member's own.
func (s *step) storageSecret(epoch uint64) []byte {
	for _, k := range s.keys {
		if k.epoch == epoch {
			return k.secret
		}
	}
	return nil
}

// encodeMeta writes the meta row.
func (s *step) encodeMeta() []byte {
	w := newRow(metaFormat, 160)
	w.bytes(s.id)
	w.time(s.created)
	w.string(s.addedBy)
	w.uint(s.welcome)
	for _, n := range []uint64{s.cursor, s.lastCommit, s.opened, s.next, s.marks, s.rewinds, s.rejected, s.joined} {
		w.uint(n)
	}
	w.uint(uint64(s.standing))
	w.string(s.why)
	w.bool(s.owesKeyUpdate)
	w.time(s.keysUpdated)
	w.time(s.appliedAt)
	w.strings(s.leaving)
	w.uint(uint64(len(s.removals)))
	for _, r := range s.removals {
		w.uint(r.epoch)
		w.bytes(r.installation)
	}
	w.uint(uint64(len(s.heard)))
	for _, e := range s.heard {
		w.uint(e.epoch)
		w.uint(uint64(e.generation))
	}
	w.uint(uint64(s.kind))
	w.string(s.dm[0])
	w.string(s.dm[1])
	w.bool(s.forked)
	w.bool(s.keepsCommitLog())
	w.uint(uint64(len(s.trail)))
	for _, a := range s.trail {
		w.uint(a.Commit)
		w.raw(a.Authenticator[:])
	}
	w.time(s.putBack)
	w.uint(uint64(len(s.last)))
	for _, e := range s.last {
		w.uint(uint64(e.Type))
		w.bytes(e.Data)
	}
	w.uint(s.era)
	w.uint(s.reread)
	w.uint(uint64(len(s.path)))
	for _, m := range s.path {
		w.uint(m.at)
		w.raw(m.hash[:])
		w.uint(m.own)
	}
	s.chain.encode(w)
	w.uint(s.root)
	w.bool(s.uprooted)
	w.uint(s.revoked)
	w.marks(s.lives)
	w.uint(uint64(len(s.impostors)))
	for _, key := range s.impostors {
		w.bytes(key)
	}
	w.uint(s.survey.from)
	w.uint(s.hole)
	w.marks(s.former)
	return w.b
}

func (r *Replica) decodeMeta(b []byte) error {
	d, format := rowReaderUpTo(b, metaFormat)
	r.id = slices.Clone(d.bytes())
	r.created = d.time()
	r.addedBy = d.string()
	r.welcome = d.uint()
	for _, n := range []*uint64{&r.cursor, &r.lastCommit, &r.opened, &r.next, &r.marks, &r.rewinds, &r.rejected, &r.joined} {
		*n = d.uint()
	}
	if format > 3 {
		if r.standing = Standing(d.uint()); r.standing < Following || r.standing > Inactive {
			d.fail("standing")
		}
	}
	r.why = d.string()
	if format <= 4 {
		r.decodeLastCommit(d, format <= 3)
	}
	r.owesKeyUpdate = d.bool()
	if format == 1 {
		if d.bool() {
			r.keysUpdated = r.created
		}
	} else {
		r.keysUpdated, r.appliedAt = d.time(), d.time()
	}
	r.leaving = d.strings()
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		r.removals = append(r.removals, removal{d.uint(), slices.Clone(d.bytes())})
	}
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		r.heard = append(r.heard, echo{d.uint(), uint32(d.uint())})
	}
	if format == 1 {
		return d.end()
	}
	r.kind, r.dm = Kind(d.uint()), [2]string{d.string(), d.string()}
	r.forked, r.keeps = d.bool(), d.bool()
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		a := Applied{Commit: d.uint()}
		d.fixed(a.Authenticator[:])
		r.trail = append(r.trail, a)
	}
	if format > 2 {
		r.putBack = d.time()
	}
	if format > 3 {
		for n := d.uint(); n > 0 && d.err == nil; n-- {
			r.last = append(r.last, mls.Extension{Type: mls.ExtensionType(d.uint()), Data: slices.Clone(d.bytes())})
		}
	}
	if format > 4 {
		r.era, r.reread = d.uint(), d.uint()
		for n := d.uint(); n > 0 && d.err == nil; n-- {
			m := milestone{at: d.uint()}
			d.fixed(m.hash[:])
			m.own = d.uint()
			r.path = append(r.path, m)
		}
		r.chain.decode(d)
	}
	if format > 5 {
		r.root, r.uprooted = d.uint(), d.bool()
		r.revoked = d.uint()
		r.lives = d.marks()
	}
	if format > 6 {
		for n := d.uint(); n > 0 && d.err == nil; n-- {
			r.impostors = append(r.impostors, slices.Clone(d.bytes()))
		}
	}
	if format > 7 {
		r.survey.from, r.hole = d.uint(), d.uint()
	}
	if format > 8 {
		r.former = d.marks()
	}
	return d.end()
}

// decodeLastCommit reads what older formats kept in the place of a path and a
// chain, and the oldest in that of a standing. Nothing is known of what lies before the last commit, so the log is
// never read from further back than that.
func (r *Replica) decodeLastCommit(d *rowDecoder, flags bool) {
	m := milestone{at: r.joined} // those formats had the last commit's ID there
	d.fixed(m.hash[:])
	kept, keptAt := d.uint(), d.uint()
	if keptAt == m.at {
		m.own = kept
	}
	if flags {
		r.standing = flagged(d.bool(), d.bool(), r.why)
	}
	if m.hash != [32]byte{} {
		if r.standing == Lost {
			m.at = 0
		}
		r.path = []milestone{m}
	}
	r.chain.base = r.cursor
}

// flagged is the standing behind the flags of older formats. What a replica
// waited for it asks for again; whether it is a member its MLS state says.
func flagged(lost, dead bool, stalled string) Standing {
	switch {
	case dead:
		return Stranded
	case lost:
		return Lost
	case stalled == ErrRevoked.Error():
		return Revoked
	case stalled != "":
		return Waiting
	}
	return Following
}

// encodeIndex writes a member's row of a message. The body stands in it where
// it is not shared.
func (s *step) encodeIndex(m Message, key usedKey, inline bool) []byte {
	w := newRow(indexFormat, 56)
	w.uint(uint64(m.Kind))
	w.uint(s.rewinds)
	w.uint(key.epoch)
	w.raw(m.ID[:])
	w.uint(uint64(key.sender))
	w.uint(uint64(key.generation))
	w.uint(s.era)
	w.raw(s.hash[:len(mark{})])
	if inline {
		w.raw(encodeBody(m))
	}
	return w.b
}

// An index is a member's row of a message: all but its body.
type index struct {
	Message
	rewinds uint64  // times the log had gone backwards when it was read
	key     usedKey // of a message that another member sent
	keyed   bool    // the row has more of its key than the epoch
	era     uint64  // see storageEpoch
	mark    mark    // of its envelope; zero where that is not known
	inline  []byte  // the body, where it is not shared
	table   Table   // of the body, where it is shared
}

// body is where the message's body lies, where it is shared.
func (m *index) body() (Table, []byte) {
	if m.table == TableBody {
		return TableBody, m.Position.key()
	}
	return TableText, m.Position.textKey()
}

func decodeIndex(key, b []byte) (m index, err error) {
	var ok bool
	if m.Position, ok = parsePosition(key); !ok {
		return m, fmt.Errorf("%w: message key", ErrCorrupt)
	}
	d, format := rowReaderUpTo(b, indexFormat)
	if m.table = TableText; format == 1 {
		m.table = TableBody
	}
	m.Kind, m.Status = MessageKind(d.uint()), StatusPublished
	m.rewinds, m.key.epoch = d.uint(), d.uint()
	d.fixed(m.ID[:])
	if m.keyed = format > 1; m.keyed {
		m.key.sender, m.key.generation = mls.LeafIndex(d.uint()), uint32(d.uint())
	}
	if format > 2 {
		m.era = d.uint()
		d.fixed(m.mark[:])
	}
	if d.err == nil && len(d.b) > 0 {
		m.inline = d.take(uint64(len(d.b)))
	}
	return m, d.end()
}

// encodeBody writes what is equal for all who have a message.
func encodeBody(m Message) []byte {
	w := newRow(bodyFormat, len(m.Content)+len(m.Key)+len(m.Sender)+len(m.Installation)+24)
	w.time(m.Time)
	w.string(m.Sender)
	w.bytes(m.Installation)
	w.string(m.Key)
	w.bytes(m.Content)
	return w.b
}

func (m *Message) decodeBody(b []byte) error {
	d := rowReader(b, bodyFormat)
	m.Time = d.time()
	m.Sender = d.string()
	m.Installation = d.bytes()
	m.Key = d.string()
	m.Content = d.bytes()
	return d.end()
}

// saveIntent writes an intent's row: a draft for a message.
func (s *step) saveIntent(it *intent) {
	if it.isCheck() {
		return
	}
	if it.isSend() {
		m := s.draft(it)
		w := newRow(bodyFormat, len(m.Content)+128)
		w.uint(uint64(it.state))
		w.uint(uint64(it.attempts))
		w.string(it.reason)
		w.bool(m.Push)
		w.bool(it.again)
		w.bytes(encodeBody(m))
		s.put(TableDraft, keyOf(it.id), w.b)
	} else {
		w := newRow(intentFormat, 256)
		w.uint(uint64(it.state))
		w.uint(uint64(it.attempts))
		w.string(it.reason)
		w.uint(it.acked)
		w.strings(it.unreachable)
		w.strings(it.remaining)
		encodeCommand(w, it.command)
		s.put(TableIntent, keyOf(it.id), w.b)
	}
	s.fx.Durable = true
}

func (r *Replica) decodeDraft(id uint64, b []byte) (*intent, error) {
	d := rowReader(b, bodyFormat)
	it := &intent{id: id, state: intentState(d.uint()), attempts: int(d.uint()), reason: d.string()}
	push, again := d.bool(), d.bool()
	body := d.bytes()
	if err := d.end(); err != nil {
		return nil, err
	}
	var m Message
	if err := m.decodeBody(slices.Clone(body)); err != nil {
		return nil, err
	}
	it.command = Send{Key: m.Key, Content: m.Content, Push: push, Now: m.Time}
	it.message, it.again = NewMessageID(r.id, m.Key, m.Content), again
	return it, nil
}

func decodeIntent(id uint64, b []byte) (*intent, error) {
	d := rowReader(b, intentFormat)
	it := &intent{id: id, state: intentState(d.uint()), attempts: int(d.uint()), reason: d.string()}
	it.acked = d.uint()
	it.unreachable, it.remaining = d.strings(), d.strings()
	it.command = decodeCommand(d)
	return it, d.end()
}

// Commands are stored under a number.
const (
	commandAddMembers = iota + 1
	commandRemoveMembers
	commandRefresh
	commandMetadata
	commandPermissions
	commandAdmins
	commandKeyUpdate
	commandReoffer
	commandDueKeyUpdate
	commandReadd
)

func encodeCommand(w *rowWriter, command Input) {
	switch command := command.(type) {
	case AddMembers:
		w.uint(commandAddMembers)
		w.strings(command.Inboxes)
	case RemoveMembers:
		w.uint(commandRemoveMembers)
		w.strings(command.Inboxes)
	case Refresh:
		w.uint(commandRefresh)
		w.strings(command.Inboxes)
	case UpdateMetadata:
		w.uint(commandMetadata)
		w.string(command.Field)
		w.string(command.Value)
	case UpdatePermissions:
		w.uint(commandPermissions)
		w.bytes(command.Permissions.encode())
	case UpdateAdmins:
		w.uint(commandAdmins)
		w.string(command.Inbox)
		w.uint(uint64(command.Change))
	case KeyUpdate:
		w.uint(commandKeyUpdate)
	case reoffer:
		w.uint(commandReoffer)
	case dueKeyUpdate:
		w.uint(commandDueKeyUpdate)
		w.time(command.at)
	case Readd:
		w.uint(commandReadd)
		w.string(command.Inbox)
		w.bytes(command.Installation)
		w.bytes(command.leafKey)
	}
}

func decodeCommand(d *rowDecoder) Input {
	switch d.uint() {
	case commandAddMembers:
		return AddMembers{Inboxes: d.strings()}
	case commandRemoveMembers:
		return RemoveMembers{Inboxes: d.strings()}
	case commandRefresh:
		return Refresh{Inboxes: d.strings()}
	case commandMetadata:
		return UpdateMetadata{Field: d.string(), Value: d.string()}
	case commandPermissions:
		p, err := decodePermissions(d.bytes())
		if err != nil {
			d.fail("permissions")
			return nil
		}
		return UpdatePermissions{Permissions: *p}
	case commandAdmins:
		return UpdateAdmins{Inbox: d.string(), Change: AdminChange(d.uint())}
	case commandKeyUpdate:
		return KeyUpdate{}
	case commandReoffer:
		return reoffer{}
	case commandDueKeyUpdate:
		return dueKeyUpdate{d.time()}
	case commandReadd:
		return Readd{d.string(), slices.Clone(d.bytes()), slices.Clone(d.bytes())}
	}
	d.fail("unknown command")
	return nil
}

// saveSealed writes what an intent publishes. It holds private keys.
func (s *step) saveSealed(it *intent) {
	b := it.sealed
	w := newRow(sealedFormat, len(b.payload)+len(b.staged)+len(b.data)+len(b.welcome)+1400*len(b.joiners)+64)
	w.uint(b.epoch)
	w.raw(b.hash[:])
	w.bytes(b.payload)
	w.bytes(b.staged)
	w.bytes(b.welcome)
	w.uint(uint64(len(b.joiners)))
	for _, j := range b.joiners {
		w.bytes(j.installation)
		w.bytes(j.key)
		w.uint(uint64(j.algorithm))
		w.bool(j.pointers)
	}
	s.put(TableSealed, keyOf(it.id), w.b)
}

func decodeSealed(row []byte, commit bool) (*sealed, error) {
	d := rowReader(slices.Clone(row), sealedFormat)
	b := &sealed{epoch: d.uint()}
	d.fixed(b.hash[:])
	b.payload, b.staged, b.welcome = d.bytes(), d.bytes(), d.bytes()
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		b.joiners = append(b.joiners, joiner{d.bytes(), d.bytes(), wrapper(d.uint()), d.bool()})
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if commit {
		var err error
		if b.data, err = DecodeGroupMessage(b.payload); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return b, nil
}
