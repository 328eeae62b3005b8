package mls

// ExtensionType names an extension; see RFC 9420, Section 17.3.
type ExtensionType uint16

// The extension types of RFC 9420. They are default: every member supports
// them, and capabilities do not list them.
const (
	ExtensionApplicationID        ExtensionType = 1
	ExtensionRatchetTree          ExtensionType = 2
	ExtensionRequiredCapabilities ExtensionType = 3
	ExtensionExternalPub          ExtensionType = 4
	ExtensionExternalSenders      ExtensionType = 5
)

// ExtensionLastResort marks a key package that serves more than once. It is
// registered beside RFC 9420, for key packages, and not default.
const ExtensionLastResort ExtensionType = 0x000a

func (t ExtensionType) isDefault() bool {
	return t >= ExtensionApplicationID && t <= ExtensionExternalSenders
}

// An Extension is carried untouched: this package interprets only the types
// that it declares. See RFC 9420, Section 13.4.
type Extension struct {
	Type ExtensionType
	Data []byte
}

// Extensions is a list of extensions, at most one of each type.
type Extensions []Extension

// Get returns the data of the extension of type t.
func (x Extensions) Get(t ExtensionType) ([]byte, bool) {
	for _, e := range x {
		if e.Type == t {
			return e.Data, true
		}
	}
	return nil, false
}

// A place is a structure that has extensions.
type place uint8

const (
	inKeyPackage place = 1 << iota
	inLeafNode
	inGroupContext
	inGroupInfo
)

// places says where a type may stand: the column "Message(s)" of RFC 9420, Section
// 17.3. Types that this package does not know may stand anywhere.
func (t ExtensionType) places() place {
	switch {
	case t == ExtensionApplicationID:
		return inLeafNode
	case t == ExtensionLastResort:
		return inKeyPackage
	case t == ExtensionRatchetTree || t == ExtensionExternalPub:
		return inGroupInfo
	case t == ExtensionRequiredCapabilities || t == ExtensionExternalSenders:
		return inGroupContext
	case isGrease(uint16(t)):
		return inKeyPackage | inLeafNode | inGroupInfo
	}
	return inKeyPackage | inLeafNode | inGroupContext | inGroupInfo
}

// isGrease is Section 13.5: 0x0A0A, 0x1A1A, and so on to 0xEAEA.
func isGrease(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff && v>>12 != 0xf }

// check is Section 13.4, that no list holds two extensions of one type, and Section
// 17.3, that each is one for its place.
func (x Extensions) check(at place) error {
	seen := make(map[ExtensionType]struct{}, len(x))
	for _, e := range x {
		if e.Type.places()&at == 0 {
			return errExtensionPlace
		}
		if _, dup := seen[e.Type]; dup {
			return errDuplicateExtension
		}
		seen[e.Type] = struct{}{}
	}
	return nil
}

// types lists what capabilities must name: the types that are not default.
func (x Extensions) types() (list []ExtensionType) {
	for _, e := range x {
		if !e.Type.isDefault() {
			list = append(list, e.Type)
		}
	}
	return list
}

func decodeExtensions(r *reader) (x Extensions) {
	r.list(func(r *reader) {
		x = append(x, Extension{Type: ExtensionType(r.u16()), Data: r.vector()})
	})
	return x
}

func (x Extensions) append(b []byte) []byte {
	return appendList(b, func(b []byte) []byte {
		for _, e := range x {
			b = appendVector(appendU16(b, uint16(e.Type)), e.Data)
		}
		return b
	})
}

// decodeU16List decodes one of the lists of 16-bit code points of which
// capabilities consist.
func decodeU16List[T ~uint16](r *reader) (list []T) {
	r.list(func(r *reader) {
		list = append(list, T(r.u16()))
	})
	return list
}

func appendU16List[T ~uint16](b []byte, list []T) []byte {
	b = appendLength(b, 2*len(list))
	for _, v := range list {
		b = appendU16(b, uint16(v))
	}
	return b
}

// RequiredCapabilities is the required_capabilities group context extension:
// what every member must support. See RFC 9420, Section 11.1.
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// ParseRequiredCapabilities decodes the extension's data.
func ParseRequiredCapabilities(data []byte) (RequiredCapabilities, error) {
	r := newReader(data)
	c := RequiredCapabilities{
		Extensions:  decodeU16List[ExtensionType](r),
		Proposals:   decodeU16List[ProposalType](r),
		Credentials: decodeU16List[CredentialType](r),
	}
	return c, r.end()
}

// Requirements returns a context's required_capabilities, none where it has no such
// extension, and whether they name every extension of the context that is not
// default. RFC 9420 does not ask for the latter.
func (x Extensions) Requirements() (c RequiredCapabilities, whole bool, err error) {
	if data, ok := x.Get(ExtensionRequiredCapabilities); ok {
		if c, err = ParseRequiredCapabilities(data); err != nil {
			return c, false, err
		}
	}
	return c, supports(c.Extensions, x.types()), nil
}

// Supports reports whether a client with these capabilities knows all of the types.
func (c *Capabilities) Supports(types []ExtensionType) bool { return supports(c.Extensions, types) }

// Bytes returns the extension's data.
func (c RequiredCapabilities) Bytes() []byte {
	b := appendU16List(nil, c.Extensions)
	b = appendU16List(b, c.Proposals)
	return appendU16List(b, c.Credentials)
}

// ExternalSender is one entry of the external_senders group context extension:
// someone outside the group who may send it proposals. See RFC 9420, Section
// 12.1.8.1.
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// ParseExternalSenders decodes the extension's data.
func ParseExternalSenders(data []byte) ([]ExternalSender, error) {
	r := newReader(data)
	var list []ExternalSender
	r.list(func(r *reader) {
		list = append(list, ExternalSender{SignatureKey: r.vector(), Credential: decodeCredential(r)})
	})
	return list, r.end()
}
