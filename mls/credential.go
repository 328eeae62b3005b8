package mls

// CredentialType names what a credential asserts; see RFC 9420, Section 17.5.
type CredentialType uint16

// The credential types of RFC 9420.
const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// isDefault: there is no type of credential that need not be named.
func (CredentialType) isDefault() bool { return false }

// A Credential binds an identity to a member's signature key. What the identity
// means, and whether it is authentic, is for the application to decide. See RFC
// 9420, Section 5.3.
type Credential struct {
	Type CredentialType
	// Identity is a basic credential's identity, and the opaque content of a
	// credential of any type other than X.509.
	Identity []byte
	// Certificates is an X.509 chain of DER certificates, the end entity first.
	Certificates [][]byte
}

// BasicCredential returns the bare assertion of an identity.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

func decodeCredential(r *reader) (c Credential) {
	c.Type = CredentialType(r.u16())
	if c.Type == CredentialX509 {
		r.list(func(r *reader) { c.Certificates = append(c.Certificates, r.vector()) })
		return c
	}
	c.Identity = r.vector()
	return c
}

func (c Credential) append(b []byte) []byte {
	b = appendU16(b, uint16(c.Type))
	if c.Type == CredentialX509 {
		return appendList(b, func(b []byte) []byte {
			for _, cert := range c.Certificates {
				b = appendVector(b, cert)
			}
			return b
		})
	}
	return appendVector(b, c.Identity)
}
