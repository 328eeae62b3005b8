package benchmarks

import (
	"context"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	stdhpke "crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/mls/hpke"
	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

// A floor is what the machine needs for the least that a load cannot avoid:
// bare primitives, one durable publish, one batch of rows. Nothing of a group,
// an actor or a protocol is in it.
type floor struct {
	// The engine's primitives, and the standard library's beside them.
	seal, open           time.Duration // HPKE, X25519 and ChaCha20-Poly1305
	sealStd, openStd     time.Duration // crypto/hpke
	wrap, unwrap         time.Duration // HPKE with X-Wing
	openBody, openBodyGo time.Duration // the AEAD over one message: mls/hpke, and x/crypto's alone
	sign, verify         time.Duration // crypto/ed25519, which the engine uses

	publish time.Duration // one envelope, durable
	rows    time.Duration // one sealed body and N rows of 32 bytes, lazily
}

// bodySize is a message as people write them, in its framing.
const bodySize = 256

// primitiveTime is how long each primitive is measured.
const primitiveTime = 30 * time.Millisecond

// per measures one call of f.
func per(f func() error) (time.Duration, error) {
	n := 0
	for began := time.Now(); ; {
		for range 8 {
			if err := f(); err != nil {
				return 0, err
			}
		}
		n += 8
		if took := time.Since(began); took > primitiveTime {
			return took / time.Duration(n), nil
		}
	}
}

// measureFloor measures all of it, for messages to n members.
func measureFloor(ctx context.Context, o Options, n int) (floor, error) {
	f, err := bareCryptography()
	if err != nil {
		return f, fmt.Errorf("floor of cryptography: %w", err)
	}
	if f.publish, err = barePublish(ctx, o); err != nil {
		return f, fmt.Errorf("floor of bus: %w", err)
	}
	if f.rows, err = bareRows(ctx, o, n); err != nil {
		return f, fmt.Errorf("floor of store: %w", err)
	}
	return f, nil
}

func bareCryptography() (f floor, err error) {
	measure := func(to *time.Duration, call func() error) {
		if err == nil {
			*to, err = per(call)
		}
	}
	body := make([]byte, bodySize)
	rand.Read(body)

	suite := hpke.Suite{KEM: hpke.X25519, AEAD: hpke.ChaCha20Poly1305}
	private, public, err := suite.KEM.GenerateKey(rand.Reader)
	if err != nil {
		return f, err
	}
	enc, sealed, err := suite.Seal(rand.Reader, public, nil, nil, body)
	if err != nil {
		return f, err
	}
	measure(&f.seal, func() error { _, _, err := suite.Seal(rand.Reader, public, nil, nil, body); return err })
	measure(&f.open, func() error { _, err := suite.Open(private, public, enc, nil, nil, sealed); return err })

	hybrid := hpke.Suite{KEM: hpke.XWing(0x004d), AEAD: hpke.ChaCha20Poly1305}
	hprivate, hpublic, err := hybrid.KEM.GenerateKey(rand.Reader)
	if err != nil {
		return f, err
	}
	henc, hsealed, err := hybrid.Seal(rand.Reader, hpublic, nil, nil, body[:64])
	if err != nil {
		return f, err
	}
	measure(&f.wrap, func() error { _, _, err := hybrid.Seal(rand.Reader, hpublic, nil, nil, body[:64]); return err })
	measure(&f.unwrap, func() error { _, err := hybrid.Open(hprivate, hpublic, henc, nil, nil, hsealed); return err })

	kem, kdf, aead := stdhpke.DHKEM(ecdh.X25519()), stdhpke.HKDFSHA256(), stdhpke.ChaCha20Poly1305()
	stdPrivate, err := kem.GenerateKey()
	if err != nil {
		return f, err
	}
	stdSealed, err := stdhpke.Seal(stdPrivate.PublicKey(), kdf, aead, nil, body)
	if err != nil {
		return f, err
	}
	measure(&f.sealStd, func() error { _, err := stdhpke.Seal(stdPrivate.PublicKey(), kdf, aead, nil, body); return err })
	measure(&f.openStd, func() error { _, err := stdhpke.Open(stdPrivate, kdf, aead, nil, stdSealed); return err })

	var box cipher.AEAD
	if box, err = chacha20poly1305.New(body[:32]); err != nil {
		return f, err
	}
	nonce := body[:box.NonceSize()]
	text := box.Seal(nil, nonce, body, nil)
	measure(&f.openBodyGo, func() error { _, err := box.Open(nil, nonce, text, nil); return err })
	// Every member has a key of its own for every message: the cipher is made
	// anew each time, as the engine does.
	measure(&f.openBody, func() error {
		box, err := chacha20poly1305.New(body[:32])
		if err == nil {
			_, err = box.Open(nil, nonce, text, nil)
		}
		return err
	})

	verifyKey, signKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		return f, err
	}
	signature := ed25519.Sign(signKey, body)
	measure(&f.sign, func() error { ed25519.Sign(signKey, body); return nil })
	measure(&f.verify, func() error {
		if !ed25519.Verify(verifyKey, body, signature) {
			return fmt.Errorf("signature does not verify")
		}
		return nil
	})
	return f, err
}

// bareCount is how many publishes, and batches, are measured.
const bareCount = 100

func barePublish(ctx context.Context, o Options) (time.Duration, error) {
	b, err := jetstream.Open(ctx, jetstream.Config{Dir: filepath.Join(o.Dir, "floor", "bus"), Logger: o.logger()})
	if err != nil {
		return 0, err
	}
	defer b.Close()
	topic, err := bus.MessagesOf(make([]byte, 16))
	if err != nil {
		return 0, err
	}
	body := make([]byte, bodySize)
	began := time.Now()
	for i := range uint64(bareCount) {
		binary.BigEndian.PutUint64(body, i)
		if _, err := b.Publish(ctx, topic, body); err != nil {
			return 0, err
		}
	}
	return time.Since(began) / bareCount, nil
}

func bareRows(ctx context.Context, o Options, n int) (time.Duration, error) {
	s, err := badger.Open(ctx, badger.Config{Dir: filepath.Join(o.Dir, "floor", "store"), Logger: o.logger()})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	began := time.Now()
	for i := range bareCount {
		var b persistence.Batch
		b.Put(fmt.Appendf(nil, "body/%d", i), make([]byte, bodySize))
		for m := range n {
			b.Put(fmt.Appendf(nil, "row/%d/%d", m, i), make([]byte, 32))
		}
		if err := s.Apply(ctx, &b, persistence.Lazy); err != nil {
			return 0, err
		}
	}
	if err := s.Sync(ctx); err != nil {
		return 0, err
	}
	return time.Since(began) / bareCount, nil
}

// message is the floor of one message to n members: sealed and signed once,
// verified once, opened by each over all cores, one publish, one batch.
func (f floor) message(n int) time.Duration {
	return f.sign + f.verify + f.openBody + spread(time.Duration(n)*f.openBody) + f.publish + f.rows
}

// form is the floor of a group of n: n key packages verified (two signatures
// each), a welcome sealed to each and its pointer wrapped, each opened again.
func (f floor) form(n int) time.Duration {
	each := 2*f.verify + f.seal + f.open + f.wrap + f.unwrap
	return spread(time.Duration(n)*each) + time.Duration(2)*f.publish + 2*f.rows
}

// commit is the floor of one commit with a path in a group of n: the path's
// secrets sealed and opened once by each.
func (f floor) commit(n, depth int) time.Duration {
	return f.sign + f.verify + spread(time.Duration(depth)*f.seal+time.Duration(n)*f.open) + f.publish + f.rows
}

// spread divides work among the cores.
func spread(d time.Duration) time.Duration { return d / time.Duration(runtime.GOMAXPROCS(0)) }

// figures show the floor's parts: the engine's primitive as the value, the
// standard library's beside it as the floor.
func (f floor) figures() []Figure {
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	var r Report
	r.cost("hpke_seal_x25519, floor crypto/hpke", "µs", micros(f.seal), micros(f.sealStd))
	r.cost("hpke_open_x25519, floor crypto/hpke", "µs", micros(f.open), micros(f.openStd))
	r.cost("message_open with a fresh key, floor x/crypto/chacha20poly1305", "µs", micros(f.openBody), micros(f.openBodyGo))
	r.cost("ed25519_verify, crypto/ed25519", "µs", micros(f.verify), micros(f.verify))
	r.cost("bare_publish", "µs", micros(f.publish), micros(f.publish))
	r.cost("bare_rows", "µs", micros(f.rows), micros(f.rows))
	return r.Figures
}
