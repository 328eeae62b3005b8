package engine

// A Runtime queues messages and runs turns: the exchangeable part.
type Runtime interface {
	// Spawn makes a mailbox and runs a first Turn(nil) on it, not before Spawn
	// was called and possibly before it returns.
	Spawn(t Turner) Mailbox
	// Close is called once, after the last actor has stopped or was given up.
	Close()
}

// A Turner is an actor as its mailbox sees it.
type Turner interface {
	// Turn handles one message; a nil message means start. Turns never
	// overlap, and one happens before the next. False pauses the mailbox until
	// Resume, whose first turn is Turn(nil) again; the queue stays.
	Turn(msg any) bool
}

// A Mailbox is one actor's unbounded queue. It keeps the order of each sender.
type Mailbox interface {
	// Post queues a message. Never blocks.
	Post(msg any)
	// Resume ends a pause. It is called once per pause, and may come while the
	// turn that asks for the pause still runs.
	Resume()
	// Close is called from the last turn, when the queue is empty and nothing
	// will be posted any more.
	Close()
}
