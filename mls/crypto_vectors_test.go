package mls

import (
	"bytes"
	"crypto/rand"
	"testing"
)

// wantBytes compares a value with its vector.
func wantBytes(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", name, got, want)
	}
}

func TestVectorsDeserialization(t *testing.T) {
	type vector struct {
		Header hexBytes `json:"vlbytes_header"`
		Length int      `json:"length"`
	}
	eachCase(t, "deserialization.json", func(t *testing.T, c vector) {
		r := newReader(c.Header)
		if n := r.length(); n != c.Length || r.end() != nil {
			t.Errorf("length of %x = %d (%v), want %d", c.Header, n, r.end(), c.Length)
		}
		wantBytes(t, "header", appendLength(nil, c.Length), c.Header)
	})
}

func TestVectorsCryptoBasics(t *testing.T) {
	type vector struct {
		Suite   CipherSuite `json:"cipher_suite"`
		RefHash struct {
			Label      string
			Value, Out hexBytes
		} `json:"ref_hash"`
		ExpandWithLabel struct {
			Secret, Context, Out hexBytes
			Label                string
			Length               int
		} `json:"expand_with_label"`
		DeriveSecret struct {
			Secret, Out hexBytes
			Label       string
		} `json:"derive_secret"`
		DeriveTreeSecret struct {
			Secret, Out hexBytes
			Label       string
			Generation  uint32
			Length      int
		} `json:"derive_tree_secret"`
		SignWithLabel struct {
			Priv, Pub, Content, Signature hexBytes
			Label                         string
		} `json:"sign_with_label"`
		EncryptWithLabel struct {
			Priv, Pub, Context, Plaintext, Ciphertext hexBytes
			KEMOutput                                 hexBytes `json:"kem_output"`
			Label                                     string
		} `json:"encrypt_with_label"`
	}
	eachCase(t, "crypto-basics.json", func(t *testing.T, c vector) {
		s := c.Suite
		wantBytes(t, "RefHash", s.refHash(c.RefHash.Label, c.RefHash.Value), c.RefHash.Out)
		e := c.ExpandWithLabel
		wantBytes(t, "ExpandWithLabel", s.expandWithLabel(secret(e.Secret), e.Label, e.Context, e.Length), e.Out)
		wantBytes(t, "DeriveSecret", s.deriveSecret(secret(c.DeriveSecret.Secret), c.DeriveSecret.Label), c.DeriveSecret.Out)
		d := c.DeriveTreeSecret
		out := make([]byte, d.Length)
		s.deriveTreeSecret(out, d.Secret, d.Label, d.Generation)
		wantBytes(t, "DeriveTreeSecret", out, d.Out)

		sign := c.SignWithLabel
		if err := s.verifyWithLabel(sign.Pub, sign.Label, sign.Content, sign.Signature); err != nil {
			t.Errorf("VerifyWithLabel: %v", err)
		}
		signer, err := NewSigner(s, sign.Priv)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "public key", signer.Public(), sign.Pub)
		own, err := s.signWithLabel(signer, sign.Label, sign.Content)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.verifyWithLabel(sign.Pub, sign.Label, sign.Content, own); err != nil {
			t.Errorf("VerifyWithLabel of our own signature: %v", err)
		}

		x := c.EncryptWithLabel
		plaintext, err := s.decryptWithLabel(secret(x.Priv), x.Pub, x.Label, x.Context, x.KEMOutput, x.Ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "DecryptWithLabel", plaintext, x.Plaintext)
		kemOutput, ciphertext, err := s.encryptWithLabel(rand.Reader, x.Pub, x.Label, x.Context, x.Plaintext)
		if err != nil {
			t.Fatal(err)
		}
		plaintext, err = s.decryptWithLabel(secret(x.Priv), x.Pub, x.Label, x.Context, kemOutput, ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "DecryptWithLabel of our own ciphertext", plaintext, x.Plaintext)
	})
}
