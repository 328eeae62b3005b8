package xmtp

import "github.com/conclave-chat/conclave/bus"

// lanes are a feed's two streams of one kind. A log that is followed anew goes to the
// young lane, which has few logs and is therefore opened again quickly. When the young
// lane has grown past mostYoung, all its logs move to the main one. So a new log is
// followed at once, and the stream of the thousands of others is seldom opened again.
//
// All methods are called with feed.mu held.
type lanes struct{ main, young *lane }

// mostYoung is how many logs the young lane may have beside an eighth of those
// of the main one.
const mostYoung = 64

func (p lanes) both() [2]*lane { return [2]*lane{p.main, p.young} }

// add follows topics of a log.
func (p lanes) add(log logID, after bus.ID, topics []bus.Topic) {
	if p.main.covers(log, after) {
		p.main.add(log, after, topics)
		return
	}
	p.main.move(log, p.young) // all topics of a log are in one lane
	p.young.add(log, after, topics)
	if len(p.young.logs) > mostYoung+len(p.main.logs)/8 {
		for log := range p.young.logs {
			p.young.move(log, p.main)
		}
	}
}

// remove unfollows a topic.
func (p lanes) remove(t bus.Topic) {
	for _, l := range p.both() {
		l.remove(t)
	}
}

// follower is the one by which a topic is followed now, nil where it is not.
func (p lanes) follower(t bus.Topic) *follower {
	for _, l := range p.both() {
		if s := l.logs[logOf(t)][t]; s != nil {
			return s
		}
	}
	return nil
}

// forget unfollows everything.
func (p lanes) forget() {
	for _, l := range p.both() {
		clear(l.logs)
		l.reopenSoon()
	}
}
