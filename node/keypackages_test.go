package node_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func (n *network) fetch(t testing.TB, installations ...[]byte) [][]byte {
	t.Helper()
	got, err := n.FetchKeyPackages(t.Context(), installations)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The newest key package is served, again and again, in the order asked, and an
// empty place stands for an installation without one. It may come before its
// inbox does.
func TestKeyPackages(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	other := serveOn(t, n.Connect(), nil, node.Limits{CachedKeyPackages: 1})
	p, q, absent := newPerson(t), newPerson(t), newPerson(t)
	first, second := p.keyPackage(t, now.Add(-time.Minute)), p.keyPackage(t, now)
	ofQ := q.keyPackage(t, now)
	for _, kp := range [][]byte{first, first, ofQ, second} {
		if err := n.UploadKeyPackage(t.Context(), kp); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		got := other.fetch(t, q.appID.Bytes(), absent.appID.Bytes(), p.appID.Bytes(), q.appID.Bytes())
		want := [][]byte{ofQ, nil, second, ofQ}
		for i := range want {
			if len(got) != len(want) || !bytes.Equal(got[i], want[i]) {
				t.Fatalf("answer %d of %d is not the one expected", i, len(got))
			}
		}
	}
	if got := n.fetch(t); len(got) != 0 {
		t.Errorf("asked for nothing, got %d", len(got))
	}
	// Somebody kept an older one, whose private keys are gone.
	wantCode(t, n.UploadKeyPackage(t.Context(), first), bus.CodeInvalid)
}

// W13: what nobody could be added by is refused.
func TestBadKeyPackagesAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p := newPerson(t)
	good := p.keyPackage(t, now)
	flipped := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	unnamed := *p
	unnamed.inbox = "nobody"
	for name, b := range map[string][]byte{
		"nothing":        nil,
		"cut":            good[:len(good)-1],
		"trailing byte":  append(bytes.Clone(good), 0),
		"other suite":    flipped(3),
		"bit flipped":    flipped(len(good) / 2),
		"bad signature":  flipped(len(good) - 1),
		"expired":        p.keyPackage(t, now.Add(-85*24*time.Hour)),
		"not yet valid":  p.keyPackage(t, now.Add(2*time.Hour)),
		"no inbox id":    unnamed.keyPackage(t, now),
		"over the limit": make([]byte, 17<<10),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.UploadKeyPackage(t.Context(), b), bus.CodeInvalid)
		})
	}
	if got := n.fetch(t, p.appID.Bytes()); got[0] != nil {
		t.Error("a refused key package is served")
	}
	_, err := n.FetchKeyPackages(t.Context(), [][]byte{{1}})
	wantCode(t, err, bus.CodeInvalid)
	request, err := proto.Marshal(&mlsapi.FetchKeyPackagesRequest{InstallationKeys: make([][]byte, node.MaxAsked+1)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Request(t.Context(), bus.FetchKeyPackages, request)
	wantCode(t, err, bus.CodeInvalid)
}

// A key package leaves the log when its lifetime ends.
func TestExpiredKeyPackageIsForgotten(t *testing.T) {
	clock := now
	n := newNetwork(t, memory.Config{Now: func() time.Time { return clock }}, node.Limits{})
	p := newPerson(t)
	if err := n.UploadKeyPackage(t.Context(), p.keyPackage(t, now)); err != nil {
		t.Fatal(err)
	}
	clock = now.Add(83 * 24 * time.Hour)
	if got := n.fetch(t, p.appID.Bytes()); got[0] == nil {
		t.Error("forgotten before its time")
	}
	clock = now.Add(85 * 24 * time.Hour)
	if got := n.fetch(t, p.appID.Bytes()); got[0] != nil {
		t.Error("served after its lifetime")
	}
}

// Hundreds are fetched in as many requests as needed.
func TestFetchOfMany(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	var keys, want [][]byte
	for i := range 400 {
		p := newPerson(t)
		var kp []byte
		if i%40 == 0 {
			kp = p.keyPackage(t, now)
			if err := n.UploadKeyPackage(t.Context(), kp); err != nil {
				t.Fatal(err)
			}
		}
		keys, want = append(keys, p.appID.Bytes()), append(want, kp)
	}
	for i, got := range n.fetch(t, keys...) {
		if !bytes.Equal(got, want[i]) {
			t.Errorf("answer %d is another's", i)
		}
	}
}

// What real clients upload is accepted at the time when they did.
func TestRealKeyPackages(t *testing.T) {
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS is not set (official files: github.com/mlswg/mls-implementations test-vectors; these lie beside them in xmtp/)")
	}
	b, err := os.ReadFile(filepath.Join(dir, "xmtp", "key-packages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		KeyPackages []struct {
			InstallationKey string `json:"installation_key"`
			UploadedNs      string `json:"uploaded_ns"`
			KeyPackage      string `json:"key_package"`
		} `json:"key_packages"`
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.KeyPackages) == 0 {
		t.Fatal(err)
	}
	log := memory.New(memory.Config{})
	defer log.Close()
	var at time.Time
	served, err := node.Serve(t.Context(), log, node.Config{Verifier: ethereum.Verifier{}, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	n := &network{log, node.NewClient(log), served}
	for _, k := range file.KeyPackages {
		ns, err := strconv.ParseInt(k.UploadedNs, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		at = time.Unix(0, ns)
		kp, err := hex.DecodeString(k.KeyPackage)
		if err != nil {
			t.Fatal(err)
		}
		key, err := hex.DecodeString(k.InstallationKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.UploadKeyPackage(t.Context(), kp); err != nil {
			t.Errorf("%s: %v", k.InstallationKey, err)
			continue
		}
		if got := n.fetch(t, key); !bytes.Equal(got[0], kp) {
			t.Errorf("%s: served in other bytes", k.InstallationKey)
		}
	}
}
