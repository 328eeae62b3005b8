// Package benchmarks puts load on whole hosts, from wallets to stored messages,
// and measures it beside what it cannot avoid: the bare cryptography, the bare
// bus and the bare store, in the same run on the same machine.
//
// It is also where a load is checked: a Crowd forms a group, a Replay sends
// through it and follows every delivery, and Check reads from the stored state
// of every member what is really there.
package benchmarks
