// Package mls is Messaging Layer Security, RFC 9420, and nothing else: it keeps
// one member's state of a group, and turns messages into the next state.
//
// It is pure. There is no clock, no network and no store in it: time and policy
// are for the caller to judge, randomness comes as an io.Reader, and what must
// be kept comes as Rows. A Group is an immutable snapshot. Each verb returns the
// next one and leaves the one it was called on as it was, so that an error never
// has anything to undo.
//
// # From bytes into an epoch
//
// What arrives passes three states, each a type of its own:
//
//   - unverified: a Message, and the unverifiedContent inside. Bytes that parse;
//     nothing else is known about them.
//   - verified: an authenticatedContent, whose signature, and membership tag or
//     encryption, are right. Application data and proposals leave Group.Open so.
//   - staged: a StagedCommit. Its proposals, tree, path and confirmation tag are
//     valid, and it holds the next epoch. The group has not changed.
//
// Group.Merge takes a staged commit, own or received, and is the only way into
// an epoch. Between staging and merging, the caller decides by its own rules
// whether that commit may happen.
//
// # Sharing
//
// Members in one process may belong to a Realm. At level Public they share what
// they could all compute from public bytes: parsed messages, the tree, the
// outcome of a commit, signatures that verified. The results are the same as
// without it.
//
// # Reading it beside RFC 9420
//
//	codec.go          2.1    presentation language, variable-size vectors
//	treemath.go       4, C   indices in a ratchet tree
//	ciphersuite.go    5.1    cipher suites
//	crypto.go         5.1    labeled signing, encryption and hashing; 5.2 references
//	hpke              RFC 9180
//	credential.go     5.3    credentials
//	framing.go        6, 6.1 content and its authentication
//	public.go         6.2    PublicMessage
//	private.go        6.3    PrivateMessage
//	message.go        6      MLSMessage
//	tree.go           7.1, 7.7  parent nodes; adding, removing, resizing; 12.4.3.3 encoding
//	leafnode.go       7.2, 7.3  leaf nodes
//	treekem.go        7.4–7.6   path secrets, update paths
//	treehash.go       7.8, 7.9  tree and parent hashes; what a newcomer verifies
//	keymap.go         7.3    unique keys, kept along with the tree
//	keyschedule.go    8, 8.3, 8.5  epoch secrets, external init, exporter
//	groupcontext.go   8.1    GroupContext
//	transcript.go     8.2    transcript hashes
//	psk.go            8.4    pre-shared keys
//	secrettree.go     9      message keys
//	keypackage.go     10     key packages
//	group.go          11, 15 creation; the group and its verbs
//	extension.go      11.1, 13.4  extensions, required capabilities
//	proposal.go       12.1   proposals
//	proposals.go      12.2, 12.3  proposal lists, validated and applied
//	updatepath.go     12.4, 7.6   Commit and UpdatePath, encoded
//	commit.go         12.4.1 creating a commit and its Welcome
//	open.go           6, 12.1     opening messages
//	transition.go     12.4.2 processing a commit: what is public
//	staged.go         12.4.2 processing a commit: what is secret; merging
//	groupinfo.go      12.4.3 GroupInfo and Welcome, encoded
//	welcome.go        12.4.3.1  joining by a Welcome
//	external.go       12.4.3.2  joining by an external commit
//	state.go          8      what members of an epoch agree on
//	realm.go                 what members of a process share
//	rows.go, treediff.go     the stored form
package mls
