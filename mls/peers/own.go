package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/conclave-chat/conclave/mls"
)

// contextExtension is the extension that all members support and that commits
// change; required_capabilities name it, as OpenMLS wants.
const contextExtension = mls.ExtensionType(0xff00)

// own is a member that this project's engine plays.
type own struct {
	name    string
	rand    io.Reader
	suite   mls.CipherSuite
	private bool
	signer  *mls.Signer
	keys    map[string][]byte // pre-shared, by their ids
	offered []offer
	group   *mls.Group
	staged  *mls.StagedCommit
}

// An offer is a key package that was given away, with its secrets.
type offer struct {
	keyPackage *mls.KeyPackage
	secrets    *mls.KeyPackageSecrets
}

func newOwn(rand io.Reader, name string, suite int, private bool) (*own, error) {
	o := &own{name: name, rand: rand, suite: mls.CipherSuite(suite), private: private, keys: map[string][]byte{}}
	var err error
	o.signer, err = mls.GenerateSigner(o.suite, rand)
	return o, err
}

func (o *own) capabilities() mls.Capabilities {
	return mls.Capabilities{
		Versions: []uint16{1}, CipherSuites: []mls.CipherSuite{o.suite},
		Extensions: []mls.ExtensionType{contextExtension}, Credentials: []mls.CredentialType{mls.CredentialBasic},
	}
}

// lifetime is one that all engines accept today.
func lifetime() mls.Lifetime {
	now := time.Now()
	return mls.Lifetime{
		NotBefore: uint64(now.Add(-time.Hour).Unix()),
		NotAfter:  uint64(now.Add(30 * 24 * time.Hour).Unix()),
	}
}

func (o *own) find(id mls.PreSharedKeyID) ([]byte, bool) {
	key, ok := o.keys[string(id.ID)]
	return key, ok && id.Type == mls.PSKExternal
}

// wrapped is the MLSMessage of a key package, which this engine has bare.
func wrapped(keyPackage []byte) []byte { return append([]byte{0, 1, 0, 5}, keyPackage...) }

func unwrapped(message []byte) (*mls.KeyPackage, error) {
	bare, ok := strings.CutPrefix(string(message), "\x00\x01\x00\x05")
	if !ok {
		return nil, errors.New("not a key package")
	}
	return mls.ParseKeyPackage([]byte(bare))
}

func (o *own) keyPackage() ([]byte, error) {
	k, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Rand: o.rand, Suite: o.suite, Signer: o.signer, Credential: mls.BasicCredential([]byte(o.name)),
		Capabilities: o.capabilities(), Lifetime: lifetime(),
	})
	if err != nil {
		return nil, err
	}
	o.offered = append(o.offered, offer{k, secrets})
	return wrapped(k.Bytes()), nil
}

func (o *own) create(groupID []byte) (state, error) {
	var err error
	o.group, err = mls.Create(mls.CreateConfig{
		Rand: o.rand, Suite: o.suite, GroupID: groupID, Signer: o.signer,
		Credential: mls.BasicCredential([]byte(o.name)), Capabilities: o.capabilities(), Lifetime: lifetime(), PSK: o.find,
	})
	return o.now(err)
}

func (o *own) psk(id, key []byte) error {
	o.keys[string(id)] = key
	return nil
}

// proposal is what a change proposes; nil for a path.
func (o *own) proposal(c change) (mls.Proposal, error) {
	kind, text, _ := strings.Cut(string(c), ":")
	if kind == "remove" {
		leaf, err := strconv.Atoi(text)
		return mls.Remove{Removed: mls.LeafIndex(leaf)}, err
	}
	value, err := hex.DecodeString(text)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "add":
		k, err := unwrapped(value)
		return mls.Add{KeyPackage: k}, err
	case "update":
		return mls.Update{}, nil
	case "psk":
		nonce := make([]byte, 32)
		_, err := io.ReadFull(o.rand, nonce)
		return mls.PreSharedKey{ID: mls.PreSharedKeyID{Type: mls.PSKExternal, ID: value, Nonce: nonce}}, err
	case "context":
		return mls.GroupContextExtensions{Extensions: mls.Extensions{
			{Type: mls.ExtensionRequiredCapabilities, Data: mls.RequiredCapabilities{Extensions: []mls.ExtensionType{contextExtension}}.Bytes()},
			{Type: contextExtension, Data: value},
		}}, nil
	case "path":
		return nil, nil
	}
	return nil, fmt.Errorf("no such change: %q", kind)
}

func (o *own) propose(c change) ([]byte, error) {
	p, err := o.proposal(c)
	if err != nil {
		return nil, err
	}
	next, message, err := o.group.Propose(o.rand, p, nil)
	o.group = next
	return message, err
}

func (o *own) commit(changes ...change) (commit, welcome []byte, err error) {
	config := mls.CommitConfig{Rand: o.rand, ByReference: true, Public: !o.private}
	config.NoPath = len(changes) > 0 && len(o.group.Queued()) == 0
	for _, c := range changes {
		p, err := o.proposal(c)
		if err != nil {
			return nil, nil, err
		}
		if p != nil {
			config.Proposals = append(config.Proposals, p)
		}
		config.NoPath = config.NoPath && (c.kind() == "add" || c.kind() == "psk")
	}
	if o.staged, err = o.group.Commit(config); err != nil {
		return nil, nil, err
	}
	o.group = o.staged.Sent()
	return o.staged.Message(), o.staged.Welcome(), nil
}

func (o *own) merge() (state, error) {
	next, err := o.group.Merge(o.staged)
	o.group = next
	return o.now(err)
}

func (o *own) seal(data []byte) ([]byte, error) {
	next, message, err := o.group.Seal(o.rand, nil, data)
	o.group = next
	return message, err
}

func (o *own) open(message []byte) (opened, error) {
	m, err := (*mls.Realm)(nil).Parse(message)
	if err != nil {
		return opened{}, err
	}
	next, content, err := o.group.Open(m)
	if err != nil {
		return opened{}, err
	}
	o.group = next
	switch c := content.(type) {
	case *mls.Application:
		return opened{kind: "application", sender: strconv.Itoa(int(c.Sender)), data: c.Data}, nil
	case *mls.StagedCommit:
		if o.group, err = o.group.Merge(c); err != nil {
			return opened{}, err
		}
		if !o.group.Active() {
			return opened{kind: "removed"}, nil
		}
		now, err := o.now(nil)
		return opened{kind: "commit", state: now}, err
	}
	return opened{kind: "proposal"}, nil
}

func (o *own) join(welcome []byte) (state, error) {
	m, err := (*mls.Realm)(nil).Parse(welcome)
	if err != nil {
		return "", err
	}
	err = errors.New("no key package was given away")
	for _, offer := range o.offered {
		var g *mls.Group
		g, _, err = mls.Join(mls.JoinConfig{
			Signer: o.signer, KeyPackage: offer.keyPackage, Secrets: offer.secrets, Welcome: m, PSK: o.find,
		})
		if err == nil {
			o.group = g
			break
		}
	}
	return o.now(err)
}

func (o *own) info() ([]byte, error) { return o.group.Info() }

func (o *own) external(info []byte) ([]byte, state, error) {
	m, err := (*mls.Realm)(nil).Parse(info)
	if err != nil {
		return nil, "", err
	}
	outsider, staged, err := mls.JoinExternal(mls.ExternalConfig{
		Rand: o.rand, Signer: o.signer, Credential: mls.BasicCredential([]byte(o.name)),
		Capabilities: o.capabilities(), GroupInfo: m, Resync: o.group != nil, PSK: o.find,
	})
	if err != nil {
		return nil, "", err
	}
	o.group, err = outsider.Merge(staged)
	now, err := o.now(err)
	return staged.Message(), now, err
}

func (o *own) forget() error { return nil }

// now is the member's state, after a verb that may have failed.
func (o *own) now(err error) (state, error) {
	if err != nil {
		return "", err
	}
	exported, err := o.group.Export("peers", []byte("context"), 32)
	if err != nil {
		return "", err
	}
	b := fmt.Appendf(nil, "%d %x %x %x ", o.group.Epoch(), o.group.EpochAuthenticator(), o.group.Context().TreeHash, exported)
	for i, leaf := range o.group.Members() {
		b = fmt.Appendf(b, "%d:%x:%x,", i, leaf.Credential.Identity, leaf.SignatureKey)
	}
	return state(b), nil
}
