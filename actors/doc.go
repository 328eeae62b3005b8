// Package actors is the shell around the pure core: the actors of a host, and
// the order in which a replica's effects are carried out.
//
// There are four kinds. The host reads the bus once for everybody and hands
// each envelope, decoded once, to the actors that follow its topic. An
// installation reads its welcomes and joins. A group actor owns one replica: it
// takes one input at a time from its mailbox, steps the replica, saves, sends
// and emits, in that order. A stream hands stored messages to one consumer at
// the consumer's pace.
//
// # The sentence
//
// Save before Send before Emit. Nothing leaves a host, and nobody is told
// anything, before it would survive the host's death. A save that fails is a
// crash: the replica is dropped, since it is ahead of its store, and its
// supervisor loads it again from there. Waking an idle actor, starting a host
// and recovering from a crash are therefore one path: Start.
//
// # Words
//
//	feed       the host's one subscription to the bus
//	hint       an envelope that says only that there is news: it moves no cursor
//	page       a stretch of a group's log, read once for all co-hosted members
//	moment     a point in the host's time; a page serves who asked before it was begun
//	guest      a welcome that was read and is not finished; a lobby holds an installation's
//	aside      of a guest: stored, and tried again later
//	registry   from an installation's or a group's name to its actor, which it wakes
//	identities the identity logs that this host has read
//
// # What an actor never does
//
// It never waits for the network: publishing, reading the log and looking up
// identities happen beside the mailbox, and their results come back as inputs.
// It never decides anything about MLS or about XMTP's rules: that is package
// group's, whose Step is called in one place.
//
// A mailbox is a hint and never the only copy: an actor that falls behind is
// told once to catch up, and reads the log from its own cursor.
package actors
