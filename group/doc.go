// Package group is the heart of the house: one installation's replica of one
// group, in XMTP v3's profile of MLS.
//
// A group's life is an ordered log. A Replica reads it, and is a deterministic
// function of what it read: inputs go in by Step, effects come out, and whoever
// hosts the replica carries them out in their order (save, send, read, emit) and
// feeds the answers back. Nothing here performs I/O, starts a goroutine or reads
// a clock, so that everything here can be tested by a script and by simulation.
//
// Where to read:
//
//	replica.go    the Replica, and Step's switch
//	input.go      what can happen to it
//	effects.go    what it asks for: rows, envelopes, events
//	intent.go     an accepted command: its states, its attempts
//	send.go       messages: stored, sealed, published
//	stray.go      own messages in the log: which copy counts, who is owed another
//	commands.go   what an owner may ask for, and what is refused at once
//	plan.go       commands that become commits
//	keyupdate.go  the key update and the look at the members before a message
//	commit.go     the one way into an epoch, and welcomes
//	receive.go    envelopes of the log, one by one
//	validate.go   what a commit must satisfy beyond RFC 9420
//	join.go       creating, joining, joining again
//	snapshot.go   rows, and how a replica comes back
//	standing.go   how a replica stands to its log: the table
//	rewind.go     when the log goes backwards
//	commitlog.go  how members notice that they stand in different epochs
//	history.go    reading messages back
//
// and below them XMTP's own forms: profile.go, metadata.go, policy.go,
// keypackage.go, welcome.go, message.go, transcript.go.
//
// # Words
//
//	command     what the owner asks of the replica: Send, AddMembers, KeyUpdate and so on
//	intent      a command that was accepted, until its outcome is known (XMTP's word)
//	sealed      of an intent: its bytes exist and are durable here
//	unsettled   of an intent: a publish had no clear answer; a read of the log settles it
//	key update  a commit whose update path gives this member new keys (RFC 9420, Section 12.4.1)
//	echo        an own envelope that the log delivers
//	stray       an envelope of an own message that its intent has given up; it may still come
//	owed copy   a second sealing of an own message, for a member who cannot read the first
//	chain       the last envelopes read, by id and hash: what the log is compared with
//	path        the last commits that led to the current epoch; each is a milestone
//	offer       publishing a commit again that the log has lost
//	trail       where the last commits led: what is compared with the group's commit log
//	standing    how the replica relates to its log: one value, see standing.go
//
// # What is promised
//
// All who follow the log agree: on members, metadata, order of messages, and on
// which envelopes count. An own message is durable before it is published; it
// ends Published or Failed, whatever is lost on the way; it is shown once by
// everybody. A commit counts when the log has delivered it, and the first valid
// one of an epoch does. What cannot be judged for lack of an input waits for it;
// what is invalid is read past, with a reason. A failed Step changes nothing.
//
// A message is for the members of the epoch in which it was sealed. A message whose
// sender was removed before its place in the log is rejected. A member that was added
// between the sealing and that place cannot read it: the sender seals the message once
// more. The newcomer reads the second copy; for all others the first is the message.
package group
