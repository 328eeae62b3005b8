package mls

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// testEpoch is what framing needs of an epoch: two members, whose signature key
// is the same, and the state of a receiver.
type testEpoch struct {
	context *GroupContext
	encoded []byte
	secrets *epochSecrets
	tree    secretTree
	signer  *Signer
}

func newTestEpoch(t testing.TB) *testEpoch {
	t.Helper()
	c := &GroupContext{CipherSuite: suite3, GroupID: []byte("group"), Epoch: 7, TreeHash: []byte("tree")}
	e, encryption := suite3.newEpochSecrets(bytes.Repeat([]byte{5}, hashSize))
	return &testEpoch{
		context: c, encoded: c.append(nil), secrets: e,
		tree:   newSecretTree(suite3, encryption, 400),
		signer: testSigner(t),
	}
}

func (e *testEpoch) sign(t testing.TB, f framedContent, w WireFormat) *authenticatedContent {
	t.Helper()
	a, err := f.sign(suite3, e.signer, w, e.encoded)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// seal makes a private application message of leaf 123, from the receiver's
// tree: its next key.
func (e *testEpoch) seal(t testing.TB, data string, padding int) []byte {
	t.Helper()
	a := e.sign(t, e.context.content(memberSender(123), []byte("aad")).withApplication([]byte(data)), WirePrivateMessage)
	_, message, err := e.secrets.sealPrivate(rand.Reader, e.tree, a, padding)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// open is the receiver's way, to the verified content.
func (e *testEpoch) open(message []byte) (*authenticatedContent, error) {
	m, err := parseMessage(message)
	if err != nil {
		return nil, err
	}
	var u *unverifiedContent
	if m.public != nil {
		u, err = m.public.open(e.secrets, e.encoded)
	} else {
		d, err := m.private.senderData(e.secrets)
		if err != nil {
			return nil, err
		}
		_, u, err = m.private.open(e.tree, d)
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	return u.verify(nil, suite3, e.signer.public, e.encoded)
}

func (e *testEpoch) publicProposal(t testing.TB) (*authenticatedContent, []byte) {
	t.Helper()
	a := e.sign(t, e.context.content(memberSender(1), nil).withProposal(Remove{Removed: 3}), WirePublicMessage)
	return a, e.secrets.sealPublic(a, e.encoded)
}

func TestAnyChangedByteIsRefused(t *testing.T) {
	e := newTestEpoch(t)
	_, public := e.publicProposal(t)
	for name, message := range map[string][]byte{"private": e.seal(t, "hello", 3), "public": public} {
		if _, err := e.open(message); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range message {
			changed := bytes.Clone(message)
			changed[i] ^= 0x01
			if _, err := e.open(changed); err == nil {
				t.Errorf("%s: byte %d of %d changed, and nobody noticed", name, i, len(message))
			}
			if _, err := e.open(message[:i]); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: cut to %d bytes: %v", name, i, err)
			}
		}
		if _, err := e.open(append(bytes.Clone(message), 0)); !errors.Is(err, errTrailing) {
			t.Errorf("%s: with a byte more: %v", name, err)
		}
	}
}

// A tag that is a prefix of the right one, or empty, is a wrong tag.
func TestTruncatedTagsAreRefused(t *testing.T) {
	e := newTestEpoch(t)
	a, _ := e.publicProposal(t)
	tag := e.secrets.membershipTag((*unverifiedContent)(a), e.encoded)
	confirmed := []byte("transcript")
	confirmation := e.secrets.confirmationTag(confirmed)
	for _, n := range []int{0, 1, hashSize - 1, hashSize + 1} {
		cut := func(b []byte) []byte { return append(bytes.Clone(b), 0)[:n] }
		m := publicMessage{content: unverifiedContent(*a), membershipTag: cut(tag)}
		if _, err := m.open(e.secrets, e.encoded); !errors.Is(err, errMembershipTag) {
			t.Errorf("membership tag of %d bytes: %v", n, err)
		}
		if err := e.secrets.verifyConfirmationTag(confirmed, cut(confirmation)); !errors.Is(err, errConfirmationTag) {
			t.Errorf("confirmation tag of %d bytes: %v", n, err)
		}
	}
	if err := e.secrets.verifyConfirmationTag(confirmed, confirmation); err != nil {
		t.Error(err)
	}
}

// The wire format is signed: a content sent one way cannot be wrapped again in
// the other.
func TestAPublicMessageCannotBeRewrappedAsPrivate(t *testing.T) {
	e := newTestEpoch(t)
	a, _ := e.publicProposal(t)
	_, message, err := e.secrets.sealPrivate(rand.Reader, e.tree, a, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.open(message); !errors.Is(err, errSignature) {
		t.Errorf("rewrapped: %v, want a signature error", err)
	}
}

// The GroupContext is signed: a member's content belongs to one epoch.
func TestAContentOfAnotherEpochDoesNotVerify(t *testing.T) {
	e := newTestEpoch(t)
	a, _ := e.publicProposal(t)
	u := (*unverifiedContent)(a)
	other := *e.context
	other.TreeHash = []byte("another tree")
	if _, err := u.verify(nil, suite3, e.signer.public, other.append(nil)); !errors.Is(err, errSignature) {
		t.Errorf("under another context: %v", err)
	}
	if _, err := u.verify(nil, suite3, e.signer.public, nil); !errors.Is(err, errSignature) {
		t.Errorf("without a context: %v", err)
	}
}

// A signature made for one kind of structure is none for another.
func TestSignatureLabelsSeparateStructures(t *testing.T) {
	e := newTestEpoch(t)
	a, _ := e.publicProposal(t)
	tbs := (*unverifiedContent)(a).tbs(e.encoded)
	for _, label := range []string{labelLeafNode, labelKeyPackage, labelGroupInfo} {
		if err := suite3.verifyWithLabel(e.signer.public, label, tbs, a.signature); !errors.Is(err, errSignature) {
			t.Errorf("under %s: %v", label, err)
		}
	}
}

func TestApplicationDataIsNeverPublic(t *testing.T) {
	e := newTestEpoch(t)
	f := e.context.content(memberSender(1), nil).withApplication([]byte("secret"))
	if _, err := f.sign(suite3, e.signer, WirePublicMessage, e.encoded); !errors.Is(err, errApplicationInPublic) {
		t.Errorf("sign: %v", err)
	}
	a := e.sign(t, f, WirePrivateMessage)
	a.wire = WirePublicMessage
	if _, err := e.open(e.secrets.sealPublic(a, e.encoded)); !errors.Is(err, errApplicationInPublic) {
		t.Errorf("open: %v", err)
	}
}

// Section 6.1: who may send what.
func TestSendersOutsideTheGroupAreHeldToTheirContents(t *testing.T) {
	e := newTestEpoch(t)
	remove, add, update := Remove{Removed: 1}, Add{KeyPackage: new(KeyPackage)}, ExternalInit{}
	content := func(s SenderType) framedContent { return e.context.content(sender{Type: s}, nil) }
	for _, c := range []struct {
		name    string
		content framedContent
		ok      bool
	}{
		{"external remove", content(SenderExternal).withProposal(remove), true},
		{"external add", content(SenderExternal).withProposal(add), true},
		{"external init by an external sender", content(SenderExternal).withProposal(update), false},
		{"external commit by an external sender", content(SenderExternal).withCommit(new(Commit)), false},
		{"new member adds itself", content(SenderNewMemberProposal).withProposal(add), true},
		{"new member removes", content(SenderNewMemberProposal).withProposal(remove), false},
		{"new member proposal with a commit", content(SenderNewMemberProposal).withCommit(new(Commit)), false},
		{"external commit", content(SenderNewMemberCommit).withCommit(new(Commit)), true},
		{"external commit with a proposal", content(SenderNewMemberCommit).withProposal(add), false},
		{"application data from outside", content(SenderExternal).withApplication(nil), false},
	} {
		err := c.content.checkSender()
		if c.ok && err != nil || !c.ok && !errors.Is(err, errSenderContent) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A new member's commit carries no membership tag; one that does has bytes too
// many.
func TestOnlyMembersCarryAMembershipTag(t *testing.T) {
	e := newTestEpoch(t)
	f := e.context.content(sender{Type: SenderNewMemberCommit}, nil).withCommit(new(Commit))
	message := e.secrets.sealPublic(e.sign(t, f, WirePublicMessage), e.encoded)
	if _, err := e.open(message); err != nil {
		t.Fatal(err)
	}
	if _, err := e.open(appendVector(message, make([]byte, hashSize))); !errors.Is(err, errTrailing) {
		t.Errorf("with a membership tag: %v", err)
	}
}

func TestPaddingMustBeZero(t *testing.T) {
	e := newTestEpoch(t)
	a := e.sign(t, e.context.content(memberSender(1), nil).withApplication([]byte("x")), WirePrivateMessage)
	for _, padding := range []string{"\x00\x00\x00", "\x00\x00\x01", "\x01"} {
		covert := *a
		covert.signature = a.signature
		// The padding goes where the auth data ends: behind the signature.
		u := unverifiedContent(covert)
		plaintext := append(u.appendAuth(bytes.Clone(u.body)), padding...)
		m := e.encrypt(t, 1, plaintext)
		_, err := e.open(m)
		if zero := padding == "\x00\x00\x00"; zero != (err == nil) || !zero && !errors.Is(err, errPadding) {
			t.Errorf("padding %x: %v", padding, err)
		}
	}
}

// encrypt makes a private message around any plaintext.
func (e *testEpoch) encrypt(t testing.TB, leaf LeafIndex, plaintext []byte) []byte {
	t.Helper()
	_, k, err := e.tree.seal(leaf, applicationRatchet)
	if err != nil {
		t.Fatal(err)
	}
	b := appendMessageHeader(nil, WirePrivateMessage)
	b = appendVector(b, e.context.GroupID)
	b = appendU64(b, e.context.Epoch)
	b = appendU8(b, uint8(ContentApplication))
	senderDataAAD := bytes.Clone(b[4:])
	b = appendVector(b, nil)
	ciphertext := suite3.sealAEAD(k.key(), k.nonce[:], b[4:], plaintext)
	sk := suite3.senderDataKey(e.secrets.senderData, ciphertext)
	data := appendU32(appendU32(appendU32(nil, uint32(leaf)), k.generation), 0)
	b = appendVector(b, suite3.sealAEAD(sk.key(), sk.nonce[:], senderDataAAD, data))
	return appendVector(b, ciphertext)
}

// A ciphertext shorter than the sample it should give is an invalid message,
// not a panic.
func TestShortCiphertextsAreRefused(t *testing.T) {
	e := newTestEpoch(t)
	for n := range 40 {
		ciphertext := make([]byte, n)
		sk := suite3.senderDataKey(e.secrets.senderData, ciphertext)
		b := appendMessageHeader(nil, WirePrivateMessage)
		b = appendVector(b, e.context.GroupID)
		b = appendU64(b, e.context.Epoch)
		b = appendU8(b, uint8(ContentApplication))
		data := suite3.sealAEAD(sk.key(), sk.nonce[:], b[4:], make([]byte, senderDataSize))
		b = appendVector(appendVector(appendVector(b, nil), data), ciphertext)
		if _, err := e.open(b); !errors.Is(err, errDecrypt) {
			t.Errorf("ciphertext of %d bytes: %v", n, err)
		}
	}
}

// Application data under a key of the handshake ratchet does not open: the
// content type chooses the ratchet.
func TestRatchetsAreNotInterchangeable(t *testing.T) {
	e := newTestEpoch(t)
	a := e.sign(t, e.context.content(memberSender(1), nil).withProposal(Remove{Removed: 3}), WirePrivateMessage)
	_, message, err := e.secrets.sealPrivate(rand.Reader, e.tree, a, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, h, _ := e.tree.open(1, handshakeRatchet, 0)
	_, k, _ := e.tree.open(1, applicationRatchet, 0)
	if bytes.Equal(h.key(), k.key()) {
		t.Fatal("both ratchets give the same key")
	}
	m, err := parseMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.private.senderData(e.secrets)
	if err != nil {
		t.Fatal(err)
	}
	m.private.contentType = ContentApplication
	if _, _, err := m.private.open(e.tree, d); !errors.Is(err, errDecrypt) {
		t.Errorf("opened with the other ratchet: %v", err)
	}
}

// The reuse guard changes the first four bytes of the nonce and nothing else:
// the same generation sealed twice does not repeat a nonce.
func TestReuseGuard(t *testing.T) {
	d := senderData{guard: [4]byte{1, 2, 3, 4}}
	var nonce [nonceSize]byte
	if got, want := d.guarded(nonce), ([nonceSize]byte{1, 2, 3, 4}); got != want {
		t.Errorf("guarded = %x, want %x", got, want)
	}
	e := newTestEpoch(t)
	if bytes.Equal(e.seal(t, "same", 0), e.seal(t, "same", 0)) {
		t.Error("the same state sealed the same bytes twice")
	}
}

func TestMessageSaysWhatItIs(t *testing.T) {
	e := newTestEpoch(t)
	b := e.seal(t, "hello", 0)
	m, err := parseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if m.WireFormat() != WirePrivateMessage || string(m.GroupID()) != "group" || m.Epoch() != 7 || m.ContentType() != ContentApplication {
		t.Errorf("message = %v %q %d %v", m.WireFormat(), m.GroupID(), m.Epoch(), m.ContentType())
	}
	if !bytes.Equal(m.Bytes(), b) || m.Hash() != [32]byte(suite3.hash(b)) || m.KeyPackageRefs() != nil {
		t.Error("bytes, hash or key package references are wrong")
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	s := secret("key material")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if got := fmt.Sprintf(format, s); got != redacted {
			t.Errorf("%s prints %s", format, got)
		}
	}
	if b, _ := json.Marshal(struct{ S secret }{s}); string(b) != `{"S":"[redacted]"}` {
		t.Errorf("JSON prints %s", b)
	}
	signer := testSigner(t)
	e := newTestEpoch(t).secrets
	for name, v := range map[string]any{"signer": signer, "signer value": *signer, "epoch": e, "epoch value": *e} {
		for _, format := range []string{"%v", "%+v", "%#v", "%x"} {
			got := fmt.Sprintf(format, v)
			for _, s := range []secret{signer.private, e.init} {
				if strings.Contains(got, fmt.Sprint([]byte(s))) || strings.Contains(got, fmt.Sprintf("%x", []byte(s))) ||
					strings.Contains(got, fmt.Sprintf("%#v", []byte(s))[len("[]byte"):]) {
					t.Errorf("%s of %s prints key material: %s", format, name, got)
				}
			}
		}
	}
}

func TestUnsupportedSuitesAreNamed(t *testing.T) {
	for _, s := range []CipherSuite{0, 4, 5, 6, 7, 0xffff} {
		err := s.supported()
		if !errors.Is(err, ErrUnsupportedSuite) || !bytes.Contains([]byte(err.Error()), []byte(s.String())) {
			t.Errorf("%v: %v", s, err)
		}
		if _, err := GenerateSigner(s, rand.Reader); !errors.Is(err, ErrUnsupportedSuite) {
			t.Errorf("signer for %v: %v", s, err)
		}
	}
}

func TestExternalInitReachesTheGroup(t *testing.T) {
	for _, s := range []CipherSuite{1, 2, 3} {
		e, _ := s.newEpochSecrets(bytes.Repeat([]byte{5}, hashSize))
		_, public, err := e.externalKeyPair()
		if err != nil {
			t.Fatal(err)
		}
		kemOutput, joiner, err := s.encapsulateInit(rand.Reader, public)
		if err != nil {
			t.Fatal(err)
		}
		member, err := e.decapsulateInit(kemOutput)
		if err != nil || !bytes.Equal(joiner, member) {
			t.Errorf("%v: the two sides have different init secrets: %v", s, err)
		}
		if _, err := e.decapsulateInit(kemOutput[1:]); !errors.Is(err, errExternalInit) {
			t.Errorf("%v: short KEM output: %v", s, err)
		}
	}
}

func TestExportIsBounded(t *testing.T) {
	e := newTestEpoch(t).secrets
	for _, n := range []int{-1, maxExport + 1} {
		if _, err := e.export("label", nil, n); err == nil {
			t.Errorf("exported %d bytes", n)
		}
	}
	if b, err := e.export("label", nil, maxExport); err != nil || len(b) != maxExport {
		t.Errorf("exported %d bytes: %v", len(b), err)
	}
}

func FuzzParseMessage(f *testing.F) {
	e := newTestEpoch(f)
	_, public := e.publicProposal(f)
	f.Add(public)
	f.Add(e.seal(f, "hello", 1))
	commit := e.context.content(sender{Type: SenderNewMemberCommit}, nil).withCommit(new(Commit))
	f.Add(e.secrets.sealPublic(e.sign(f, commit, WirePublicMessage), e.encoded))
	keyPackage, _, err := NewKeyPackage(KeyPackageConfig{
		Rand: rand.Reader, Suite: suite3, Signer: e.signer, Credential: BasicCredential([]byte("somebody")),
		Capabilities: testCapabilities(suite3),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(keyPackage.append(appendMessageHeader(nil, WireKeyPackage)))
	info, err := GroupInfo{context: e.context}.signed(suite3, e.signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(info.append(appendMessageHeader(nil, WireGroupInfo)))
	secrets := encryptedGroupSecrets{newMember: keyPackage.Ref()}
	welcome := &Welcome{suite: suite3, secrets: []encryptedGroupSecrets{secrets}, groupInfo: []byte("sealed")}
	f.Add(welcome.append(appendMessageHeader(nil, WireWelcome)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupportedSuite) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if got := m.appendFields(t, nil); !bytes.Equal(got, b) {
			t.Errorf("decoded %x, encoded %x", b, got)
		}
		m.KeyPackageRefs()
		if m.public != nil || m.private != nil {
			e.open(b)
		}
	})
}

func FuzzGroupContext(f *testing.F) {
	f.Add(newTestEpoch(f).encoded)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(b)
		c := decodeGroupContext(r)
		if r.end() == nil && !bytes.Equal(c.append(nil), b) {
			t.Errorf("decoded %x, encoded %x", b, c.append(nil))
		}
	})
}

func FuzzPreSharedKeyID(f *testing.F) {
	f.Add(PreSharedKeyID{Type: PSKExternal, ID: []byte("id"), Nonce: []byte("nonce")}.append(nil))
	f.Add(PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, GroupID: []byte("g"), Epoch: 9}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(b)
		p := decodePreSharedKeyID(r)
		if r.end() == nil && !bytes.Equal(p.append(nil), b) {
			t.Errorf("decoded %x, encoded %x", b, p.append(nil))
		}
	})
}

// BenchmarkOpenMessage is the receive path without the signature: sender data,
// one ratchet step, one decryption.
func BenchmarkOpenMessage(b *testing.B) {
	e := newTestEpoch(b)
	a := e.sign(b, e.context.content(memberSender(123), nil).withApplication(make([]byte, 200)), WirePrivateMessage)
	_, message, err := e.secrets.sealPrivate(rand.Reader, e.tree, a, 0)
	if err != nil {
		b.Fatal(err)
	}
	m, err := parseMessage(message)
	if err != nil {
		b.Fatal(err)
	}
	// The leaf's ratchets exist, as after its first message.
	warm, err := e.tree.withLeaf(123, func(*leafRatchets) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d, err := m.private.senderData(e.secrets)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := m.private.open(warm, d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseMessage(b *testing.B) {
	message := newTestEpoch(b).seal(b, string(make([]byte, 200)), 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseMessage(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealMessage(b *testing.B) {
	e := newTestEpoch(b)
	f := e.context.content(memberSender(123), nil).withApplication(make([]byte, 200))
	b.ReportAllocs()
	for b.Loop() {
		a := e.sign(b, f, WirePrivateMessage)
		next, _, err := e.secrets.sealPrivate(rand.Reader, e.tree, a, 0)
		if err != nil {
			b.Fatal(err)
		}
		e.tree = next
	}
}

func BenchmarkKeySchedule(b *testing.B) {
	init, commit := make(secret, hashSize), make(secret, hashSize)
	context := newTestEpoch(b).encoded
	b.ReportAllocs()
	for b.Loop() {
		joiner := suite3.joinerSecret(init, commit, context)
		suite3.newEpochSecrets(suite3.epochSecret(joiner, suite3.zeroSecret(), context))
	}
}
