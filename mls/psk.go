package mls

// Pre-shared keys. See RFC 9420, Section 8.4.

// A PSKType says how a pre-shared key was provisioned.
type PSKType uint8

// The types of pre-shared keys.
const (
	PSKExternal   PSKType = 1 // By the application, under an id of its choice.
	PSKResumption PSKType = 2 // By the key schedule of an earlier epoch.
)

// A ResumptionPSKUsage says what a resumption PSK is for.
type ResumptionPSKUsage uint8

// The usages of resumption PSKs.
const (
	ResumptionApplication ResumptionPSKUsage = 1
	ResumptionReInit      ResumptionPSKUsage = 2
	ResumptionBranch      ResumptionPSKUsage = 3
)

// A PreSharedKeyID names a pre-shared key and one use of it. ID is set for an
// external key; Usage, GroupID and Epoch for a resumption key.
type PreSharedKeyID struct {
	Type    PSKType
	ID      []byte
	Usage   ResumptionPSKUsage
	GroupID []byte
	Epoch   uint64
	Nonce   []byte // Fresh for each use, of the hash's length.
}

func decodePreSharedKeyID(r *reader) (p PreSharedKeyID) {
	p.Type = PSKType(r.u8())
	switch p.Type {
	case PSKExternal:
		p.ID = r.vector()
	case PSKResumption:
		p.Usage = ResumptionPSKUsage(r.u8())
		if p.Usage < ResumptionApplication || p.Usage > ResumptionBranch {
			r.fail(errPSKUsage)
		}
		p.GroupID = r.vector()
		p.Epoch = r.u64()
	default:
		r.fail(errPSKType)
	}
	p.Nonce = r.vector()
	return p
}

func (p PreSharedKeyID) append(b []byte) []byte {
	b = appendU8(b, uint8(p.Type))
	if p.Type == PSKExternal {
		b = appendVector(b, p.ID)
	} else {
		b = appendU8(b, uint8(p.Usage))
		b = appendVector(b, p.GroupID)
		b = appendU64(b, p.Epoch)
	}
	return appendVector(b, p.Nonce)
}

// A preSharedKey is a PSK with the id it is injected under.
type preSharedKey struct {
	id  PreSharedKeyID
	key secret
}

// maxPSKs is the limit of PSKLabel.count.
const maxPSKs = 1<<16 - 1

// pskSecret chains the PSKs of a commit, in its order, into psk_secret. The
// caller has bounded their number by maxPSKs.
func (s CipherSuite) pskSecret(psks []preSharedKey) secret {
	result := s.zeroSecret()
	for i, p := range psks {
		extracted := s.extract(s.zeroSecret(), p.key)
		label := p.id.append(nil)
		label = appendU16(label, uint16(i))
		label = appendU16(label, uint16(len(psks)))
		input := s.expandWithLabel(extracted, "derived psk", label, hashSize)
		result = s.extract(input, result)
	}
	return result
}
