package mls

import "testing"

func TestVectorsKeySchedule(t *testing.T) {
	type vector struct {
		Suite       CipherSuite `json:"cipher_suite"`
		GroupID     hexBytes    `json:"group_id"`
		InitialInit hexBytes    `json:"initial_init_secret"`
		Epochs      []struct {
			TreeHash                hexBytes `json:"tree_hash"`
			CommitSecret            hexBytes `json:"commit_secret"`
			PSKSecret               hexBytes `json:"psk_secret"`
			ConfirmedTranscriptHash hexBytes `json:"confirmed_transcript_hash"`
			GroupContext            hexBytes `json:"group_context"`
			JoinerSecret            hexBytes `json:"joiner_secret"`
			WelcomeSecret           hexBytes `json:"welcome_secret"`
			InitSecret              hexBytes `json:"init_secret"`
			SenderDataSecret        hexBytes `json:"sender_data_secret"`
			EncryptionSecret        hexBytes `json:"encryption_secret"`
			ExporterSecret          hexBytes `json:"exporter_secret"`
			EpochAuthenticator      hexBytes `json:"epoch_authenticator"`
			ExternalSecret          hexBytes `json:"external_secret"`
			ConfirmationKey         hexBytes `json:"confirmation_key"`
			MembershipKey           hexBytes `json:"membership_key"`
			ResumptionPSK           hexBytes `json:"resumption_psk"`
			ExternalPub             hexBytes `json:"external_pub"`
			Exporter                struct {
				Label           string
				Context, Secret hexBytes
				Length          int
			}
		}
	}
	eachCase(t, "key-schedule.json", func(t *testing.T, c vector) {
		s, initSecret := c.Suite, secret(c.InitialInit)
		for i, v := range c.Epochs {
			context := &GroupContext{
				CipherSuite: s, GroupID: c.GroupID, Epoch: uint64(i),
				TreeHash: v.TreeHash, ConfirmedTranscriptHash: v.ConfirmedTranscriptHash,
			}
			encoded := context.append(nil)
			wantBytes(t, "group_context", encoded, v.GroupContext)
			r := newReader(v.GroupContext)
			wantBytes(t, "decoded group_context", decodeGroupContext(r).append(nil), v.GroupContext)
			if err := r.end(); err != nil {
				t.Error(err)
			}

			psk := secret(v.PSKSecret)
			joiner := s.joinerSecret(initSecret, secret(v.CommitSecret), encoded)
			e, encryption := s.newEpochSecrets(s.epochSecret(joiner, psk, encoded))
			wantBytes(t, "joiner_secret", joiner, v.JoinerSecret)
			wantBytes(t, "welcome_secret", s.welcomeSecret(joiner, psk), v.WelcomeSecret)
			wantBytes(t, "init_secret", e.init, v.InitSecret)
			wantBytes(t, "sender_data_secret", e.senderData, v.SenderDataSecret)
			wantBytes(t, "encryption_secret", encryption, v.EncryptionSecret)
			wantBytes(t, "exporter_secret", e.exporter, v.ExporterSecret)
			wantBytes(t, "epoch_authenticator", e.authenticator, v.EpochAuthenticator)
			wantBytes(t, "external_secret", e.external, v.ExternalSecret)
			wantBytes(t, "confirmation_key", e.confirmation, v.ConfirmationKey)
			wantBytes(t, "membership_key", e.membership, v.MembershipKey)
			wantBytes(t, "resumption_psk", e.resumption, v.ResumptionPSK)

			_, public, err := e.externalKeyPair()
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "external_pub", public, v.ExternalPub)
			exported, err := e.export(v.Exporter.Label, v.Exporter.Context, v.Exporter.Length)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "exporter.secret", exported, v.Exporter.Secret)
			initSecret = e.init
		}
	})
}

func TestVectorsPSKSecret(t *testing.T) {
	type vector struct {
		Suite CipherSuite `json:"cipher_suite"`
		PSKs  []struct {
			ID    hexBytes `json:"psk_id"`
			Key   hexBytes `json:"psk"`
			Nonce hexBytes `json:"psk_nonce"`
		}
		Secret hexBytes `json:"psk_secret"`
	}
	eachCase(t, "psk_secret.json", func(t *testing.T, c vector) {
		var psks []preSharedKey
		for _, p := range c.PSKs {
			id := PreSharedKeyID{Type: PSKExternal, ID: p.ID, Nonce: p.Nonce}
			psks = append(psks, preSharedKey{id: id, key: secret(p.Key)})
		}
		wantBytes(t, "psk_secret", c.Suite.pskSecret(psks), c.Secret)
	})
}

func TestVectorsTranscriptHashes(t *testing.T) {
	type vector struct {
		Suite           CipherSuite `json:"cipher_suite"`
		ConfirmationKey hexBytes    `json:"confirmation_key"`
		Content         hexBytes    `json:"authenticated_content"`
		InterimBefore   hexBytes    `json:"interim_transcript_hash_before"`
		ConfirmedAfter  hexBytes    `json:"confirmed_transcript_hash_after"`
		InterimAfter    hexBytes    `json:"interim_transcript_hash_after"`
	}
	eachCase(t, "transcript-hashes.json", func(t *testing.T, c vector) {
		var u unverifiedContent
		r := newReader(c.Content)
		u.decode(r)
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		if u.commit == nil {
			t.Fatal("the content is not a commit")
		}
		a := (*authenticatedContent)(&u) // The vector has no key to verify with.
		wantBytes(t, "authenticated_content", a.append(nil), c.Content)
		confirmed := a.confirmedTranscriptHash(c.Suite, c.InterimBefore)
		wantBytes(t, "confirmed_transcript_hash_after", confirmed, c.ConfirmedAfter)
		e := &epochSecrets{suite: c.Suite, confirmation: secret(c.ConfirmationKey)}
		if err := e.verifyConfirmationTag(confirmed, u.confirmationTag); err != nil {
			t.Error(err)
		}
		interim := c.Suite.interimTranscriptHash(confirmed, u.confirmationTag)
		wantBytes(t, "interim_transcript_hash_after", interim, c.InterimAfter)
	})
}

func TestVectorsSecretTree(t *testing.T) {
	type vector struct {
		Suite      CipherSuite `json:"cipher_suite"`
		SenderData struct {
			Secret                 hexBytes `json:"sender_data_secret"`
			Ciphertext, Key, Nonce hexBytes
		} `json:"sender_data"`
		EncryptionSecret hexBytes `json:"encryption_secret"`
		Leaves           [][]struct {
			Generation       uint32
			HandshakeKey     hexBytes `json:"handshake_key"`
			HandshakeNonce   hexBytes `json:"handshake_nonce"`
			ApplicationKey   hexBytes `json:"application_key"`
			ApplicationNonce hexBytes `json:"application_nonce"`
		}
	}
	eachCase(t, "secret-tree.json", func(t *testing.T, c vector) {
		k := c.Suite.senderDataKey(secret(c.SenderData.Secret), c.SenderData.Ciphertext)
		wantBytes(t, "sender data key", k.key(), c.SenderData.Key)
		wantBytes(t, "sender data nonce", k.nonce[:], c.SenderData.Nonce)

		tree := newSecretTree(c.Suite, secret(c.EncryptionSecret), uint32(len(c.Leaves)))
		for i, leaf := range c.Leaves {
			for _, v := range leaf {
				take := func(kind ratchetKind) messageKey {
					next, k, err := tree.open(LeafIndex(i), kind, v.Generation)
					if err != nil {
						t.Fatal(err)
					}
					tree = next
					return k
				}
				h, a := take(handshakeRatchet), take(applicationRatchet)
				wantBytes(t, "handshake_key", h.key(), v.HandshakeKey)
				wantBytes(t, "handshake_nonce", h.nonce[:], v.HandshakeNonce)
				wantBytes(t, "application_key", a.key(), v.ApplicationKey)
				wantBytes(t, "application_nonce", a.nonce[:], v.ApplicationNonce)
			}
		}
	})
}
