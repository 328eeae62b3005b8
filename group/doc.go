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
//	plan.go       commands that become commits
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
// # What is promised
//
// All who follow the log agree: on members, metadata, order of messages, and on
// which envelopes count. An own message is durable before it is published; it
// ends Published or Failed, whatever is lost on the way; it is shown once by
// everybody. A commit counts when the log has delivered it, and the first valid
// one of an epoch does. What cannot be judged for lack of an input waits for it;
// what is invalid is read past, with a reason. A failed Step changes nothing.
//
// A message is for the members of the epoch it was sealed in; somebody removed
// before its place in the log is not heard any more. Where somebody was added in
// between, who could not read it, its sender seals it once more: the newcomer has
// that copy, and for all others the first one is the message.
package group
