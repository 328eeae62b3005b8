package mls

import "testing"

func TestVectorsWelcome(t *testing.T) {
	type vector struct {
		Suite      CipherSuite `json:"cipher_suite"`
		InitKey    hexBytes    `json:"init_priv"`
		Signer     hexBytes    `json:"signer_pub"`
		KeyPackage hexBytes    `json:"key_package"`
		Welcome    hexBytes    `json:"welcome"`
	}
	eachCase(t, "welcome.json", func(t *testing.T, c vector) {
		k := must(parseMessage(c.KeyPackage))(t).keyPackage
		m := must(parseMessage(c.Welcome))(t)
		w, suite := m.welcome, c.Suite
		at := -1
		for i, ref := range m.KeyPackageRefs() {
			if string(ref) == string(k.Ref()) {
				at = i
			}
		}
		if at < 0 {
			t.Fatal("no entry for the key package")
		}
		sealed := w.secrets[at].secrets
		opened := must(suite.decryptWithLabel(secret(c.InitKey), k.InitKey, labelWelcome, w.groupInfo, sealed.kemOutput, sealed.ciphertext))(t)
		secrets := decodeGroupSecrets(newReader(opened))
		psk := suite.zeroSecret()
		key, nonce := suite.welcomeKey(suite.welcomeSecret(secrets.joinerSecret, psk))
		info := must(parseGroupInfo(must(suite.openAEAD(key, nonce, nil, w.groupInfo))(t)))(t)
		if err := suite.verifyWithLabel(c.Signer, labelGroupInfo, info.raw[:info.tbs], info.signature); err != nil {
			t.Error(err)
		}
		epoch, _ := suite.newEpochSecrets(suite.epochSecret(secrets.joinerSecret, psk, info.context.append(nil)))
		if err := epoch.verifyConfirmationTag(info.context.ConfirmedTranscriptHash, info.confirmationTag); err != nil {
			t.Error(err)
		}
	})
}

type passiveVector struct {
	Suite CipherSuite `json:"cipher_suite"`
	PSKs  []struct {
		ID  hexBytes `json:"psk_id"`
		Key hexBytes `json:"psk"`
	} `json:"external_psks"`
	KeyPackage    hexBytes `json:"key_package"`
	Signature     hexBytes `json:"signature_priv"`
	Encryption    hexBytes `json:"encryption_priv"`
	Init          hexBytes `json:"init_priv"`
	Welcome       hexBytes `json:"welcome"`
	Tree          hexBytes `json:"ratchet_tree"`
	Authenticator hexBytes `json:"initial_epoch_authenticator"`
	Epochs        []struct {
		Proposals     []hexBytes `json:"proposals"`
		Commit        hexBytes   `json:"commit"`
		Authenticator hexBytes   `json:"epoch_authenticator"`
	} `json:"epochs"`
}

// follow plays a passive client through its scenario.
func (c passiveVector) follow(t *testing.T, realm *Realm) {
	external := map[string][]byte{}
	for _, p := range c.PSKs {
		external[string(p.ID)] = p.Key
	}
	resumption := map[uint64]secret{}
	psk := func(id PreSharedKeyID) ([]byte, bool) {
		if id.Type == PSKResumption {
			key, ok := resumption[id.Epoch]
			return key, ok
		}
		key, ok := external[string(id.ID)]
		return key, ok
	}
	k := must(realm.Parse(c.KeyPackage))(t).keyPackage
	if err := k.verify(realm); err != nil {
		t.Fatal(err)
	}
	signer := must(NewSigner(c.Suite, c.Signature))(t)
	equal(t, "signature key", signer.Public(), k.LeafNode.SignatureKey)
	g, _, err := Join(JoinConfig{
		Realm:       realm,
		Signer:      signer,
		KeyPackage:  k,
		Secrets:     &KeyPackageSecrets{InitKey: secret(c.Init), EncryptionKey: secret(c.Encryption)},
		Welcome:     must(realm.Parse(c.Welcome))(t),
		RatchetTree: c.Tree,
		PSK:         psk,
	})
	if err != nil {
		t.Fatal("join:", err)
	}
	equal(t, "initial epoch authenticator", g.EpochAuthenticator(), c.Authenticator)
	store := newRowStore()
	store.apply(t, g.Rows(nil))
	for i, e := range c.Epochs {
		resumption[g.Epoch()] = g.secrets.resumption
		stored := g
		for _, p := range e.Proposals {
			if g, _, err = g.Open(must(realm.Parse(p))(t)); err != nil {
				t.Fatalf("epoch %d: proposal: %v", i, err)
			}
		}
		_, opened, err := g.Open(must(realm.Parse(e.Commit))(t))
		if err != nil {
			t.Fatalf("epoch %d: commit: %v", i, err)
		}
		if g, err = g.Merge(opened.(*StagedCommit)); err != nil {
			t.Fatalf("epoch %d: merge: %v", i, err)
		}
		equal(t, "epoch authenticator", g.EpochAuthenticator(), e.Authenticator)
		store.apply(t, g.Rows(stored))
		if i%7 == 3 { // Every so often the client restarts.
			g = store.restore(t, realm, signer).WithPSK(psk)
		}
	}
}

func TestVectorsPassiveClient(t *testing.T) {
	for _, file := range []string{"passive-client-welcome.json", "passive-client-handling-commit.json", "passive-client-random.json"} {
		t.Run(file, func(t *testing.T) {
			realm := NewRealm(Public)
			eachCase(t, file, func(t *testing.T, c passiveVector) {
				c.follow(t, nil)
				c.follow(t, realm)
				c.follow(t, realm) // which finds everything in the realm
			})
		})
	}
}
