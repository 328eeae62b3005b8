package mls

import (
	"bytes"
	"fmt"
	"slices"
)

// JoinConfig says who joins by which Welcome.
type JoinConfig struct {
	Realm      *Realm
	Signer     *Signer
	KeyPackage *KeyPackage
	Secrets    *KeyPackageSecrets
	Welcome    *Message
	// RatchetTree is the data of a ratchet_tree extension, for a Welcome that
	// does not bring the tree.
	RatchetTree []byte
	PSK         PSKSource // may be nil
}

// JoinInfo is what a Welcome says besides the group.
type JoinInfo struct {
	Signer              LeafIndex  // who committed the Add
	GroupInfoExtensions Extensions // all but the tree
	HasPathSecret       bool
}

// Join enters the group that a Welcome leads to: RFC 9420, Section 12.4.3.1,
// step by step. That the group id is new, and that the credentials in the tree
// are authentic, is for the caller to check. The key package's secrets are used
// up: the caller deletes them when it stores the group.
func Join(c JoinConfig) (*Group, *JoinInfo, error) {
	g := &Group{realm: c.Realm, signer: c.Signer, psk: c.PSK, active: true}
	secrets, pskSecret, info, err := g.openWelcome(c)
	if err != nil {
		return nil, nil, err
	}
	suite := info.context.CipherSuite
	state, err := info.verifiedState(c.Realm, c.RatchetTree)
	if err != nil {
		return nil, nil, err
	}
	if err := g.takeLeaf(c, state, info.signer, secrets.pathSecret); err != nil {
		return nil, nil, err
	}

	shared, encryption := suite.newEpochSecrets(suite.epochSecret(secrets.joinerSecret, pskSecret, state.encoded))
	if err := shared.verifyConfirmationTag(state.context.ConfirmedTranscriptHash, info.confirmationTag); err != nil {
		return nil, nil, err
	}
	g.epoch = newEpoch(state, shared, encryption)
	extensions := slices.DeleteFunc(slices.Clone(info.extensions), func(e Extension) bool { return e.Type == ExtensionRatchetTree })
	return g, &JoinInfo{Signer: info.signer, GroupInfoExtensions: extensions, HasPathSecret: secrets.pathSecret != nil}, nil
}

// openWelcome decrypts the group secrets and the GroupInfo of a Welcome.
func (g *Group) openWelcome(c JoinConfig) (secrets groupSecrets, pskSecret secret, info *GroupInfo, err error) {
	if c.Welcome.wire != WireWelcome {
		return secrets, nil, nil, errMessageKind
	}
	w, suite := c.Welcome.welcome, c.KeyPackage.CipherSuite
	ref := c.KeyPackage.Ref()
	at := slices.IndexFunc(w.secrets, func(s encryptedGroupSecrets) bool { return bytes.Equal(s.newMember, ref) })
	if at < 0 {
		return secrets, nil, nil, errNotForUs
	}
	if w.suite != suite {
		return secrets, nil, nil, errSuiteMismatch
	}
	sealed := w.secrets[at].secrets
	opened, err := suite.decryptWithLabel(c.Secrets.InitKey, c.KeyPackage.InitKey, labelWelcome, w.groupInfo, sealed.kemOutput, sealed.ciphertext)
	if err != nil {
		return secrets, nil, nil, fmt.Errorf("open group secrets: %w", err)
	}
	r := newReader(opened)
	secrets = decodeGroupSecrets(r)
	if err := r.end(); err != nil {
		return secrets, nil, nil, fmt.Errorf("decode group secrets: %w", err)
	}
	pskSecret, err = g.welcomePSKs(secrets.psks, suite)
	if err != nil {
		return secrets, nil, nil, err
	}
	key, nonce := suite.welcomeKey(suite.welcomeSecret(secrets.joinerSecret, pskSecret))
	opened, err = suite.openAEAD(key, nonce, nil, w.groupInfo)
	if err != nil {
		return secrets, nil, nil, fmt.Errorf("open group info: %w", err)
	}
	info, err = parseGroupInfo(opened)
	if err != nil {
		return secrets, nil, nil, fmt.Errorf("decode group info: %w", err)
	}
	if info.context.CipherSuite != suite {
		return secrets, nil, nil, errSuiteMismatch
	}
	if slices.ContainsFunc(secrets.psks, PreSharedKeyID.foundsGroup) && info.context.Epoch != 1 {
		return secrets, nil, nil, errResumptionEpoch
	}
	return secrets, pskSecret, info, nil
}

// Invitation opens as much of a Welcome as says which group it leads to and whose
// signature its GroupInfo bears. The tree is only read, not verified: the leaf
// proves that whoever holds its signature key made this GroupInfo, and nothing
// about its credential or the other members. Join decides.
func Invitation(c JoinConfig) (groupID []byte, signer *LeafNode, err error) {
	g := &Group{realm: c.Realm, psk: c.PSK}
	_, _, info, err := g.openWelcome(c)
	if err != nil {
		return nil, nil, err
	}
	suite := info.context.CipherSuite
	named := newPublicState(info.context, nil, suite.interimTranscriptHash(info.context.ConfirmedTranscriptHash, info.confirmationTag))
	state, known := c.Realm.shared(named.id)
	if !known {
		data := c.RatchetTree
		if x, ok := info.extensions.Get(ExtensionRatchetTree); ok {
			data = x
		}
		if data == nil {
			return nil, nil, errNoTree
		}
		if named.tree, err = parseTree(suite, bytes.Clone(data)); err != nil {
			return nil, nil, fmt.Errorf("decode ratchet tree: %w", err)
		}
		state = named
	}
	signer, ok := state.tree.member(info.signer)
	if !ok {
		return nil, nil, errBlankLeaf
	}
	if err := c.Realm.verify(suite, signer.SignatureKey, labelGroupInfo, info.raw[:info.tbs], info.signature); err != nil {
		return nil, nil, fmt.Errorf("group info: %w", err)
	}
	return info.context.GroupID, signer, nil
}

// welcomePSKs looks up the pre-shared keys that a Welcome asks for.
func (g *Group) welcomePSKs(ids []PreSharedKeyID, suite CipherSuite) (secret, error) {
	if len(ids) > maxPSKs {
		return nil, errTooManyPSKs
	}
	founding := 0
	for _, id := range ids {
		if err := id.check(suite); err != nil {
			return nil, err
		}
		if id.foundsGroup() {
			founding++
		}
	}
	if founding > 1 {
		return nil, errPSKUsage
	}
	psks, err := g.findPSKs(ids)
	if err != nil {
		return nil, err
	}
	return suite.pskSecret(psks), nil
}

// foundsGroup reports whether a PSK is for a group made by reinitialization or
// branching.
func (p PreSharedKeyID) foundsGroup() bool {
	return p.Type == PSKResumption && p.Usage != ResumptionApplication
}

// takeLeaf finds the newcomer's leaf and gives it its private keys.
func (g *Group) takeLeaf(c JoinConfig, state *publicState, signer LeafIndex, pathSecret secret) error {
	i, ok := state.tree.signatureKeys.get(c.KeyPackage.LeafNode.SignatureKey)
	if !ok {
		return errOwnLeafMissing
	}
	g.own = LeafIndex(i)
	leaf, _ := state.tree.member(g.own)
	if !leaf.Equal(c.KeyPackage.LeafNode) {
		return errOwnLeafMissing
	}
	g.keys = &pathKeys{leaf: c.Secrets.EncryptionKey}
	if pathSecret == nil {
		return nil
	}
	if signer == g.own {
		return errBlankLeaf
	}
	common := commonAncestor(g.own, signer)
	steps := state.tree.filteredPath(signer)
	at := slices.IndexFunc(steps, func(s pathStep) bool { return s.node == common })
	if at < 0 {
		return errPathKey
	}
	var err error
	g.keys.parents, _, err = state.tree.climb(steps[at:], pathSecret)
	return err
}

func parseGroupInfo(b []byte) (*GroupInfo, error) {
	r := newReader(b)
	info := decodeGroupInfo(r)
	return info, r.end()
}

// verifiedState checks a GroupInfo and its tree as a newcomer does, and returns
// the state that they describe. The tree may come beside the GroupInfo. Whether
// the confirmation tag is right, only a member can tell.
func (info *GroupInfo) verifiedState(realm *Realm, ratchetTree []byte) (*publicState, error) {
	c := info.context
	suite := c.CipherSuite
	if err := suite.supported(); err != nil {
		return nil, err
	}
	if err := info.extensions.check(inGroupInfo); err != nil {
		return nil, err
	}
	if err := c.Extensions.checkContext(); err != nil {
		return nil, err
	}
	named := newPublicState(c, nil, suite.interimTranscriptHash(c.ConfirmedTranscriptHash, info.confirmationTag))
	data := ratchetTree
	if x, ok := info.extensions.Get(ExtensionRatchetTree); ok {
		data = x
	}
	if data == nil {
		return nil, errNoTree
	}
	// A tree has one encoding. Another one is judged as if nobody knew the state.
	state, known := realm.shared(named.id)
	if !known || !bytes.Equal(data, state.tree.append(make([]byte, 0, len(data)))) {
		// The tree keeps what it is made of: not the message.
		t, err := parseTree(suite, bytes.Clone(data))
		if err != nil {
			return nil, fmt.Errorf("decode ratchet tree: %w", err)
		}
		if !bytes.Equal(t.root.hash[:], c.TreeHash) {
			return nil, errTreeHash
		}
		q, err := c.Extensions.requirements()
		if err != nil {
			return nil, err
		}
		if err := t.validate(realm, c.GroupID, q); err != nil {
			return nil, fmt.Errorf("validate ratchet tree: %w", err)
		}
		named.tree = t
		named.detach()
		state = named
	}
	signer, ok := state.tree.member(info.signer)
	if !ok {
		return nil, errBlankLeaf
	}
	if err := realm.verify(suite, signer.SignatureKey, labelGroupInfo, info.raw[:info.tbs], info.signature); err != nil {
		return nil, fmt.Errorf("group info: %w", err)
	}
	// Only a state whose GroupInfo verified is for others to find.
	return realm.share(state), nil
}

// detach makes the state independent of the message that it came in.
func (s *publicState) detach() {
	s.context = decodeGroupContext(newReader(s.encoded))
}
