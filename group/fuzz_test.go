package group

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// Whatever bytes come from outside: no panic, and what is accepted can be
// written and read again.

func FuzzPermissions(f *testing.F) {
	for _, p := range []Permissions{PresetDefault.Permissions(), PresetAdminOnly.Permissions(), dmPermissions()} {
		f.Add(p.encode())
	}
	nested := Policy{Rule: Allow}
	for range maxPolicyDepth + 1 {
		nested = Policy{All: []Policy{nested}}
	}
	deep := PresetDefault.Permissions()
	deep.AddMember = nested
	f.Add(deep.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePermissions(b)
		if err != nil {
			return
		}
		again, err := decodePermissions(p.encode())
		if err != nil || !again.equal(p) {
			t.Fatalf("does not survive encoding: %v", err)
		}
		for role := Member; role <= SuperAdmin; role++ {
			_ = p.AddMember.permits(role)
			_ = p.metadataPolicy("_x").permits(role)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	exts := firstExtensions(CreateConfig{Kind: KindGroup, Name: "name"}, "creator", "signer")
	f.Add(exts[0].Data, exts[1].Data, exts[2].Data, exts[3].Data)
	dm := firstExtensions(CreateConfig{Kind: KindDM, Peer: "peer"}, "creator", "signer")
	f.Add(dm[0].Data, dm[1].Data, dm[2].Data, dm[3].Data)
	f.Fuzz(func(t *testing.T, immutable, mutable, membership, permissions []byte) {
		exts := mls.Extensions{{Type: extImmutableMetadata, Data: immutable}, {Type: extMutableMetadata, Data: mutable},
			{Type: extMembership, Data: membership}, {Type: extPermissions, Data: permissions}}
		m, err := decodeMetadata(exts)
		if err != nil {
			return
		}
		edited, err := editMutable(mutable, func(p *contents.GroupMutableMetadataV1) { p.Attributes["k"] = "v" })
		if err != nil {
			t.Fatal(err)
		}
		after, err := decodeMetadata(replaceExtension(exts, extMutableMetadata, edited))
		if err != nil || after.Attributes["k"] != "v" {
			t.Fatalf("edited: %v", err)
		}
		_ = transcriptOf("actor", m, after, nil)
		_ = checkKind(m, "a", "b")
	})
}

func FuzzMembership(f *testing.F) {
	f.Add(encodeMembership(map[string]uint64{"a": 1, "b": 2}, [][]byte{{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Metadata
		if m.decodeMembership(b) != nil {
			return
		}
		first := encodeMembership(m.Members, m.Failed)
		if err := again.decodeMembership(first); err != nil || !bytes.Equal(encodeMembership(again.Members, again.Failed), first) {
			t.Fatalf("equal lists in different bytes: %v", err)
		}
	})
}

func FuzzPlaintext(f *testing.F) {
	f.Add(encodePlaintext("key", []byte("content")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		key, content, err := decodePlaintext(b)
		// The hand-made reader and protobuf's own agree wherever both accept.
		var p contents.PlaintextEnvelope
		if e := proto.Unmarshal(b, &p); e == nil {
			v1 := p.GetV1()
			if (v1 != nil) != (err == nil) || v1.GetIdempotencyKey() != key || !bytes.Equal(v1.GetContent(), content) {
				t.Fatalf("read %q %x %v, protobuf %v", key, content, err, v1)
			}
		}
		if err != nil {
			return
		}
		k, c, err := decodePlaintext(encodePlaintext(key, content))
		if err != nil || k != key || !bytes.Equal(c, content) {
			t.Fatalf("does not survive encoding: %v", err)
		}
		_ = isLeaveRequest(content)
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add([]byte("\x0a\x00"))
	f.Add([]byte("\x12\x00"))
	secrets := &KeyPackageSecrets{
		KeyPackage:  &KeyPackage{MLS: &mls.KeyPackage{InitKey: make([]byte, 32)}, wrapper: make([]byte, 1216)},
		MLS:         &mls.KeyPackageSecrets{InitKey: make([]byte, 32)},
		WelcomeSeed: make([]byte, 32),
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseWelcome(b)
		if err != nil {
			return
		}
		if _, err := OpenWelcome(e, secrets); err == nil {
			t.Fatal("opened")
		}
		if _, err := OpenPointer(e, secrets); err == nil {
			t.Fatal("opened")
		}
		p := &WelcomePointer{key: make([]byte, 32), dataNonce: make([]byte, 12), metadataNonce: make([]byte, 12)}
		_, _ = p.Open(e)
	})
}

func FuzzKeyPackage(f *testing.F) {
	f.Add([]byte{0, 1, 0, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeyPackage(nil, b); err == nil {
			_ = joinerOf(k)
		}
		_, _ = UnmarshalKeyPackageSecrets(b)
	})
}

// FuzzRows: the store is sealed, but a row of another version must be an error
// and not a panic.
func FuzzRows(f *testing.F) {
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Replica
		_ = r.decodeMeta(b)
		_, _ = r.decodeDraft(1, b)
		_, _ = decodeIntent(1, b)
		_, _ = decodeSealed(b, true)
		_, _ = decodeIndex(Position{}.key(), b)
	})
}
