package group

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/conclave-chat/conclave/mls"
)

// The MLS profile of XMTP v3: which of RFC 9420's choices a group uses. It is a
// table with a number, since XMTP moves on and groups of several versions will
// stand beside one another.

// XMTP's own extension types. They carry protobuf; see metadata.go and
// keypackage.go.
const (
	extImmutableMetadata mls.ExtensionType = 0xf000 // group context
	extMutableMetadata   mls.ExtensionType = 0xff00 // group context
	extMembership        mls.ExtensionType = 0xff01 // group context
	extPermissions       mls.ExtensionType = 0xff02 // group context
	extWelcomeWrapper    mls.ExtensionType = 0xff03 // key package
	extWelcomePointee    mls.ExtensionType = 0xff04 // key package
)

// A profile is one version of the table.
type profile struct {
	version        string // the libxmtp version we present ourselves as: groups may demand a minimum
	suite          mls.CipherSuite
	keyPackage     mls.Capabilities // of leaves in key packages
	creator        mls.Capabilities // of the creator's leaf
	required       []byte           // the required_capabilities extension of every group
	attributeLimit map[string]int   // bytes
}

// v3 is XMTP v3 as libxmtp 1.10 speaks it. Lists are in its order: a group's
// required capabilities are compared byte for byte by nobody, but equal bytes
// are the safest ones.
var v3 = profile{
	version: "1.10.0",
	suite:   mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
	keyPackage: mls.Capabilities{
		Versions:     []uint16{1},
		CipherSuites: []mls.CipherSuite{mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519},
		Extensions: []mls.ExtensionType{mls.ExtensionLastResort, mls.ExtensionApplicationID, extPermissions, extMutableMetadata,
			extMembership, extWelcomeWrapper, extWelcomePointee, extImmutableMetadata},
		Proposals:   []mls.ProposalType{mls.ProposalGroupContextExtensions},
		Credentials: []mls.CredentialType{mls.CredentialBasic},
	},
	creator: mls.Capabilities{
		Versions:     []uint16{1},
		CipherSuites: []mls.CipherSuite{mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519},
		Extensions:   requiredExtensions,
		Proposals:    []mls.ProposalType{mls.ProposalGroupContextExtensions},
		Credentials:  []mls.CredentialType{mls.CredentialBasic},
	},
	required: mls.RequiredCapabilities{
		Extensions:  requiredExtensions,
		Proposals:   []mls.ProposalType{mls.ProposalGroupContextExtensions},
		Credentials: []mls.CredentialType{mls.CredentialBasic},
	}.Bytes(),
	attributeLimit: map[string]int{
		AttributeName:        100,
		AttributeDescription: 1000,
		AttributeImageURL:    2048,
		AttributeAppData:     8192,
	},
}

// requiredExtensions is what every member of a group must support.
var requiredExtensions = []mls.ExtensionType{extMembership, extMutableMetadata, extPermissions,
	extImmutableMetadata, mls.ExtensionLastResort, mls.ExtensionApplicationID}

// Limits are an operator's choices. They are checked when something is planned
// and never when it is received: a limit must not decide what is valid.
type Limits struct {
	Members      int // inboxes of one group; default 400
	PayloadBytes int // one envelope; default 2 MiB
	CommitBytes  int // above it a commit is split; default 900 KB, so that a node with 1 MiB envelopes takes it
	InFlight     int // messages of one group on their way at a time; default 32
	// KeyAge is how old the keys may be with which a member sends: past it, and
	// in a group that it was added to, a key update comes before its message.
	// Default 30 days; negative: never of its own accord.
	KeyAge time.Duration
}

// WithDefaults fills the fields that are zero.
func (l Limits) WithDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Members, 400}, {&l.PayloadBytes, 2 << 20}, {&l.CommitBytes, 900_000}, {&l.InFlight, 32}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	if l.KeyAge == 0 {
		l.KeyAge = 30 * 24 * time.Hour
	}
	return l
}

// beyondProfile names the reason where a group asks of its members what the
// profile does not have. A group that libxmtp 1.11 has migrated does: it names
// extension 0xff05 and takes proposals by reference. While a member lacks that,
// RFC 9420 lets no commit ask for it; so it is a welcome that is refused, or a
// commit that every member refuses. A migration that demands a newer client
// first is a pause, see pauseBelow.
func beyondProfile(err error) error {
	if errors.Is(err, mls.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ErrNewerProfile, err)
	}
	return err
}

// envelopeOverhead is more than everything that surrounds a content on the
// wire: two protobuf layers, the private message's framing and signature.
const envelopeOverhead = 512

// replaceExtension returns the list with one extension dropped and put at the
// end, which is how libxmtp changes one. All others keep their bytes and order.
func replaceExtension(list mls.Extensions, t mls.ExtensionType, data []byte) mls.Extensions {
	list = slices.DeleteFunc(slices.Clone(list), func(e mls.Extension) bool { return e.Type == t })
	return append(list, mls.Extension{Type: t, Data: data})
}

// versionAtLeast compares "x.y.z[-suffix]" versions as semantic versioning
// does; what does not parse is no demand.
func versionAtLeast(have, want string) bool {
	w, wPre, ok := parseVersion(want)
	if !ok {
		return true
	}
	h, hPre, ok := parseVersion(have)
	if !ok {
		return false
	}
	if c := slices.Compare(h[:], w[:]); c != 0 {
		return c > 0
	}
	// A suffix makes a version older than the one without.
	if hPre == "" || wPre == "" {
		return hPre == ""
	}
	return hPre >= wPre
}

func parseVersion(s string) (v [3]uint64, pre string, ok bool) {
	s, pre, _ = strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return v, "", false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return v, "", false
		}
		v[i] = n
	}
	return v, pre, true
}
