package actors

// A catchUp decides when a log is read. One read runs at a time, outside the mailbox.
// Reads are numbered, so that a caller can wait for the first one that begins after its
// request. A catchUp has no access to log or clock: its owner begins the reads and sets
// the timers.
//
//	             ask        ended      failed, heard   failed, unheard   timer     hold
//	still        reading    -          -               -                 -         resting
//	reading      again      still      pausing         resting           -         -
//	again        again      reading    pausing         resting           -         -
//	pausing      reading    -          -               -                 reading   -
//	resting      reading    -          -               -                 -         resting
//
// Requests that come while a read runs are answered by one more read, which begins as
// soon as the running one ends.
type catchUp struct {
	state  readState
	number uint64 // of the read that began last
	since  moment // what the next read finds is from then or later
	news   bool   // there is something to be found: nobody needs to ask for that first
	timed  bool   // the timer of a pause is set

	// A replica numbers the reads that it waits for; see group.Effects.Read.
	wanted   uint64 // the newest that it waits for
	answered uint64 // the newest that a read has answered
	void     uint64 // reads up to this number were begun for a replica that is gone
}

// A readState is what a catchUp is at.
type readState uint8

const (
	still   readState = iota // nobody has asked for more than was read
	reading                  // a read runs
	again                    // a read runs, and another one is to follow it
	pausing                  // the last read failed: the next begins with a timer, or when somebody asks
	resting                  // a read is wanted, and waits until somebody asks: who only looks asks the network nothing
)

// ask asks for a read that begins from now on, and finds what was there at since;
// news says that there is something. It reports whether the owner is to begin one.
func (c *catchUp) ask(since moment, news bool) (begin bool) {
	c.since, c.news = max(c.since, since), c.news || news
	if c.running() {
		c.state = again
		return false
	}
	c.state = reading
	c.number++
	return true
}

// running reports whether a read runs.
func (c *catchUp) running() bool { return c.state == reading || c.state == again }

// covering is the number of the first read that begins after the last ask.
func (c *catchUp) covering() uint64 {
	if c.state == again {
		return c.number + 1
	}
	return c.number
}

// ended takes note that the read came to the log's end, in answer to a mark. It
// reports whether another one is to follow.
func (c *catchUp) ended(mark uint64) (more bool) {
	more = c.state == again
	c.state = still
	c.answered = max(c.answered, mark)
	return more
}

// failed takes note that the read failed. Where somebody wants to hear, another
// one follows: it reports whether the owner is to set the timer for it.
func (c *catchUp) failed(heard bool) (timer bool) {
	if !heard {
		c.state = resting
		return false
	}
	c.state = pausing
	timer = !c.timed
	c.timed = true
	return timer
}

// timer takes note that the timer of a pause has come. It reports whether the
// owner is to begin a read.
func (c *catchUp) timer() (begin bool) {
	c.timed = false
	return c.state == pausing && c.ask(0, false)
}

// want notes a mark that the replica waits for, and reports whether it is a new
// one: then the owner asks for a read, or holds it back.
func (c *catchUp) want(mark uint64) bool {
	if mark <= c.wanted {
		return false
	}
	c.wanted = mark
	return true
}

// wants reports whether the replica waits for a read.
func (c *catchUp) wants() bool { return c.wanted > c.answered }

// hold lets what is wanted wait until somebody asks.
func (c *catchUp) hold() { c.state = resting }

// replaced: another replica took the place of the one that the reads so far were
// begun for. What it wants it says itself.
func (c *catchUp) replaced() {
	c.wanted, c.answered, c.void = 0, 0, c.number
}

// isVoid reports whether the read that runs was begun for a replica that is gone.
func (c *catchUp) isVoid() bool { return c.number <= c.void }

// through reports whether a read with that number, or a later one, has ended.
func (c *catchUp) through(number uint64) bool {
	return number < c.number || number == c.number && !c.running()
}
