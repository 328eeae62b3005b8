package forge

import (
	"bytes"
	"fmt"

	"github.com/conclave-chat/conclave/mls"
)

// Key packages whose signatures are right and whose content is not.

// WithLeafKey puts another encryption key into a key package's leaf.
func WithLeafKey(k *mls.KeyPackage, signer *mls.Signer, key []byte) (*mls.KeyPackage, error) {
	return resigned(k, signer, func(leaf []byte) []byte {
		return bytes.Replace(leaf, vector(nil, k.LeafNode.EncryptionKey), vector(nil, key), 1)
	})
}

// WithLifetime gives a key package's leaf another lifetime.
func WithLifetime(k *mls.KeyPackage, signer *mls.Signer, notBefore, notAfter uint64) (*mls.KeyPackage, error) {
	was := u64(u64([]byte{byte(mls.SourceKeyPackage)}, k.LeafNode.Lifetime.NotBefore), k.LeafNode.Lifetime.NotAfter)
	is := u64(u64([]byte{byte(mls.SourceKeyPackage)}, notBefore), notAfter)
	return resigned(k, signer, func(leaf []byte) []byte { return bytes.Replace(leaf, was, is, 1) })
}

// resigned edits a key package's leaf and signs both anew (RFC 9420, Sections 7.2 and 10).
func resigned(k *mls.KeyPackage, signer *mls.Signer, edit func([]byte) []byte) (*mls.KeyPackage, error) {
	r := &reader{k.Bytes()}
	start := r.in
	r.take(4) // version and suite
	r.vector()
	head := bytes.Clone(r.since(start))
	start = r.in
	skipLeaf(r)
	leaf := r.since(start)
	leaf = edit(bytes.Clone(leaf[:len(leaf)-len(vector(nil, k.LeafNode.Signature))]))
	leaf = vector(leaf, Sign(signer, "LeafNodeTBS", leaf))
	body := vector(append(head, leaf...), encodeExtensions(k.Extensions))
	out, err := mls.ParseKeyPackage(vector(body, Sign(signer, "KeyPackageTBS", body)))
	if err != nil {
		return nil, fmt.Errorf("forge: key package: %w", err)
	}
	return out, nil
}
