package node_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Welcomes lie under any 32 bytes: a pointer leads to a place that no
// installation has.
func TestWelcomes(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	v1 := &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: id32(1), Data: []byte("data"), HpkePublicKey: []byte("key"), WelcomeMetadata: []byte("metadata"),
	}
	pointee := &mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(2), Data: []byte("shared"), WrapperAlgorithm: symmetricKey}
	leads := &mlsapi.WelcomeMessageInput_WelcomePointer{
		InstallationKey: id32(1), WelcomePointer: []byte("pointer"), HpkePublicKey: []byte("key"), WrapperAlgorithm: xwingPointer,
	}
	if err := n.sendWelcomes(t.Context(), welcome(v1)); err != nil {
		t.Fatal(err)
	}
	if err := n.sendWelcomes(t.Context(), welcome(pointee), pointer(leads)); err != nil {
		t.Fatal(err)
	}
	got := n.welcomes(t, id32(1))
	if len(got) != 2 {
		t.Fatalf("%d welcomes", len(got))
	}
	created := uint64(now.UnixNano())
	if g := got[0].GetV1(); !proto.Equal(g, &mlsapi.WelcomeMessage_V1{
		Id: g.GetId(), CreatedNs: created, InstallationKey: id32(1), Data: []byte("data"), HpkePublicKey: []byte("key"),
		WrapperAlgorithm: curve25519, // what an old client means by naming none
		WelcomeMetadata:  []byte("metadata"),
	}) {
		t.Errorf("got %v", g)
	}
	if g := got[1].GetWelcomePointer(); g.GetId() <= got[0].GetV1().GetId() || !proto.Equal(g, &mlsapi.WelcomeMessage_WelcomePointer{
		Id: g.GetId(), CreatedNs: created, InstallationKey: id32(1), WelcomePointer: []byte("pointer"), HpkePublicKey: []byte("key"),
		WrapperAlgorithm: xwingPointer,
	}) {
		t.Errorf("got %v", g)
	}
	if got := n.welcomes(t, id32(2)); len(got) != 1 || string(got[0].GetV1().GetData()) != "shared" || got[0].GetV1().GetWrapperAlgorithm() != symmetricKey {
		t.Errorf("at the random place: %v", got)
	}
}

// W11, B9: of a request with one bad welcome nothing is stored.
func TestBadWelcomesAreRefused(t *testing.T) {
	const limit = 4096
	n := newNetwork(t, memory.Config{Shards: 4, MaxPayload: limit}, node.Limits{})
	type v1 = mlsapi.WelcomeMessageInput_V1
	type leads = mlsapi.WelcomeMessageInput_WelcomePointer
	key, data := []byte("key"), []byte("data")
	good := welcome(&v1{InstallationKey: id32(1), Data: data, HpkePublicKey: key})
	for name, bad := range map[string]*mlsapi.WelcomeMessageInput{
		"nil":                   nil,
		"no version":            {},
		"no data":               welcome(&v1{InstallationKey: id32(1), HpkePublicKey: key}),
		"no installation":       welcome(&v1{Data: data, HpkePublicKey: key}),
		"installation of 31":    welcome(&v1{InstallationKey: id32(1)[:31], Data: data, HpkePublicKey: key}),
		"no key":                welcome(&v1{InstallationKey: id32(1), Data: data, WrapperAlgorithm: curve25519}),
		"over the limit":        welcome(&v1{InstallationKey: id32(1), Data: make([]byte, limit), HpkePublicKey: key}),
		"nil pointer":           pointer(nil),
		"empty pointer":         pointer(&leads{InstallationKey: id32(1), HpkePublicKey: key, WrapperAlgorithm: xwingPointer}),
		"pointer for nobody":    pointer(&leads{WelcomePointer: data, HpkePublicKey: key, WrapperAlgorithm: xwingPointer}),
		"pointer without a key": pointer(&leads{InstallationKey: id32(1), WelcomePointer: data, WrapperAlgorithm: xwingPointer}),
		"pointer not wrapped":   pointer(&leads{InstallationKey: id32(1), WelcomePointer: data, HpkePublicKey: key}),
		"pointer by algorithm 1": pointer(&leads{
			InstallationKey: id32(1), WelcomePointer: data, HpkePublicKey: key, WrapperAlgorithm: 1,
		}),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.sendWelcomes(t.Context(), good, bad), bus.CodeInvalid)
		})
	}
	wantCode(t, n.sendWelcomes(t.Context()), bus.CodeInvalid)
	wantCode(t, n.sendWelcomes(t.Context(), make([]*mlsapi.WelcomeMessageInput, 257)...), bus.CodeInvalid)
	nothingStored(t, n.Bus)
}

func TestRealWelcomes(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	files := captured(t, "welcome_*.bin")
	for _, b := range files {
		sent := new(mlsapi.WelcomeMessageInput)
		if err := proto.Unmarshal(b, sent); err != nil {
			t.Fatal(err)
		}
		if err := n.sendWelcomes(t.Context(), sent); err != nil {
			t.Fatal(err)
		}
		var topic []byte
		if topic = sent.GetV1().GetInstallationKey(); topic == nil {
			topic = sent.GetWelcomePointer().GetInstallationKey()
		}
		all := n.welcomes(t, topic)
		got := all[len(all)-1]
		again := new(mlsapi.WelcomeMessageInput)
		if v1 := got.GetV1(); v1 != nil {
			again = welcome(&mlsapi.WelcomeMessageInput_V1{
				InstallationKey: v1.InstallationKey, Data: v1.Data, HpkePublicKey: v1.HpkePublicKey,
				WrapperAlgorithm: v1.WrapperAlgorithm, WelcomeMetadata: v1.WelcomeMetadata,
			})
		} else if p := got.GetWelcomePointer(); p != nil {
			again = pointer(&mlsapi.WelcomeMessageInput_WelcomePointer{
				InstallationKey: p.InstallationKey, WelcomePointer: p.WelcomePointer, HpkePublicKey: p.HpkePublicKey, WrapperAlgorithm: p.WrapperAlgorithm,
			})
		}
		if !proto.Equal(again, sent) {
			t.Error("a welcome came back changed")
		}
	}
	t.Logf("%d welcomes", len(files))
}
