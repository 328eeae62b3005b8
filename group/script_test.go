package group_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// TestScripts runs the stories under testdata: several installations, one log,
// real cryptography. Each block is a few commands and what comes of them; see
// commands for the vocabulary. Rewrite the outputs with -rewrite and read them.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			w.out.Reset()
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSpace(line)
				w.printf("> %s", line)
				w.run(words(line))
				w.agree()
			}
			return w.out.String()
		})
	})
}

// words splits a command; double quotes keep words together.
func words(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
			return true
		}
		return c == ' ' && !quoted
	})
}

func (w *world) run(args []string) {
	command, ok := commands[args[0]]
	if !ok {
		w.t.Fatalf("no command %q", args[0])
	}
	command(w, args[1:])
}

// commands is what scripts can say. The first argument is an installation.
var commands = map[string]func(*world, []string){
	// people NAME… : each gets an inbox with one installation of that name
	"people": func(w *world, names []string) {
		for _, n := range names {
			w.install(n, n)
		}
	},
	// install NAME PERSON : one more installation
	"install": func(w *world, a []string) { w.install(a[0], a[1]) },
	// revoke NAME : the wallet takes an installation back
	"revoke": func(w *world, a []string) { w.revoke(a[0]) },
	// double PERSON NAME : somebody makes an inbox more, with an installation that it has
	"double": func(w *world, a []string) { w.double(a[0], a[1]) },
	// takein NAME : the wallet adds an installation that it had taken back
	"takein": func(w *world, a []string) { w.takeIn(a[0]) },
	// create NAME [PRESET [GROUPNAME]]
	"create": func(w *world, a []string) {
		h := w.homes[a[0]]
		c := group.CreateConfig{Now: w.tick()}
		if len(a) > 1 {
			c.Permissions = preset(w, a[1])
		}
		if len(a) > 2 {
			c.Name = a[2]
		}
		h.create(c)
	},
	// limit NAME members|commit|keys N : what its host allows; keys in days
	"limit": func(w *world, a []string) {
		n, err := strconv.Atoi(a[2])
		w.must(err)
		h := w.homes[a[0]]
		switch a[1] {
		case "members":
			h.limits.Members = n
		case "keys":
			h.limits.KeyAge = time.Duration(n) * 24 * time.Hour
		default:
			h.limits.CommitBytes = n
		}
	},
	// version NAME VERSION : what client it is, from its next crash on
	"version": func(w *world, a []string) { w.homes[a[0]].version = a[1] },
	// later DAYS
	"later": func(w *world, a []string) {
		n, err := strconv.Atoi(a[0])
		w.must(err)
		w.now = w.now.Add(time.Duration(n) * 24 * time.Hour)
	},
	// hide NAME, unhide NAME : whether its key package can be had
	"hide":   func(w *world, a []string) { w.homes[a[0]].keyless = true },
	"unhide": func(w *world, a []string) { w.homes[a[0]].keyless = false },
	// leave NAME : a message that asks to be removed
	"leave": func(w *world, a []string) {
		content, err := proto.Marshal(&contents.EncodedContent{
			Type: &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "leave_request", VersionMajor: 1}})
		w.must(err)
		w.homes[a[0]].step(group.Send{Content: content, Now: w.tick()})
	},
	// dm NAME PERSON
	"dm": func(w *world, a []string) {
		w.homes[a[0]].create(group.CreateConfig{Kind: group.KindDM, Peer: w.inboxes[a[1]].id, Now: w.tick()})
	},
	"add":     func(w *world, a []string) { w.homes[a[0]].step(group.AddMembers{Inboxes: w.ids(a[1:])}) },
	"remove":  func(w *world, a []string) { w.homes[a[0]].step(group.RemoveMembers{Inboxes: w.ids(a[1:])}) },
	"refresh": func(w *world, a []string) { w.homes[a[0]].step(group.Refresh{Inboxes: w.ids(a[1:])}) },
	"check":   func(w *world, a []string) { w.homes[a[0]].step(group.CheckMembers{}) },
	"rotate":  func(w *world, a []string) { w.homes[a[0]].step(group.KeyUpdate{}) },
	"rename": func(w *world, a []string) {
		w.homes[a[0]].step(group.UpdateMetadata{Field: group.AttributeName, Value: a[1]})
	},
	// set NAME ATTRIBUTE VALUE
	"set": func(w *world, a []string) { w.homes[a[0]].step(group.UpdateMetadata{Field: a[1], Value: a[2]}) },
	// permit NAME PRESET
	"permit": func(w *world, a []string) {
		w.homes[a[0]].step(group.UpdatePermissions{Permissions: preset(w, a[1]).Permissions()})
	},
	// admin NAME add|drop|super|unsuper PERSON
	"admin": func(w *world, a []string) {
		change := map[string]group.AdminChange{"add": group.AddAdmin, "drop": group.RemoveAdmin,
			"super": group.AddSuperAdmin, "unsuper": group.RemoveSuperAdmin}[a[1]]
		w.homes[a[0]].step(group.UpdateAdmins{Inbox: w.inboxes[a[2]].id, Change: change})
	},
	// send NAME TEXT [KEY]
	"send": func(w *world, a []string) {
		in := group.Send{Content: []byte(a[1]), Now: w.tick()}
		if len(a) > 2 {
			in.Key = a[2]
		}
		w.homes[a[0]].step(in)
	},
	// retry NAME TEXT
	"retry": func(w *world, a []string) {
		h := w.homes[a[0]]
		for _, m := range h.replica.Drafts() {
			if string(m.Content) == a[1] {
				h.step(group.Retry{Message: m.ID, Now: w.tick()})
			}
		}
	},
	// publish NAME [FAULT] : send the outbox. Faults strike one envelope:
	// refused, final, lost (never arrives), unanswered (arrives), late (arrives
	// with land); nocas: a bus without compare-and-set
	"publish": func(w *world, a []string) {
		fault := ""
		if len(a) > 1 {
			fault = a[1]
		}
		w.homes[a[0]].send(fault)
	},
	// land NAME : what was on its way arrives
	"land": func(w *world, a []string) {
		h := w.homes[a[0]]
		for _, o := range h.slow {
			e := w.publish(o.Topic, o.ID, o.Payload)
			w.printf("%s: what intent %d had sent is envelope %d", h.name, o.Intent, e.id)
		}
		h.slow = nil
	},
	// places NAME… : where in the log the store has the messages that people sent
	"places": func(w *world, names []string) {
		for _, n := range names {
			list, err := group.History(w.homes[n].reader(), group.HistoryQuery{})
			w.must(err)
			var places []string
			for _, m := range list {
				if m.Kind == group.ApplicationMessage {
					places = append(places, fmt.Sprintf("%s at %d", w.text(m), m.Position.ID))
				}
			}
			w.printf("%s has %s", n, strings.Join(places, ", "))
		}
	},
	"deliver": func(w *world, names []string) {
		for _, n := range names {
			w.homes[n].deliver()
		}
	},
	// read NAME… : the group's log, and no welcomes
	"read": func(w *world, names []string) {
		for _, n := range names {
			w.homes[n].readLog()
		}
	},
	// sync [NAME…] : all send and read until nothing moves
	"sync": func(w *world, names []string) {
		if len(names) == 0 {
			names = w.order
		}
		w.sync(names)
	},
	// crash NAME : lose the process; what was saved is loaded again
	"crash": func(w *world, a []string) { w.homes[a[0]].crash() },
	// backup NAME, restore NAME : the store goes back to what it was
	"backup": func(w *world, a []string) { w.homes[a[0]].backup = w.homes[a[0]].store.clone() },
	"restore": func(w *world, a []string) {
		h := w.homes[a[0]]
		h.store = h.backup.clone()
		h.putBack = w.now
		h.crash()
	},
	// copy NAME : the store that was backed up is opened, and nothing says so
	"copy": func(w *world, a []string) {
		h := w.homes[a[0]]
		h.store = h.backup.clone()
		h.crash()
	},
	"passivate": func(w *world, a []string) {
		h := w.homes[a[0]]
		h.save(h.replica.Passivate())
	},
	"offline": func(w *world, a []string) { w.homes[a[0]].offline = true },
	// known NAME : what was waited for is there, and nobody has said so yet
	"known": func(w *world, a []string) { w.homes[a[0]].offline = false },
	"online": func(w *world, a []string) {
		w.homes[a[0]].offline = false
		w.homes[a[0]].service()
	},
	// junk commits|messages : anybody may write to the bus
	"junk": func(w *world, a []string) {
		topic := group.TopicMessages
		if a[0] == "commits" {
			topic = group.TopicCommits
		}
		e := w.publish(topic, w.anyGroup(), []byte("\x0a\x06\x0a\x04junk"))
		w.printf("junk is envelope %d", e.id)
	},
	// ahead ID EPOCH : somebody publishes an old envelope that claims another epoch
	"ahead": func(w *world, a []string) {
		id, err := strconv.ParseUint(a[0], 10, 64)
		w.must(err)
		epoch, err := strconv.ParseUint(a[1], 10, 64)
		w.must(err)
		old := w.log[slices.IndexFunc(w.log, func(e entry) bool { return e.id == id })]
		payload := bytes.Clone(old.payload)
		at := bytes.Index(payload, []byte(old.key)) + len(old.key) // MLSMessage: the group's id, then the epoch
		binary.BigEndian.PutUint64(payload[at:], epoch)
		w.printf("envelope %d as of epoch %d is envelope %d", id, epoch, w.publish(old.topic, []byte(old.key), payload).id)
	},
	// replay ID : somebody publishes an old envelope once more
	"replay": func(w *world, a []string) {
		id, err := strconv.ParseUint(a[0], 10, 64)
		w.must(err)
		for _, e := range w.log {
			if e.id == id {
				w.printf("envelope %d again is envelope %d", id, w.publish(e.topic, []byte(e.key), e.payload).id)
				return
			}
		}
		w.t.Fatalf("no envelope %d", id)
	},
	// forge NAME rename TEXT | remove PERSON | admin : a member whose client
	// does not ask for permission
	"forge": func(w *world, a []string) { w.homes[a[0]].forge(a[1:]) },
	// usurp NAME OTHER EPOCH [CURSOR] : a stranger makes a group of the same id, goes
	// on alone to an epoch, and welcomes OTHER there, at the log's end or another
	// place. Everybody is a member by name.
	// With "published" its commits are in the log.
	"usurp": func(w *world, a []string) {
		epoch, err := strconv.ParseUint(a[2], 10, 64)
		w.must(err)
		cursor := w.lastID
		if len(a) > 3 && a[3] == "published" {
			cursor = 0
		} else if len(a) > 3 {
			cursor, err = strconv.ParseUint(a[3], 10, 64)
			w.must(err)
		}
		w.homes[a[0]].usurp(w.homes[a[1]], epoch, cursor)
	},
	// overhears NAME : what the stranger reads of the log
	"overhears": func(w *world, a []string) { w.homes[a[0]].overhear() },
	// accept NAME : its owner accepts whose welcomes wait for that; decline NAME
	"accept": func(w *world, a []string) {
		h := w.homes[a[0]]
		for _, c := range h.requests {
			c.Accepted, c.Previous = true, h.replica
			h.join(c)
		}
		h.requests = nil
	},
	"decline": func(w *world, a []string) { w.homes[a[0]].requests = nil },
	// unaside NAME : what was set aside is tried again
	"unaside": func(w *world, a []string) {
		h := w.homes[a[0]]
		aside := h.aside
		h.aside = nil
		for _, c := range aside {
			c.Previous, c.InOrder = h.replica, true
			h.join(c)
		}
	},
	// alone NAME : shares nothing with those who are co-hosted
	"alone": func(w *world, a []string) { w.homes[a[0]].alone = true },
	// rewind ID [NAME…] : the log loses its tail, as after a restore. All notice,
	// or those who are named
	"rewind": func(w *world, a []string) {
		names := a[1:]
		if len(names) == 0 {
			names = w.order
		}
		w.lose(a[0])
		for _, name := range names {
			if h := w.homes[name]; h.replica != nil {
				h.welcome = min(h.welcome, w.lastID)
				h.step(group.Rewound{End: w.lastID, Rows: h.reader()})
			}
		}
	},
	// damage ID [NAME…] : the log loses one envelope, and an operator accepts that.
	// All are told, or those who are named
	"damage": func(w *world, a []string) {
		id, err := strconv.ParseUint(a[0], 10, 64)
		w.must(err)
		w.log = slices.DeleteFunc(w.log, func(e entry) bool { return e.id == id })
		if w.damaged == 0 || id < w.damaged {
			w.damaged = id
		}
		names := a[1:]
		if len(names) == 0 {
			names = w.order
		}
		for _, name := range names {
			if h := w.homes[name]; h.replica != nil {
				h.rewound(w.damaged - 1)
			}
		}
	},
	// rewound NAME… : the bus says that the log went backwards. It has grown since
	"rewound": func(w *world, names []string) {
		for _, name := range names {
			h := w.homes[name]
			h.step(group.Rewound{End: w.lastID, Rows: h.reader()})
		}
	},
	// many NAME N : so many messages
	"many": func(w *world, a []string) {
		n, err := strconv.Atoi(a[1])
		w.must(err)
		for range n {
			w.many++
			w.homes[a[0]].step(group.Send{Content: fmt.Appendf(nil, "m%d", w.many), Now: w.tick()})
		}
	},
	// count NAME… : how many messages each has, and whether any is there twice
	"count": func(w *world, names []string) {
		for _, n := range names {
			list, err := group.History(w.homes[n].reader(), group.HistoryQuery{})
			w.must(err)
			ids := map[group.MessageID]bool{}
			for _, m := range list {
				ids[m.ID] = true
			}
			w.printf("%s has %d messages, %d of them twice", n, len(ids), len(list)-len(ids))
		}
	},
	// lose ID : the log loses its tail, and nobody notices
	"lose": func(w *world, a []string) { w.lose(a[0]) },
	// steal NAME OTHER : open a welcome of OTHER's with the wrong keys
	"steal": func(w *world, a []string) {
		for _, e := range w.log {
			if e.topic == group.TopicWelcomes && e.key == string(w.homes[a[1]].signer.Public()) {
				_, err := w.homes[a[0]].unwrap(e.payload)
				w.printf("%s: %v", a[0], err)
				return
			}
		}
	},
	// show NAME… : what the replica says of the group
	"show": func(w *world, names []string) {
		for _, n := range names {
			w.homes[n].show()
		}
	},
	// waits NAME… : the intents that have not ended
	"waits": func(w *world, names []string) {
		for _, n := range names {
			w.printf("%s waits for the intents %v", n, w.homes[n].replica.Outstanding())
		}
	},
	// history NAME… : what the store says of the messages
	"history": func(w *world, names []string) {
		for _, n := range names {
			h := w.homes[n]
			list, err := group.History(h.reader(), group.HistoryQuery{})
			w.must(err)
			for _, m := range append(list, h.replica.Drafts()...) {
				w.printf("%s has %s", n, w.describe(m))
			}
		}
	},
	// same NAME… : all have the same history since the last of them came
	"same": func(w *world, names []string) {
		lists, from := make([][]group.Message, len(names)), uint64(0)
		for i, n := range names {
			var err error
			lists[i], err = group.History(w.homes[n].reader(), group.HistoryQuery{})
			w.must(err)
			for _, m := range lists[i] {
				if strings.HasSuffix(m.Key, "_welcome_added") {
					from = max(from, m.Position.ID)
				}
			}
		}
		var first []group.MessageID
		for i, list := range lists {
			var ids []group.MessageID
			for _, m := range list {
				if m.Position.ID > from {
					ids = append(ids, m.ID)
				}
			}
			if i == 0 {
				first = ids
			} else if !slices.Equal(ids, first) {
				w.t.Errorf("%s and %s differ in history", names[0], names[i])
			}
		}
		w.printf("%d messages in the same order", len(first))
	},
}

func preset(w *world, name string) group.Preset {
	switch name {
	case "default":
		return group.PresetDefault
	case "admin_only":
		return group.PresetAdminOnly
	case "all_members":
		return group.PresetAllMembers
	}
	w.t.Fatalf("no preset %q", name)
	return 0
}

func (w *world) ids(people []string) []string {
	var out []string
	for _, p := range people {
		if in := w.inboxes[p]; in != nil {
			out = append(out, in.id)
		} else {
			out = append(out, p)
		}
	}
	return out
}

func (w *world) anyGroup() []byte {
	for _, h := range w.homes {
		if h.replica != nil {
			return h.replica.ID()
		}
	}
	w.t.Fatal("no group")
	return nil
}

func (h *home) create(c group.CreateConfig) {
	r, fx, err := group.Create(h.env(), c)
	if err != nil {
		h.printf("%s: error: %v", h.name, err)
		return
	}
	h.replica = r
	h.carry(fx)
}

// forge publishes a commit that is valid MLS and asks nobody.
func (h *home) forge(what []string) {
	g := h.replica.Group()
	exts := slices.Clone(g.Extensions())
	var proposals []mls.Proposal
	switch what[0] {
	case "rename":
		exts = group.ReplaceAttribute(h.t, exts, group.AttributeName, what[1])
	case "admin":
		exts = group.ReplaceSuperAdmins(h.t, exts, h.inbox.id)
	case "remove":
		leaf, ok := g.Find(h.homes[what[1]].signer.Public())
		if !ok {
			h.t.Fatalf("%s is no member", what[1])
		}
		members := maps.Clone(h.replica.Metadata().Members)
		delete(members, h.homes[what[1]].inbox.id)
		exts = group.ReplaceMembers(exts, members)
		proposals = append(proposals, mls.Remove{Removed: leaf})
	}
	proposals = append([]mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}, proposals...)
	c, err := g.Commit(mls.CommitConfig{Rand: h.world.rand, Proposals: proposals})
	h.must(err)
	e := h.publish(group.TopicCommits, h.replica.ID(), group.EncodeGroupMessage(c.Message(), nil, false))
	h.printf("%s: forged commit is envelope %d", h.name, e.id)
}

// usurp welcomes somebody to a group of one's own, under the id of its group.
func (h *home) usurp(victim *home, epoch, cursor uint64) {
	published := cursor == 0
	r, _, err := group.Create(h.env(), group.CreateConfig{ID: victim.replica.ID(), Now: h.tick(), Name: "usurped"})
	h.must(err)
	g := r.Group()
	commit := func(proposals ...mls.Proposal) []byte {
		s, err := g.Commit(mls.CommitConfig{Rand: h.world.rand, Proposals: proposals})
		h.must(err)
		if published {
			cursor = h.publish(group.TopicCommits, victim.replica.ID(), group.EncodeGroupMessage(s.Message(), nil, false)).id
		}
		g, err = g.Merge(s)
		h.must(err)
		return s.Welcome()
	}
	for g.Epoch()+1 < epoch {
		commit()
	}
	members, failed := map[string]uint64{}, [][]byte(nil)
	for _, name := range h.order {
		o := h.homes[name]
		members[o.inbox.id] = o.inbox.log.LatestID()
		if o != h && o != victim {
			failed = append(failed, o.signer.Public())
		}
	}
	exts := group.ReplaceMembers(g.Extensions(), members, failed...)
	welcome := commit(mls.Add{KeyPackage: victim.secrets.KeyPackage.MLS}, mls.GroupContextExtensions{Extensions: exts})
	payload := group.WrapWelcome(h.t, h.world.rand, welcome, cursor, victim.secrets.KeyPackage)
	h.usurped = g
	h.printf("%s: welcome %d to a group of its own", h.name, h.publish(group.TopicWelcomes, victim.signer.Public(), payload).id)
}

// overhear opens what it can of the log.
func (h *home) overhear() {
	for _, e := range h.log {
		data, err := group.DecodeGroupMessage(e.payload)
		if err != nil || e.topic == group.TopicWelcomes {
			continue
		}
		m, err := h.realm.Parse(data)
		h.must(err)
		next, content, err := h.usurped.Open(m)
		if err != nil {
			continue
		}
		if staged, ok := content.(*mls.StagedCommit); ok {
			h.usurped, err = next.Merge(staged)
			h.must(err)
			h.printf("%s is in epoch %d of its own", h.name, h.usurped.Epoch())
			continue
		}
		h.usurped = next
		h.printf("%s overhears envelope %d", h.name, e.id)
	}
}

func (h *home) show() {
	r := h.replica
	if r == nil {
		h.printf("%s has no group", h.name)
		return
	}
	m := r.Metadata()
	var members, admins []string
	for id, seq := range m.Members {
		members = append(members, fmt.Sprintf("%s@%d", h.byID[id].name, seq))
	}
	for _, id := range m.SuperAdmins {
		admins = append(admins, h.byID[id].name+"*")
	}
	for _, id := range m.Admins {
		admins = append(admins, h.byID[id].name)
	}
	slices.Sort(members)
	slices.Sort(admins)
	var leaves []string
	for key := range r.Installations {
		for _, o := range h.homes {
			if string(o.signer.Public()) == string(key) {
				leaves = append(leaves, o.name)
			}
		}
	}
	state := ""
	if st, _ := r.Standing(); st != group.Following {
		state = fmt.Sprintf(" %v", st)
	}
	h.printf("%s sees epoch %d%s, name %q, members %v, admins %v, installations %v",
		h.name, r.Epoch(), state, m.Attributes[group.AttributeName], members, admins, leaves)
}
