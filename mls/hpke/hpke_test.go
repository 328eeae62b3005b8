package hpke

import (
	"bytes"
	"crypto/ecdh"
	stdhpke "crypto/hpke"
	"crypto/rand"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rfc9180Vectors are the base-mode vectors of RFC 9180, Appendix A, for the
// suites of this package, with 1000 messages and 1000 exports accumulated
// into one hash each, as crypto/hpke has them.
var rfc9180Vectors = []struct {
	name                                   string
	suite                                  Suite
	ikmE, ikmR, private, public, enc       string
	accumulatedMessages, accumulatedExport string
}{
	{
		name: "X25519 AES-128-GCM", suite: Suite{X25519, AES128GCM},
		ikmE:                "7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234",
		ikmR:                "6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037",
		private:             "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
		public:              "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
		enc:                 "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
		accumulatedMessages: "dcabb32ad8e8acea785275323395abd0", accumulatedExport: "45db490fc51c86ba46cca1217f66a75e",
	},
	{
		name: "X25519 ChaCha20-Poly1305", suite: Suite{X25519, ChaCha20Poly1305},
		ikmE:                "909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b",
		ikmR:                "1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df",
		private:             "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
		public:              "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a",
		enc:                 "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
		accumulatedMessages: "225fb3d35da3bb25e4371bcee4273502", accumulatedExport: "54e2189c04100b583c84452f94eb9a4a",
	},
	{
		name: "P-256 AES-128-GCM", suite: Suite{P256, AES128GCM},
		ikmE:                "4270e54ffd08d79d5928020af4686d8f6b7d35dbe470265f1f5aa22816ce860e",
		ikmR:                "668b37171f1072f3cf12ea8a236a45df23fc13b82af3609ad1e354f6ef817550",
		private:             "f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2",
		public:              "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0",
		enc:                 "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c0900be863c403ce65c9bfcb9382657222d18c4",
		accumulatedMessages: "fcb852ae6a1e19e874fbd18a199df3e4", accumulatedExport: "655be1f8b189a6b103528ac6d28d3109",
	},
	{
		name: "P-256 ChaCha20-Poly1305", suite: Suite{P256, ChaCha20Poly1305},
		ikmE:                "f1f1a3bc95416871539ecb51c3a8f0cf608afb40fbbe305c0a72819d35c33f1f",
		ikmR:                "61092f3f56994dd424405899154a9918353e3e008171517ad576b900ddb275e7",
		private:             "a4d1c55836aa30f9b3fbb6ac98d338c877c2867dd3a77396d13f68d3ab150d3b",
		public:              "04a697bffde9405c992883c5c439d6cc358170b51af72812333b015621dc0f40bad9bb726f68a5c013806a790ec716ab8669f84f6b694596c2987cf35baba2a006",
		enc:                 "04c07836a0206e04e31d8ae99bfd549380b072a1b1b82e563c935c095827824fc1559eac6fb9e3c70cd3193968994e7fe9781aa103f5b50e934b5b2f387e381291",
		accumulatedMessages: "702cdecae9ba5c571c8b00ad1f313dbf", accumulatedExport: "2e0951156f1e7718a81be3004d606800",
	},
}

func TestRFC9180Vectors(t *testing.T) {
	info := unhex(t, "4f6465206f6e2061204772656369616e2055726e")
	draw := func(source io.Reader) []byte {
		var n [1]byte
		source.Read(n[:])
		b := make([]byte, n[0])
		source.Read(b)
		return b
	}
	for _, v := range rfc9180Vectors {
		t.Run(v.name, func(t *testing.T) {
			private, public, err := v.suite.KEM.DeriveKeyPair(unhex(t, v.ikmR))
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(private) != v.private || hex.EncodeToString(public) != v.public {
				t.Fatalf("DeriveKeyPair = %x, %x", private, public)
			}
			ephemeral := unhex(t, v.ikmE) // P-256 keys are made from a seed.
			if v.suite.KEM == X25519 {
				ephemeral, _, err = X25519.DeriveKeyPair(ephemeral)
				if err != nil {
					t.Fatal(err)
				}
			}
			enc, sender, err := v.suite.SetupSender(bytes.NewReader(ephemeral), public, info)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(enc) != v.enc {
				t.Fatalf("enc = %x", enc)
			}
			recipient, err := v.suite.SetupRecipient(private, public, enc, info)
			if err != nil {
				t.Fatal(err)
			}

			source, sink, digest := sha3.NewSHAKE128(), sha3.NewSHAKE128(), make([]byte, 16)
			for range 1000 {
				aad, plaintext := draw(source), draw(source)
				ciphertext, err := sender.Seal(aad, plaintext)
				if err != nil {
					t.Fatal(err)
				}
				sink.Write(ciphertext)
				got, err := recipient.Open(aad, ciphertext)
				if err != nil || !bytes.Equal(got, plaintext) {
					t.Fatalf("Open = %x, %v", got, err)
				}
			}
			sink.Read(digest)
			if hex.EncodeToString(digest) != v.accumulatedMessages {
				t.Errorf("accumulated messages = %x", digest)
			}

			source, sink = sha3.NewSHAKE128(), sha3.NewSHAKE128()
			for n := range 1000 {
				context := draw(source)
				exported := sender.Export(context, n)
				if !bytes.Equal(exported, recipient.Export(context, n)) {
					t.Fatalf("the two sides export different secrets of %d bytes", n)
				}
				sink.Write(exported)
			}
			sink.Read(digest)
			if hex.EncodeToString(digest) != v.accumulatedExport {
				t.Errorf("accumulated exports = %x", digest)
			}
		})
	}
}

// oracles pair each suite with its twin in crypto/hpke.
var oracles = []struct {
	name  string
	suite Suite
	kem   stdhpke.KEM
	aead  stdhpke.AEAD
}{
	{"X25519 AES-128-GCM", Suite{X25519, AES128GCM}, stdhpke.DHKEM(ecdh.X25519()), stdhpke.AES128GCM()},
	{"X25519 ChaCha20-Poly1305", Suite{X25519, ChaCha20Poly1305}, stdhpke.DHKEM(ecdh.X25519()), stdhpke.ChaCha20Poly1305()},
	{"P-256 AES-128-GCM", Suite{P256, AES128GCM}, stdhpke.DHKEM(ecdh.P256()), stdhpke.AES128GCM()},
	{"X-Wing ChaCha20-Poly1305", Suite{XWing(0x647a), ChaCha20Poly1305}, stdhpke.MLKEM768X25519(), stdhpke.ChaCha20Poly1305()},
}

func TestInteroperatesWithTheStandardLibraryBothWays(t *testing.T) {
	for _, o := range oracles {
		t.Run(o.name, func(t *testing.T) {
			ikm := make([]byte, 32)
			rand.Read(ikm)
			private, public, err := o.suite.KEM.DeriveKeyPair(ikm)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := o.kem.DeriveKeyPair(ikm)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(public, theirs.PublicKey().Bytes()) {
				t.Fatal("DeriveKeyPair differs")
			}
			info, aad, plaintext := []byte("info"), []byte("aad"), []byte("plaintext")

			enc, sender, err := stdhpke.NewSender(theirs.PublicKey(), stdhpke.HKDFSHA256(), o.aead, info)
			if err != nil {
				t.Fatal(err)
			}
			recipient, err := o.suite.SetupRecipient(private, public, enc, info)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				ciphertext, err := sender.Seal(aad, plaintext)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := recipient.Open(aad, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
					t.Fatalf("open theirs: %q, %v", got, err)
				}
			}

			enc, ours, err := o.suite.SetupSender(rand.Reader, public, info)
			if err != nil {
				t.Fatal(err)
			}
			reader, err := stdhpke.NewRecipient(enc, theirs, stdhpke.HKDFSHA256(), o.aead, info)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				ciphertext, err := ours.Seal(aad, plaintext)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := reader.Open(aad, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
					t.Fatalf("they open ours: %q, %v", got, err)
				}
			}
			exported, err := reader.Export("context", 50)
			if err != nil || !bytes.Equal(exported, ours.Export([]byte("context"), 50)) {
				t.Fatalf("exports differ: %v", err)
			}
		})
	}
}

// The KEM id is part of every key: what was sealed under one X-Wing id does not
// open under the other, which is why the id is the caller's.
func TestXWingIDsDoNotInteroperate(t *testing.T) {
	deployed, registered := Suite{XWing(0x004D), ChaCha20Poly1305}, Suite{XWing(0x647a), ChaCha20Poly1305}
	private, public, err := deployed.KEM.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enc, ciphertext, err := deployed.Seal(rand.Reader, public, nil, nil, []byte("welcome"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := deployed.Open(private, public, enc, nil, nil, ciphertext); err != nil || string(got) != "welcome" {
		t.Errorf("Open under 0x004D = %q, %v", got, err)
	}
	if _, err := registered.Open(private, public, enc, nil, nil, ciphertext); !errors.Is(err, ErrOpen) {
		t.Errorf("Open under 0x647a = %v, want ErrOpen", err)
	}
}

// The same randomness makes the same ciphertext: simulations replay.
func TestSealIsAFunctionOfItsRandomness(t *testing.T) {
	for _, o := range oracles {
		_, public, err := o.suite.KEM.DeriveKeyPair(make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		seal := func() []byte {
			enc, ciphertext, err := o.suite.Seal(bytes.NewReader(make([]byte, 64)), public, nil, nil, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			return append(enc, ciphertext...)
		}
		if !bytes.Equal(seal(), seal()) {
			t.Errorf("%s: two ciphertexts from the same randomness", o.name)
		}
	}
}

// lowOrderPoints are the X25519 points whose product with every scalar is zero,
// and their non-canonical twins.
var lowOrderPoints = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"00000000000000000000000000000000000000000000000000000000000000" + "80",
	"01000000000000000000000000000000000000000000000000000000000000" + "80",
}

func TestLowOrderPointsAreRefused(t *testing.T) {
	s := Suite{X25519, ChaCha20Poly1305}
	private, public, err := s.KEM.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lowOrderPoints {
		point := unhex(t, p)
		if _, _, err := s.Seal(rand.Reader, point, nil, nil, nil); !errors.Is(err, ErrKey) {
			t.Errorf("Seal to %s: %v, want ErrKey", p, err)
		}
		if err := s.KEM.TryPublicKey(point); !errors.Is(err, ErrKey) {
			t.Errorf("TryPublicKey of %s: %v, want ErrKey", p, err)
		}
		if _, err := s.SetupRecipient(private, public, point, nil); !errors.Is(err, ErrOpen) {
			t.Errorf("SetupRecipient with enc %s: %v, want ErrOpen", p, err)
		}
	}
}

func TestWrongLengthsAndPointsOffTheCurveAreRefused(t *testing.T) {
	for _, o := range oracles {
		s := o.suite
		private, public, err := s.KEM.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		enc, ciphertext, err := s.Seal(rand.Reader, public, nil, nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		longer := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
		for _, bad := range [][]byte{nil, public[:len(public)-1], longer(public)} {
			if _, _, err := s.Seal(rand.Reader, bad, nil, nil, nil); !errors.Is(err, ErrKey) {
				t.Errorf("%s: Seal to a key of %d bytes: %v", o.name, len(bad), err)
			}
			for _, check := range []func([]byte) error{s.KEM.CheckPublicKey, s.KEM.TryPublicKey} {
				if err := check(bad); !errors.Is(err, ErrKey) {
					t.Errorf("%s: check of %d bytes: %v", o.name, len(bad), err)
				}
			}
			if _, err := s.Open(private, bad, enc, nil, nil, ciphertext); !errors.Is(err, ErrKey) {
				t.Errorf("%s: Open with a public key of %d bytes: %v", o.name, len(bad), err)
			}
		}
		for _, bad := range [][]byte{nil, enc[:len(enc)-1], longer(enc)} {
			if _, err := s.Open(private, public, bad, nil, nil, ciphertext); !errors.Is(err, ErrOpen) {
				t.Errorf("%s: Open with enc of %d bytes: %v", o.name, len(bad), err)
			}
		}
		for _, bad := range [][]byte{nil, private[:31], longer(private)} {
			if _, err := s.Open(bad, public, enc, nil, nil, ciphertext); !errors.Is(err, ErrKey) {
				t.Errorf("%s: Open with a private key of %d bytes: %v", o.name, len(bad), err)
			}
		}
		for _, bad := range [][]byte{nil, ciphertext[:16], longer(ciphertext)} {
			if _, err := s.Open(private, public, enc, nil, nil, bad); !errors.Is(err, ErrOpen) {
				t.Errorf("%s: Open of %d bytes: %v", o.name, len(bad), err)
			}
		}
		if _, err := s.Open(private, public, enc, []byte("other info"), nil, ciphertext); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: Open under other info: %v", o.name, err)
		}
		if _, err := s.Open(private, public, enc, nil, []byte("other aad"), ciphertext); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: Open under other additional data: %v", o.name, err)
		}
	}
	for _, kem := range []KEM{X25519, P256, XWing(0x647a)} {
		if _, public, err := kem.GenerateKey(rand.Reader); err != nil || kem.TryPublicKey(public) != nil {
			t.Errorf("a good key of KEM %x is refused", kem.id)
		}
	}
	if err := XWing(0x647a).TryPublicKey(bytes.Repeat([]byte{0xff}, XWing(0x647a).public)); !errors.Is(err, ErrKey) {
		t.Errorf("TryPublicKey of what is no ML-KEM key: %v", err)
	}
	off := make([]byte, 65)
	off[0] = 4
	if err := P256.CheckPublicKey(off); !errors.Is(err, ErrKey) {
		t.Errorf("CheckPublicKey of a point off P-256: %v", err)
	}
	if _, err := P256.PublicKey(make([]byte, 32)); !errors.Is(err, ErrKey) {
		t.Errorf("PublicKey of the zero scalar: %v", err)
	}
	if _, _, err := (KEM{}).DeriveKeyPair(nil); !errors.Is(err, ErrKEM) {
		t.Errorf("the zero KEM: %v", err)
	}
}

// A message that does not open leaves the context in place for the next one.
func TestAFailedOpenDoesNotAdvance(t *testing.T) {
	s := Suite{X25519, AES128GCM}
	private, public, _ := s.KEM.GenerateKey(rand.Reader)
	enc, sender, err := s.SetupSender(rand.Reader, public, nil)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := s.SetupRecipient(private, public, enc, nil)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, _ := sender.Seal(nil, []byte("first"))
	if _, err := recipient.Open(nil, make([]byte, 32)); !errors.Is(err, ErrOpen) {
		t.Fatalf("Open of junk: %v", err)
	}
	if got, err := recipient.Open(nil, ciphertext); err != nil || string(got) != "first" {
		t.Fatalf("Open after junk = %q, %v", got, err)
	}
}

// Whatever comes off the wire, Open returns.
func FuzzOpen(f *testing.F) {
	f.Add(make([]byte, 32), []byte("ciphertext of sixteen bytes or more"))
	f.Add([]byte{}, []byte{})
	type key struct {
		suite           Suite
		private, public []byte
	}
	var keys []key
	for _, o := range oracles {
		private, public, err := o.suite.KEM.DeriveKeyPair(make([]byte, 32))
		if err != nil {
			f.Fatal(err)
		}
		keys = append(keys, key{o.suite, private, public})
	}
	f.Fuzz(func(t *testing.T, enc, ciphertext []byte) {
		for _, k := range keys {
			if _, err := k.suite.Open(k.private, k.public, enc, nil, nil, ciphertext); err == nil {
				t.Errorf("opened %x, %x", enc, ciphertext)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, o := range oracles {
		b.Run(o.name, func(b *testing.B) {
			_, public, _ := o.suite.KEM.GenerateKey(rand.Reader)
			info, plaintext := make([]byte, 200), make([]byte, 32)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := o.suite.Seal(rand.Reader, public, info, nil, plaintext); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, o := range oracles {
		b.Run(o.name, func(b *testing.B) {
			private, public, _ := o.suite.KEM.GenerateKey(rand.Reader)
			info := make([]byte, 200)
			enc, ciphertext, _ := o.suite.Seal(rand.Reader, public, info, nil, make([]byte, 32))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.suite.Open(private, public, enc, info, nil, ciphertext); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDeriveKeyPair(b *testing.B) {
	ikm := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := X25519.DeriveKeyPair(ikm); err != nil {
			b.Fatal(err)
		}
	}
}
