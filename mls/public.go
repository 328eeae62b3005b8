package mls

// Public messages: signed, not encrypted. See RFC 9420, Section 6.2.

type publicMessage struct {
	content       unverifiedContent
	membershipTag []byte // From members only.
}

func decodePublicMessage(r *reader) *publicMessage {
	m := new(publicMessage)
	m.content.wire = WirePublicMessage
	m.content.framedContent.decode(r)
	m.content.decodeAuth(r)
	if m.content.sender.Type == SenderMember {
		m.membershipTag = r.vector()
	}
	return m
}

func (m *publicMessage) append(b []byte) []byte {
	b = m.content.framedContent.append(b)
	b = m.content.appendAuth(b)
	if m.content.sender.Type == SenderMember {
		b = appendVector(b, m.membershipTag)
	}
	return b
}

// membershipTag is the MAC that only members can make.
func (e *epochSecrets) membershipTag(u *unverifiedContent, groupContext []byte) []byte {
	tbm := u.appendAuth(u.tbs(groupContext))
	return e.suite.mac(e.membership, tbm)
}

// open checks the membership tag. The content still has to be verified.
func (m *publicMessage) open(e *epochSecrets, groupContext []byte) (*unverifiedContent, error) {
	if m.content.contentType == ContentApplication {
		return nil, errApplicationInPublic
	}
	if m.content.sender.Type == SenderMember &&
		!equalTags(m.membershipTag, e.membershipTag(&m.content, groupContext)) {
		return nil, errMembershipTag
	}
	return &m.content, nil
}

// sealPublic is the MLSMessage with the PublicMessage of a signed content.
func (e *epochSecrets) sealPublic(a *authenticatedContent, groupContext []byte) []byte {
	m := publicMessage{content: unverifiedContent(*a)}
	if a.sender.Type == SenderMember {
		m.membershipTag = e.membershipTag(&m.content, groupContext)
	}
	return m.append(appendMessageHeader(nil, WirePublicMessage))
}
