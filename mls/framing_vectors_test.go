package mls

import (
	"crypto/rand"
	"errors"
	"testing"
)

func TestVectorsMessageProtection(t *testing.T) {
	type vector struct {
		Suite                   CipherSuite `json:"cipher_suite"`
		GroupID                 hexBytes    `json:"group_id"`
		Epoch                   uint64
		TreeHash                hexBytes `json:"tree_hash"`
		ConfirmedTranscriptHash hexBytes `json:"confirmed_transcript_hash"`
		SignaturePriv           hexBytes `json:"signature_priv"`
		SignaturePub            hexBytes `json:"signature_pub"`
		EncryptionSecret        hexBytes `json:"encryption_secret"`
		SenderDataSecret        hexBytes `json:"sender_data_secret"`
		MembershipKey           hexBytes `json:"membership_key"`
		Proposal                hexBytes
		ProposalPub             hexBytes `json:"proposal_pub"`
		ProposalPriv            hexBytes `json:"proposal_priv"`
		Commit                  hexBytes
		CommitPub               hexBytes `json:"commit_pub"`
		CommitPriv              hexBytes `json:"commit_priv"`
		Application             hexBytes
		ApplicationPriv         hexBytes `json:"application_priv"`
	}
	eachCase(t, "message-protection.json", func(t *testing.T, c vector) {
		s := c.Suite
		gc := &GroupContext{
			CipherSuite: s, GroupID: c.GroupID, Epoch: c.Epoch,
			TreeHash: c.TreeHash, ConfirmedTranscriptHash: c.ConfirmedTranscriptHash,
		}
		context := gc.append(nil)
		e := &epochSecrets{suite: s, senderData: secret(c.SenderDataSecret), membership: secret(c.MembershipKey)}
		tree := func() secretTree { return newSecretTree(s, secret(c.EncryptionSecret), 2) }
		signer, err := NewSigner(s, c.SignaturePriv)
		if err != nil {
			t.Fatal(err)
		}
		verified := func(u *unverifiedContent, err error) *authenticatedContent {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			a, err := u.verify(nil, s, c.SignaturePub, context)
			if err != nil {
				t.Fatal(err)
			}
			if a.sender != memberSender(1) {
				t.Errorf("sender = %v, want leaf 1", a.sender)
			}
			return a
		}
		openPublic := func(message []byte) *authenticatedContent {
			t.Helper()
			m, err := parseMessage(message)
			if err != nil {
				t.Fatal(err)
			}
			return verified(m.public.open(e, context))
		}
		openPrivate := func(message []byte) *authenticatedContent {
			t.Helper()
			m, err := parseMessage(message)
			if err != nil {
				t.Fatal(err)
			}
			d, err := m.private.senderData(e)
			if err != nil {
				t.Fatal(err)
			}
			_, u, err := m.private.open(tree(), d)
			return verified(u, err)
		}
		sign := func(f framedContent, w WireFormat) *authenticatedContent {
			t.Helper()
			a, err := f.sign(s, signer, w, context)
			if err != nil {
				t.Fatal(err)
			}
			a.confirmationTag = make([]byte, s.hashSize()) // Not checked here.
			return a
		}
		sealPrivate := func(f framedContent) []byte {
			t.Helper()
			_, message, err := e.sealPrivate(rand.Reader, tree(), sign(f, WirePrivateMessage), 17)
			if err != nil {
				t.Fatal(err)
			}
			return message
		}

		from := gc.content(memberSender(1), []byte("authenticated data"))
		r := newReader(c.Proposal)
		proposal := from.withProposal(decodeProposal(r))
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		r = newReader(c.Commit)
		commit := from.withCommit(decodeCommit(r))
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		application := from.withApplication(c.Application)

		wantBytes(t, "proposal_pub", openPublic(c.ProposalPub).body, c.Proposal)
		wantBytes(t, "proposal_priv", openPrivate(c.ProposalPriv).body, c.Proposal)
		wantBytes(t, "commit_pub", openPublic(c.CommitPub).body, c.Commit)
		wantBytes(t, "commit_priv", openPrivate(c.CommitPriv).body, c.Commit)
		wantBytes(t, "application_priv", openPrivate(c.ApplicationPriv).application, c.Application)

		wantBytes(t, "our public proposal", openPublic(e.sealPublic(sign(proposal, WirePublicMessage), context)).body, c.Proposal)
		wantBytes(t, "our public commit", openPublic(e.sealPublic(sign(commit, WirePublicMessage), context)).body, c.Commit)
		if _, err := application.sign(s, signer, WirePublicMessage, context); !errors.Is(err, errApplicationInPublic) {
			t.Errorf("application data as a public message: %v", err)
		}
		wantBytes(t, "our private proposal", openPrivate(sealPrivate(proposal)).body, c.Proposal)
		wantBytes(t, "our private commit", openPrivate(sealPrivate(commit)).body, c.Commit)
		wantBytes(t, "our private application", openPrivate(sealPrivate(application)).application, c.Application)
	})
}

// Every structure of the RFC decodes and encodes to the same bytes.
func TestVectorsMessages(t *testing.T) {
	type vector struct {
		Welcome                hexBytes `json:"mls_welcome"`
		GroupInfo              hexBytes `json:"mls_group_info"`
		KeyPackage             hexBytes `json:"mls_key_package"`
		RatchetTree            hexBytes `json:"ratchet_tree"`
		GroupSecrets           hexBytes `json:"group_secrets"`
		Add                    hexBytes `json:"add_proposal"`
		Update                 hexBytes `json:"update_proposal"`
		Remove                 hexBytes `json:"remove_proposal"`
		PreSharedKey           hexBytes `json:"pre_shared_key_proposal"`
		ReInit                 hexBytes `json:"re_init_proposal"`
		ExternalInit           hexBytes `json:"external_init_proposal"`
		GroupContextExtensions hexBytes `json:"group_context_extensions_proposal"`
		Commit                 hexBytes `json:"commit"`
		PublicApplication      hexBytes `json:"public_message_application"`
		PublicProposal         hexBytes `json:"public_message_proposal"`
		PublicCommit           hexBytes `json:"public_message_commit"`
		PrivateMessage         hexBytes `json:"private_message"`
	}
	eachCase(t, "messages.json", func(t *testing.T, c vector) {
		message := func(b []byte, want WireFormat) {
			t.Helper()
			m, err := parseMessage(b)
			if err != nil {
				t.Fatal(err)
			}
			if m.WireFormat() != want {
				t.Errorf("wire format %v, want %v", m.WireFormat(), want)
			}
			wantBytes(t, "encoded message", m.appendFields(t, nil), b)
		}
		structure := func(b []byte, recode func(r *reader) []byte) {
			t.Helper()
			r := newReader(b)
			got := recode(r)
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "encoded structure", got, b)
		}
		proposal := func(b []byte, typ ProposalType) {
			t.Helper()
			structure(append(appendU16(nil, uint16(typ)), b...), func(r *reader) []byte {
				return appendProposal(nil, decodeProposal(r))
			})
		}
		message(c.Welcome, WireWelcome)
		message(c.GroupInfo, WireGroupInfo)
		message(c.KeyPackage, WireKeyPackage)
		message(c.PublicApplication, WirePublicMessage)
		message(c.PublicProposal, WirePublicMessage)
		message(c.PublicCommit, WirePublicMessage)
		message(c.PrivateMessage, WirePrivateMessage)
		proposal(c.Add, ProposalAdd)
		proposal(c.Update, ProposalUpdate)
		structure(c.Update, func(r *reader) []byte { return decodeLeafNode(r).appendFields(t, nil) })
		proposal(c.Remove, ProposalRemove)
		proposal(c.PreSharedKey, ProposalPreSharedKey)
		proposal(c.ReInit, ProposalReInit)
		proposal(c.ExternalInit, ProposalExternalInit)
		proposal(c.GroupContextExtensions, ProposalGroupContextExtensions)
		structure(c.Commit, func(r *reader) []byte { return decodeCommit(r).append(nil) })
		m, err := parseMessage(c.KeyPackage)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := parseTree(m.keyPackage.CipherSuite, c.RatchetTree)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "ratchet_tree", tree.append(nil), c.RatchetTree)
		structure(c.GroupSecrets, func(r *reader) []byte { return decodeGroupSecrets(r).append(nil) })
	})
}

// appendFields encodes a message from its decoded fields alone, where structures
// that were signed otherwise keep their encoding.
func (m *Message) appendFields(t testing.TB, b []byte) []byte {
	b = appendMessageHeader(b, m.wire)
	switch m.wire {
	case WirePublicMessage:
		p := *m.public
		switch f := p.content.framedContent; f.contentType {
		case ContentApplication:
			p.content.framedContent = f.withApplication(f.application)
		case ContentProposal:
			p.content.framedContent = f.withProposal(f.proposal)
		case ContentCommit:
			p.content.framedContent = f.withCommit(f.commit)
		}
		return p.append(b)
	case WirePrivateMessage:
		p := m.private
		b = appendVector(b, p.groupID)
		b = appendU64(b, p.epoch)
		b = appendU8(b, uint8(p.contentType))
		b = appendVector(b, p.aad)
		b = appendVector(b, p.encryptedSenderData)
		return appendVector(b, p.ciphertext)
	case WireWelcome:
		return m.welcome.append(b)
	case WireGroupInfo:
		g := m.groupInfo
		signed, err := g.signed(suite3, testSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		return appendVector(append(b, signed.raw[:signed.tbs]...), g.signature)
	default:
		k := m.keyPackage
		b = appendU16(b, k.Version)
		b = appendU16(b, uint16(k.CipherSuite))
		b = appendVector(b, k.InitKey)
		b = k.LeafNode.appendFields(t, b)
		b = k.Extensions.append(b)
		return appendVector(b, k.Signature)
	}
}

func (n *LeafNode) appendFields(t testing.TB, b []byte) []byte {
	signed, err := n.signed(suite3, testSigner(t), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return appendVector(append(b, signed.raw[:signed.tbs]...), n.Signature)
}

func testSigner(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner(suite3, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
