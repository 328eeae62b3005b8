package jetstream_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// cluster is three servers in this process, joined over loopback.
type cluster struct{ servers []*server.Server }

func startCluster(t *testing.T) *cluster {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		l.Close()
	}
	c := &cluster{}
	for n, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", n),
			Host:       "127.0.0.1",
			Port:       server.RANDOM_PORT,
			NoSigs:     true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
			MaxPayload: 8 << 20,
			Cluster:    server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:     routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		go s.Start()
		c.servers = append(c.servers, s)
	}
	for _, s := range c.servers {
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("a server of the cluster did not start")
		}
	}
	return c
}

func (c *cluster) url() string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, s.ClientURL())
	}
	return strings.Join(urls, ",")
}

// The contract on three replicas, where followers answer reads and may lag.
func TestContractCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var made atomic.Int32
	next := func() string { return fmt.Sprintf("D%d", made.Add(1)) }
	bustest.RunOn(t, 2, func(t *testing.T, shards int) bustest.Harness {
		cfg := jetstream.Config{URL: c.url(), Shards: shards, Replicas: 3, Deployment: next(), RetryFor: 25 * time.Second}
		return bustest.Harness{
			Bus:     open(t, cfg),
			Connect: func(t *testing.T) bus.Bus { return open(t, cfg) },
			Full: func(t *testing.T) bus.Bus {
				cfg := cfg
				cfg.Deployment, cfg.MaxBytes = next(), 1<<20
				return open(t, cfg)
			},
		}
	})
}

// B1: one of three servers, the leader, goes away: publishing pauses and no
// publish fails, no envelope is lost or doubled.
func TestLeaderLossFailsNoPublish(t *testing.T) {
	const writers, each = 4, 100
	t.Parallel()
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b := open(t, jetstream.Config{URL: c.url(), Replicas: 3, RetryFor: 25 * time.Second})
	f, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if err := f.Follow(ctx, 0, messagesOf(t, w)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := b.Publish(ctx, messagesOf(t, w), fmt.Appendf(nil, "%d/%d", w, i)); err != nil {
					t.Errorf("publish: %v", err)
					return
				}
			}
		})
	}
	seen := make(map[string]bool)
	var leader *server.Server
	for len(seen) < writers*each {
		batch, err := f.Next(ctx)
		if err != nil {
			t.Logf("next: %v", err)
			if ctx.Err() != nil {
				t.Fatalf("%d of %d arrived", len(seen), writers*each)
			}
			continue
		}
		for _, e := range batch {
			if seen[string(e.Payload)] {
				t.Fatalf("%s arrived twice", e.Payload)
			}
			seen[string(e.Payload)] = true
		}
		if leader == nil && len(seen) > writers*each/3 {
			for _, s := range c.servers {
				if s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "CONCLAVE_0") {
					leader = s
				}
			}
			if leader == nil {
				t.Fatal("no leader")
			}
			leader.Shutdown()
		}
	}
	wg.Wait()
}
