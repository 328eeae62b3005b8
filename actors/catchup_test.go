package actors

import "testing"

// Which event leads from which state to which, and when the owner begins a read
// or sets a timer: the table of catchup.go, line by line.
func TestCatchUp(t *testing.T) {
	type event func(*catchUp) bool
	ask := func(c *catchUp) bool { return c.ask(1, false) }
	ended := func(c *catchUp) bool { return c.ended(0) }
	heard := func(c *catchUp) bool { return c.failed(true) }
	unheard := func(c *catchUp) bool { return c.failed(false) }
	timer := func(c *catchUp) bool { return c.timer() }
	hold := func(c *catchUp) bool { c.hold(); return false }
	for _, c := range []struct {
		name  string
		from  readState
		event event
		to    readState
		says  bool // begin, another one, or set the timer
	}{
		{"nobody has asked, and somebody asks", still, ask, reading, true},
		{"asked while a read runs", reading, ask, again, false},
		{"asked more than once while a read runs", again, ask, again, false},
		{"asked during a pause", pausing, ask, reading, true},
		{"asked while what is wanted waits", resting, ask, reading, true},
		{"a read ends", reading, ended, still, false},
		{"a read ends that is to be followed by another", again, ended, still, true},
		{"a read fails, and somebody listens", reading, heard, pausing, true},
		{"a read fails that was to be followed by another", again, heard, pausing, true},
		{"a read fails, and nobody listens", reading, unheard, resting, false},
		{"a pause is over", pausing, timer, reading, true},
		{"a pause is over, and nothing is wanted any more", still, timer, still, false},
		{"a pause is over, and a read runs already", reading, timer, reading, false},
		{"a pause is over for one that rests", resting, timer, resting, false},
		{"what is wanted is to wait", still, hold, resting, false},
	} {
		log := catchUp{state: c.from, number: 7}
		if says := c.event(&log); log.state != c.to || says != c.says {
			t.Errorf("%s: from state %d to %d saying %v, want %d saying %v", c.name, c.from, log.state, says, c.to, c.says)
		}
	}
}

// Who asks waits for the first read that begins from then on, whatever fails in
// between.
func TestCatchUpNumbers(t *testing.T) {
	var c catchUp
	c.ask(1, false)
	first := c.covering()
	c.ask(2, true)
	second := c.covering()
	if first == second || c.through(first) {
		t.Fatalf("read %d runs, and read %d is to follow it: %v has ended", first, second, first)
	}
	if c.ended(0); !c.through(first) || c.through(second) {
		t.Error("the first read has ended, and no other")
	}
	c.ask(0, false)
	if c.since != 2 || !c.news {
		t.Errorf("the read after it is to find what was there at %d, news %v", c.since, c.news)
	}
	if timer := c.failed(true); !timer {
		t.Error("a read that failed is followed by nothing")
	}
	c.ask(0, false)
	if timer := c.failed(true); timer {
		t.Error("a second timer is set beside the first")
	}
	c.ask(0, false)
	if c.ended(0); !c.through(second) {
		t.Error("the second read has ended")
	}
}

// Marks are answered by a read that was begun for them, and none by a read that
// was begun for another replica.
func TestCatchUpMarks(t *testing.T) {
	var c catchUp
	if !c.want(3) || c.want(3) || c.want(2) || !c.wants() {
		t.Error("a mark is news once")
	}
	c.ask(0, false)
	c.want(4)
	if c.ended(3); !c.wants() {
		t.Error("a read answered a mark that came after it had begun")
	}
	c.ask(0, false)
	c.replaced()
	if !c.isVoid() || c.wants() {
		t.Error("the replica that a read was begun for is gone, and so is what it wanted")
	}
	c.ended(0)
	if c.ask(0, false); c.isVoid() {
		t.Error("the next read is the new replica's")
	}
}
