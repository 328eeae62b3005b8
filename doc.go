// Package conclave is a messaging backend for end-to-end encrypted group chat:
// MLS (RFC 9420) in the XMTP v3 style. A service embeds it to run thousands of
// installations in one process.
//
//	host, err := conclave.Open(ctx, conclave.Config{Dir: "data"})
//	alice, err := host.CreateClient(ctx, wallet, conclave.ClientOptions{})
//	room, err := alice.Conversations().NewGroup(ctx, []string{bob}, conclave.GroupOptions{Name: "ops"})
//	id, err := room.Send(ctx, conclave.Text("hello"))
//	for m, err := range room.Stream(ctx) { … }
//
// # Where to read
//
// Eight files carry one message from Group.Send to a stored and streamed one:
//
//  1. group.go: Group.Send, what a service calls
//  2. actors/group.go: the actor that owns the replica
//  3. group/replica.go: Step, the deterministic core
//  4. group/send.go: a command becomes sealed bytes
//  5. actors/effects.go: Save before Send before Emit
//  6. actors/outbox.go: bytes reach the log
//  7. group/receive.go: an envelope of the log becomes a message
//  8. actors/stream.go: a stored message reaches whoever listens
//
// # Compatibility
//
// Before version 1 only this package, bus, persistence and identity keep their
// exported names from one minor version to the next; see CHANGELOG.md. The
// format of stores and logs has a number, and older ones open.
package conclave
