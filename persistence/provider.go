package persistence

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
)

// A Key is a database key. It prints as [redacted].
type Key [32]byte

const redacted = "[redacted]"

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A KeyProvider gives the host the database keys of its installations, so that
// one that was put to sleep can wake without its owner.
type KeyProvider interface {
	// DatabaseKey returns the installation's database key, or ErrNotFound. Any
	// other error means that the key is out of reach for now.
	DatabaseKey(ctx context.Context, installation [32]byte) (Key, error)
}

// StaticKeys holds database keys by installation.
type StaticKeys map[[32]byte]Key

// DatabaseKey implements KeyProvider.
func (k StaticKeys) DatabaseKey(_ context.Context, installation [32]byte) (Key, error) {
	key, ok := k[installation]
	if !ok {
		return Key{}, fmt.Errorf("database key: %w", ErrNotFound)
	}
	return key, nil
}

// FileKeys derives every installation's database key from one host key in a
// file.
type FileKeys struct{ host Key }

// OpenFileKeys reads the host key from path: 64 hexadecimal digits, readable by
// its owner only. Where there is no file it makes one with a new key.
func OpenFileKeys(path string) (*FileKeys, error) {
	k, err := readFileKeys(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := createFileKeys(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readFileKeys(path)
}

func readFileKeys(path string) (*FileKeys, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read host key: %s has mode %#o; only its owner may read it (0600)", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	defer clear(text)
	k := new(FileKeys)
	digits := strings.TrimSpace(string(text))
	if n, err := hex.Decode(k.host[:], []byte(digits)[:min(len(digits), 64)]); err != nil || n != 32 || len(digits) != 64 {
		return nil, fmt.Errorf("read host key: %s does not hold 64 hexadecimal digits", path)
	}
	return k, nil
}

// createFileKeys puts a whole file in place, or none.
func createFileKeys(path string) error {
	var key Key
	rand.Read(key[:])
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create host key: %w", err)
	}
	defer os.Remove(temporary)
	_, err = fmt.Fprintf(f, "%s\n", hex.EncodeToString(key[:]))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(temporary, path) // unlike a rename it never replaces a key
	}
	if err != nil {
		return fmt.Errorf("create host key: %w", err)
	}
	return nil
}

// DatabaseKey implements KeyProvider.
func (k *FileKeys) DatabaseKey(_ context.Context, installation [32]byte) (Key, error) {
	key, err := hkdf.Key(sha256.New, k.host[:], installation[:], "conclave database key", 32)
	if err != nil {
		return Key{}, fmt.Errorf("database key: %w", err)
	}
	return Key(key), nil
}
