package bus_test

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/bus"
)

var builders = map[string]struct {
	build func([]byte) (bus.Topic, error)
	kind  bus.Kind
	size  int
	form  string
}{
	"commits":      {bus.CommitsOf, bus.GroupCommits, 16, `^g\.[0-9a-f]{32}\.c$`},
	"messages":     {bus.MessagesOf, bus.GroupMessages, 16, `^g\.[0-9a-f]{32}\.a$`},
	"commit log":   {bus.CommitLogOf, bus.CommitLog, 16, `^g\.[0-9a-f]{32}\.l$`},
	"reads":        {bus.ReadsOf, bus.GroupReads, 16, `^g\.[0-9a-f]{32}\.r$`},
	"welcomes":     {bus.WelcomesFor, bus.Welcomes, 32, `^w\.[0-9a-f]{64}$`},
	"identity":     {bus.IdentityOf, bus.Identity, 32, `^i\.[0-9a-f]{64}$`},
	"key packages": {bus.KeyPackagesOf, bus.KeyPackages, 32, `^k\.[0-9a-f]{64}$`},
}

// B6: whatever the id's bytes are, the subject is lower-case hex of one length,
// and is read back as the same topic.
func TestTopicOfAnyIDIsOneHexToken(t *testing.T) {
	for name, b := range builders {
		form := regexp.MustCompile(b.form)
		for _, fill := range []string{"\x00", "*", ">", " ", ".", "\n", "\xff", "a"} {
			id := []byte(strings.Repeat(fill, b.size))
			topic, err := b.build(id)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !form.MatchString(topic.String()) {
				t.Errorf("%s of %q is %q", name, id, topic)
			}
			if topic.Kind() != b.kind || !bytes.Equal(topic.ID(), id) {
				t.Errorf("%s of %q: kind %d, id %q", name, id, topic.Kind(), topic.ID())
			}
			if back, err := bus.ParseTopic(topic.String()); err != nil || back != topic {
				t.Errorf("%q read back as %v, %v", topic, back, err)
			}
		}
	}
}

func TestIDsOfAnotherLengthAreRefused(t *testing.T) {
	for name, b := range builders {
		for _, size := range []int{0, 1, b.size - 1, b.size + 1, 64} {
			if _, err := b.build(make([]byte, size)); !errors.Is(err, bus.ErrBadTopic) {
				t.Errorf("%s of %d bytes: %v", name, size, err)
			}
		}
	}
}

func TestTopicIDIsACopy(t *testing.T) {
	topic, err := bus.WelcomesFor(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	topic.ID()[0] = 1
	if topic.ID()[0] != 0 {
		t.Error("a topic was changed through its ID")
	}
}

func TestStringsThatNoBuilderMadeAreRefused(t *testing.T) {
	hex16, hex32 := strings.Repeat("0a", 16), strings.Repeat("0a", 32)
	for _, s := range []string{
		"", "g", "g.", ".", "*", ">", "g.>", "g.*.c", "w.*", "w." + hex16, "g." + hex32 + ".c",
		"g." + hex16, "g." + hex16 + ".", "g." + hex16 + ".b", "g." + hex16 + ".cc", "g." + hex16 + "xc",
		"x." + hex32, "W." + hex32, "w." + strings.ToUpper(hex32), "w." + hex32 + " ", " w." + hex32,
		"w." + hex32[:63] + "g", "w." + hex32[:63] + "*", "w." + hex32[:63] + "\x00", "w-" + hex32, "invalid",
		bus.Topic{}.String(),
	} {
		if topic, err := bus.ParseTopic(s); !errors.Is(err, bus.ErrBadTopic) {
			t.Errorf("%q parsed as %v, %v", s, topic, err)
		}
	}
}

// B6, B9: ParseTopic accepts what String returns and nothing else.
func FuzzParseTopic(f *testing.F) {
	f.Add("g." + strings.Repeat("0", 32) + ".c")
	f.Add("g." + strings.Repeat("*", 32) + ".a")
	f.Add("w." + strings.Repeat("f", 64))
	f.Add("i.>")
	f.Add("k. \x00")
	safe := regexp.MustCompile(`^[gwik](\.[0-9a-f]+)(\.[cal])?$`)
	f.Fuzz(func(t *testing.T, s string) {
		topic, err := bus.ParseTopic(s)
		if err != nil {
			if topic != (bus.Topic{}) {
				t.Fatalf("%q: a topic beside an error", s)
			}
			return
		}
		if topic.String() != s || !safe.MatchString(s) {
			t.Fatalf("%q parsed as %q", s, topic)
		}
		if shard := bus.ShardOf(topic, 7); shard < 0 || shard >= 7 {
			t.Fatalf("%q in shard %d of 7", s, shard)
		}
	})
}

func TestIDHoldsSequenceAndShard(t *testing.T) {
	var before bus.ID
	for _, sequence := range []uint64{1, 2, 3, 1 << 20, 1<<57 - 1} {
		for shard := range bus.MaxShards {
			id := bus.MakeID(sequence, shard)
			if id.Sequence() != sequence || id.Shard() != shard {
				t.Fatalf("(%d, %d) came back as (%d, %d)", sequence, shard, id.Sequence(), id.Shard())
			}
			if id <= before {
				t.Fatalf("%d after %d", id, before)
			}
			if int64(id) <= 0 {
				t.Fatalf("%d does not fit an int64", id)
			}
			before = id
		}
	}
}

func TestTopicsOfAGroupMeetInOneShard(t *testing.T) {
	count := make([]int, 8)
	for n := range 800 {
		id := bytes.Repeat([]byte{byte(n), byte(n >> 8), byte(n * 7), byte(n * 31)}, 4)
		c, err := bus.CommitsOf(id)
		if err != nil {
			t.Fatal(err)
		}
		m, err := bus.MessagesOf(id)
		if err != nil {
			t.Fatal(err)
		}
		shard := bus.ShardOf(c, 8)
		if shard != bus.ShardOf(m, 8) {
			t.Fatalf("group %d: commits in shard %d, messages in %d", n, shard, bus.ShardOf(m, 8))
		}
		if bus.ShardOf(c, 1) != 0 {
			t.Fatal("one shard has the number 0")
		}
		count[shard]++
	}
	for shard, n := range count {
		if n == 0 {
			t.Errorf("shard %d holds no group", shard)
		}
	}
}

func TestOneShardNamesTheShardOrTheFault(t *testing.T) {
	topic := func(first byte) bus.Topic {
		topic, err := bus.MessagesOf(append([]byte{0, 0, 0, first}, make([]byte, 12)...))
		if err != nil {
			t.Fatal(err)
		}
		return topic
	}
	for _, c := range []struct {
		name   string
		shards int
		after  bus.ID
		topics []bus.Topic
		want   int // -1: an error
	}{
		{"one topic", 4, 0, []bus.Topic{topic(6)}, 2},
		{"two topics of it", 4, 0, []bus.Topic{topic(6), topic(2)}, 2},
		{"a position in it", 4, bus.MakeID(9, 2), []bus.Topic{topic(6)}, 2},
		{"no topic", 4, 0, nil, -1},
		{"the zero topic", 4, 0, []bus.Topic{{}}, -1},
		{"two shards", 4, 0, []bus.Topic{topic(6), topic(1)}, -1},
		{"a position elsewhere", 4, bus.MakeID(9, 1), []bus.Topic{topic(6)}, -1},
	} {
		got, err := bus.OneShard(c.shards, c.after, c.topics...)
		if c.want < 0 && !errors.Is(err, bus.ErrBadTopic) || c.want >= 0 && (err != nil || got != c.want) {
			t.Errorf("%s: %d, %v", c.name, got, err)
		}
	}
}
