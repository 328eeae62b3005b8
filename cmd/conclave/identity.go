package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ethereum/go-ethereum/accounts/keystore"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// loadWallet returns the wallet in a directory's keystore file, or makes one.
// made says which.
func loadWallet(dir, passphrase string, light bool) (wallet *ethereum.Key, made bool, err error) {
	folder := keystoreOf(dir)
	files, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, fmt.Errorf("read keystore: %w", err)
	}
	if len(files) > 1 {
		return nil, false, fmt.Errorf("%s holds %d files: leave the one of the wallet to use", folder, len(files))
	}
	if len(files) == 0 {
		made = true
		n, p := keystore.StandardScryptN, keystore.StandardScryptP
		if light {
			n, p = keystore.LightScryptN, keystore.LightScryptP
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, false, fmt.Errorf("make keystore: %w", err)
		}
		if _, err := keystore.StoreKey(folder, passphrase, n, p); err != nil {
			return nil, false, fmt.Errorf("make wallet: %w", err)
		}
		if files, err = os.ReadDir(folder); err != nil || len(files) != 1 {
			return nil, false, fmt.Errorf("read keystore: %d files: %w", len(files), err)
		}
	}
	path := filepath.Join(folder, files[0].Name())
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("read wallet: %w", err)
	}
	key, err := keystore.DecryptKey(b, passphrase)
	if errors.Is(err, keystore.ErrDecrypt) {
		return nil, false, fmt.Errorf("the passphrase does not open %s", path)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s is no keystore file: %w", path, err)
	}
	return ethereum.FromECDSA(key.PrivateKey), made, nil
}

// databaseKey derives the local database's key from the wallet, so that the
// passphrase protects both.
func databaseKey(wallet *ethereum.Key) (conclave.Key, error) {
	b, err := hkdf.Key(sha256.New, wallet.PrivateBytes(), nil, "conclave chat database key", len(conclave.Key{}))
	if err != nil {
		return conclave.Key{}, err
	}
	return conclave.Key(b), nil
}

// passphrase reads it from a file, or asks at a terminal: twice where it is that of
// a wallet which is yet to be made.
func (c *console) passphrase(ctx context.Context, dir, file string) (string, error) {
	if file != "" {
		return jetstream.ReadSecret(file)
	}
	in, ok := c.in.(*os.File)
	if !ok || !isTerminal(in) {
		return "", usagef("standard input is no terminal to ask for the passphrase at: give --passphrase-file")
	}
	files, err := os.ReadDir(keystoreOf(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read keystore: %w", err)
	}
	if len(files) > 0 {
		return c.askPassphrase(ctx, in, "passphrase of your wallet: ")
	}
	fmt.Fprintf(c.err, "There is no wallet in %s: a new one is made. Its passphrase protects the wallet and your messages, and nobody can reset it.\n", dir)
	first, err := c.askPassphrase(ctx, in, "passphrase of the new wallet: ")
	if err != nil {
		return "", err
	}
	again, err := c.askPassphrase(ctx, in, "the same once more: ")
	if err == nil && again != first {
		err = errors.New("the two differ: nothing has changed")
	}
	return first, err
}

func (c *console) askPassphrase(ctx context.Context, in *os.File, prompt string) (string, error) {
	secret, err := c.askSecret(ctx, in, prompt)
	if err == nil && secret == "" {
		err = errors.New("a wallet needs a passphrase")
	}
	return secret, err
}

func keystoreOf(dir string) string { return filepath.Join(dir, "keystore") }
