package mls

// Transcript hashes. See RFC 9420, Section 8.2.

// confirmedTranscriptHash covers all commits up to the signature of this one.
func (a *authenticatedContent) confirmedTranscriptHash(s CipherSuite, interimBefore []byte) []byte {
	input := make([]byte, 0, a.encodedSize()+len(a.signature))
	input = appendU16(input, uint16(a.wire))
	input = a.framedContent.append(input)
	input = appendVector(input, a.signature)
	return s.hash(interimBefore, input)
}

// interimTranscriptHash adds the confirmation tag of the latest commit.
func (s CipherSuite) interimTranscriptHash(confirmed, confirmationTag []byte) []byte {
	return s.hash(confirmed, appendVector(nil, confirmationTag))
}
