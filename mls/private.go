package mls

import (
	"fmt"
	"io"
)

// Private messages: signed and encrypted. See RFC 9420, Section 6.3.

type privateMessage struct {
	groupID             []byte
	epoch               uint64
	contentType         ContentType
	aad                 []byte // authenticated_data
	encryptedSenderData []byte
	ciphertext          []byte

	// The additional data of both ciphertexts are prefixes of the message.
	senderDataAAD []byte
	contentAAD    []byte
}

func decodePrivateMessage(r *reader) *privateMessage {
	m, start := new(privateMessage), r.in
	m.groupID = r.vector()
	m.epoch = r.u64()
	m.contentType = decodeContentType(r)
	m.senderDataAAD = start[:len(start)-len(r.in)]
	m.aad = r.vector()
	m.contentAAD = start[:len(start)-len(r.in)]
	m.encryptedSenderData = r.vector()
	m.ciphertext = r.vector()
	return m
}

// senderData says who encrypted a message, and with which key. See RFC 9420,
// Section 6.3.2.
type senderData struct {
	leaf       LeafIndex
	generation uint32
	guard      [4]byte // reuse_guard
}

const senderDataSize = 12

// senderDataKey derives the key and nonce for a message's sender data from a
// sample of its ciphertext.
func (s CipherSuite) senderDataKey(senderDataSecret secret, ciphertext []byte) messageKey {
	sample := ciphertext[:min(len(ciphertext), hashSize)]
	k := messageKey{size: uint8(s.keySize())}
	s.expandInto(k.key(), senderDataSecret, "key", sample)
	s.expandInto(k.nonce[:], senderDataSecret, "nonce", sample)
	return k
}

// senderData opens the message's sender data. The caller checks that the leaf
// is a member's, and whether it is its own.
func (m *privateMessage) senderData(e *epochSecrets) (senderData, error) {
	k := e.suite.senderDataKey(e.senderData, m.ciphertext)
	plaintext, err := e.suite.openAEAD(k.key(), k.nonce[:], m.senderDataAAD, m.encryptedSenderData)
	if err != nil {
		return senderData{}, err
	}
	r := newReader(plaintext)
	d := senderData{leaf: LeafIndex(r.u32()), generation: r.u32()}
	copy(d.guard[:], r.take(len(d.guard)))
	return d, r.end()
}

// guarded is the key schedule's nonce with the reuse guard. See RFC 9420,
// Section 6.3.1.
func (d *senderData) guarded(nonce [nonceSize]byte) [nonceSize]byte {
	for i, g := range d.guard {
		nonce[i] ^= g
	}
	return nonce
}

// open decrypts the content. The content still has to be verified; only then
// is the returned tree, from which the key is gone, the one to go on with.
func (m *privateMessage) open(t secretTree, d senderData) (next secretTree, u *unverifiedContent, err error) {
	next, plaintext, err := m.decrypt(t, d)
	if err != nil {
		return t, nil, err
	}
	if u, err = m.decodeContent(d.leaf, plaintext); err != nil {
		return t, nil, err
	}
	return next, u, nil
}

// decrypt is the first half of open.
func (m *privateMessage) decrypt(t secretTree, d senderData) (next secretTree, plaintext []byte, err error) {
	next, k, err := t.open(d.leaf, ratchetFor(m.contentType), d.generation)
	if err != nil {
		return t, nil, err
	}
	nonce := d.guarded(k.nonce)
	plaintext, err = t.suite.openAEAD(k.key(), nonce[:], m.contentAAD, m.ciphertext)
	if err != nil {
		return t, nil, err
	}
	return next, plaintext, nil
}

// decodeContent is the second half of open: PrivateMessageContent.
func (m *privateMessage) decodeContent(from LeafIndex, plaintext []byte) (*unverifiedContent, error) {
	u := &unverifiedContent{
		wire: WirePrivateMessage,
		framedContent: framedContent{
			groupID: m.groupID, epoch: m.epoch, sender: memberSender(from), aad: m.aad, contentType: m.contentType,
		},
	}
	r := newReader(plaintext)
	u.decodeBody(r)
	u.decodeAuth(r)
	for _, b := range r.in {
		if b != 0 {
			r.fail(errPadding)
			break
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return u, nil
}

// sealPrivate is the MLSMessage with the PrivateMessage of a signed content,
// with so many bytes of padding. The returned tree must be stored before the
// message leaves.
func (e *epochSecrets) sealPrivate(rand io.Reader, t secretTree, a *authenticatedContent, padding int) (next secretTree, message []byte, err error) {
	if a.sender.Type != SenderMember {
		return t, nil, errSenderContent
	}
	d := senderData{leaf: a.sender.leaf()}
	if _, err := io.ReadFull(rand, d.guard[:]); err != nil {
		return t, nil, fmt.Errorf("mls: seal: reuse guard: %w", err)
	}
	next, k, err := t.seal(d.leaf, ratchetFor(a.contentType))
	if err != nil {
		return t, nil, err
	}
	d.generation = k.generation

	b := make([]byte, 0, 2*a.encodedSize()+padding+len(a.signature))
	b = appendMessageHeader(b, WirePrivateMessage)
	start := len(b)
	b = appendVector(b, a.groupID)
	b = appendU64(b, a.epoch)
	b = appendU8(b, uint8(a.contentType))
	senderDataAAD := b[start:]
	b = appendVector(b, a.aad)
	contentAAD := b[start:]

	plaintext := make([]byte, 0, len(a.body)+len(a.signature)+len(a.confirmationTag)+8+padding)
	plaintext = append(plaintext, a.body...)
	plaintext = (*unverifiedContent)(a).appendAuth(plaintext)
	plaintext = append(plaintext, make([]byte, padding)...)
	nonce := d.guarded(k.nonce)
	ciphertext := e.suite.sealAEAD(k.key(), nonce[:], contentAAD, plaintext)

	data := make([]byte, 0, senderDataSize)
	data = appendU32(data, uint32(d.leaf))
	data = appendU32(data, d.generation)
	data = append(data, d.guard[:]...)
	sk := e.suite.senderDataKey(e.senderData, ciphertext)
	b = appendVector(b, e.suite.sealAEAD(sk.key(), sk.nonce[:], senderDataAAD, data))
	return next, appendVector(b, ciphertext), nil
}
