package mls

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// crowd is a group of n members in one realm: the creator and all whom its first
// commit has added.
type crowd struct {
	realm   *Realm
	rand    *rand.ChaCha8
	creator *Group
	first   *StagedCommit
	joiners []JoinConfig
}

const benchSuite = MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519

func newCrowd(t testing.TB, n int, level Level) *crowd {
	c := &crowd{realm: NewRealm(level), rand: rand.NewChaCha8([32]byte{1})}
	signer := must(GenerateSigner(benchSuite, c.rand))(t)
	c.creator = must(Create(CreateConfig{
		Realm: c.realm, Rand: c.rand, Suite: benchSuite, GroupID: []byte("crowd"), Signer: signer,
		Credential: BasicCredential([]byte("creator")), Capabilities: testCapabilities(benchSuite),
	}))(t)
	for i := range n - 1 {
		signer := must(GenerateSigner(benchSuite, c.rand))(t)
		k, secrets, err := NewKeyPackage(KeyPackageConfig{
			Rand: c.rand, Suite: benchSuite, Signer: signer,
			Credential: BasicCredential(fmt.Appendf(nil, "%064d", i)), Capabilities: testCapabilities(benchSuite),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.joiners = append(c.joiners, JoinConfig{Realm: c.realm, Signer: signer, KeyPackage: k, Secrets: secrets})
	}
	c.first = c.addAll(t)
	c.creator = must(c.creator.Merge(c.first))(t)
	return c
}

func (c *crowd) addAll(t testing.TB) *StagedCommit {
	config := CommitConfig{Rand: c.rand}
	for _, j := range c.joiners {
		config.Proposals = append(config.Proposals, Add{KeyPackage: must(c.realm.ParseKeyPackage(j.KeyPackage.Bytes()))(t)})
	}
	return must(c.creator.Commit(config))(t)
}

// join lets the first n joiners in.
func (c *crowd) join(t testing.TB, n int) []*Group {
	var members []*Group
	for _, j := range c.joiners[:n] {
		j.Welcome = must(c.realm.Parse(c.first.Welcome()))(t)
		g, _, err := Join(j)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, g)
	}
	return members
}

// Create a group and add 399 members with one commit and one Welcome.
func BenchmarkCreateAndAdd399(b *testing.B) {
	c := newCrowd(b, 400, Public)
	for b.Loop() {
		c.creator = must(Create(CreateConfig{
			Realm: c.realm, Rand: c.rand, Suite: benchSuite, GroupID: []byte("crowd"), Signer: c.creator.signer,
			Credential: BasicCredential([]byte("creator")), Capabilities: testCapabilities(benchSuite),
		}))(b)
		c.addAll(b)
	}
}

// One member joins a group of 400: the first of its realm, and a further one.
func BenchmarkJoin400(b *testing.B) {
	for _, level := range []Level{None, Public} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			c := newCrowd(b, 400, level)
			j := c.joiners[200]
			j.Welcome = must(c.realm.Parse(c.first.Welcome()))(b)
			keep, _, _ := Join(j)
			for b.Loop() {
				if _, _, err := Join(j); err != nil {
					b.Fatal(err)
				}
			}
			runtime.KeepAlive(keep)
		})
	}
}

// One member stages and merges a commit of another in a group of 400 that has
// no parent keys yet, and makes one.
func BenchmarkCommit400(b *testing.B) {
	for _, level := range []Level{None, Public} {
		c := newCrowd(b, 400, level)
		members := c.join(b, 3)
		s := must(members[0].Commit(CommitConfig{Rand: c.rand}))(b)
		m := must(c.realm.Parse(s.Message()))(b)
		b.Run(fmt.Sprintf("level=%d/receive", level), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, staged, err := members[2].Open(m)
				if err != nil {
					b.Fatal(err)
				}
				must(members[2].Merge(staged.(*StagedCommit)))(b)
			}
		})
		b.Run(fmt.Sprintf("level=%d/create", level), func(b *testing.B) {
			for b.Loop() {
				must(members[0].Commit(CommitConfig{Rand: c.rand}))(b)
			}
		})
	}
}

// The rows that a receiver of a commit stores, and a restart from them.
func BenchmarkRows400(b *testing.B) {
	c := newCrowd(b, 400, Public)
	members := c.join(b, 3)
	s := must(members[0].Commit(CommitConfig{Rand: c.rand}))(b)
	_, staged, err := members[2].Open(must(c.realm.Parse(s.Message()))(b))
	if err != nil {
		b.Fatal(err)
	}
	next := must(members[2].Merge(staged.(*StagedCommit)))(b)
	b.Run("epoch", func(b *testing.B) {
		for b.Loop() {
			next.Rows(members[2])
		}
		size := map[RowKind]int{}
		for _, r := range next.Rows(members[2]) {
			size[r.Kind] += len(r.Value)
		}
		b.ReportMetric(float64(size[RowTree]+size[RowEpoch]), "shared-B")
		b.ReportMetric(float64(size[RowMember]+size[RowOwn]), "own-B")
	})
	b.Run("restore", func(b *testing.B) {
		store := newRowStore()
		store.apply(b, members[2].Rows(nil))
		store.apply(b, next.Rows(members[2]))
		for b.Loop() {
			store.restore(b, c.realm, next.signer)
		}
	})
}

// A further member of a group of 400 in the same realm costs little memory: it
// has its own keys, and shares the tree.
func TestFurtherMemberIsSmall(t *testing.T) {
	const n = 400
	c := newCrowd(t, n, Public)
	message := func(members []*Group) *Message {
		s := must(members[7].Commit(CommitConfig{Rand: c.rand}))(t)
		return must(c.realm.Parse(s.Message()))(t)
	}
	before := heap()
	members := c.join(t, n-1)
	joined := heap()
	m := message(members)
	for i, g := range members {
		if i == 7 {
			continue
		}
		_, s, err := g.Open(m)
		if err != nil {
			t.Fatal(err)
		}
		members[i] = must(g.Merge(s.(*StagedCommit)))(t)
	}
	moved := heap()
	// The shared part, the tree of the first joiner included, is in these too.
	t.Logf("after joining %d B a member, one epoch later %d B", (joined-before)/n, (moved-before)/n)
	if each := (moved - before) / n; each > 20<<10 {
		t.Errorf("%d bytes a member", each)
	}
	runtime.KeepAlive(members)
	runtime.KeepAlive(c)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
