// Package engine runs actors: things that take one message at a time, load
// their state from disk, and may crash.
//
// It is the only door to protoactor-go. What an actor promises is written here
// once, in cell.go and supervise.go; a Runtime only queues messages and runs
// turns. New stands on protoactor's mailboxes, package goroutines on plain
// goroutines, and package enginetest proves the contract on both.
//
// # Contract
//
//  1. Turns. Start, Receive, Idle and Stop of one Behavior never overlap.
//     Messages of one sender are handled in the order they were told.
//  2. Names. A name belongs to one actor for as long as it accepts messages.
//     Who spawns the name of a stopping actor gets its successor, whose Start
//     waits until the predecessor's Stop has returned.
//  3. Nothing vanishes. A message that Tell accepted is handled, or handed to
//     Hooks.Quarantine (it crashed the actor), or to Hooks.OnDead (the actor
//     could not be brought back while stopping). A message that Tell refused
//     is still the caller's: the error is ErrStopped.
//  4. Every asker is answered: the reply, the error of Receive, ErrRestarted
//     (the actor crashed first), ErrStopped (it stopped first), or the end of
//     the asker's own context, which ends the wait and not the work.
//  5. Crash. A panic, an error from Start, or an error from Receive that wraps
//     ErrCrash discards the Behavior. A new one is made and started after a
//     back-off that doubles from Backoff.Initial to Backoff.Max, with jitter;
//     what is queued waits. Backoff.Quiet without a crash forgets the past.
//     After Backoff.StallAfter crashes in a row the actor is stalled: shown by
//     hooks and Stats, and still tried again every Backoff.Max.
//  6. Stop handles what was queued before it, and then stops. While stopping,
//     a crash is followed by a new start without delay; if that start fails
//     the rest of the queue goes to OnDead.
//  7. Passivation. An actor with Options.IdleAfter stops when it was told
//     nothing for that long, unless its Idle says no, it still owes a reply,
//     or a message is queued; the last check and the closing are one atomic
//     step, so a Tell lands before it and is handled, or after it and is
//     refused. A Registry turns the refusal into a wake-up.
//  8. Cost. An idle actor is memory and nothing else: no goroutine, no timer.
//
// A mailbox is unbounded and is never the only copy of anything: an owner
// reads Depth, stops pushing over its limit, and lets the actor catch up from
// the log.
//
// An actor must not Ask an actor that may be asking it: the engine does not
// detect the circle, only their contexts end it.
//
// The engine writes no log. Its hooks carry everything, and the values they
// carry print without any message body.
package engine
