package group

import (
	"fmt"

	"github.com/conclave-chat/conclave/mls"
)

// An Invitation is what a welcome says before it is checked: enough to choose
// which of many is looked at first. The inviter's installation has signed it. That
// the installation is the inbox's, the identity log says.
type Invitation struct {
	Group        []byte
	Inbox        string
	Installation []byte
}

// OpenInvitation reads who invites to which group. An error is a verdict on the
// welcome, which Join would refuse as well.
func OpenInvitation(env Env, c JoinConfig) (Invitation, error) {
	m, err := c.message(env)
	if err != nil {
		return Invitation{}, err
	}
	id, leaf, err := mls.Invitation(c.mls(env, m))
	if err != nil {
		return Invitation{}, fmt.Errorf("%w: invitation: %w", ErrRejected, beyondProfile(err))
	}
	inbox, err := inboxOf(leaf.Credential)
	if err != nil {
		return Invitation{}, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return Invitation{Group: id, Inbox: inbox, Installation: leaf.SignatureKey}, nil
}

// message is the Welcome, parsed.
func (c *JoinConfig) message(env Env) (m *mls.Message, err error) {
	if m = c.Welcome.Message; m == nil {
		if m, err = env.Realm.Parse(c.Welcome.Data); err != nil {
			return nil, fmt.Errorf("%w: %w: %w", ErrRejected, errUndecodable, err)
		}
	}
	if m.WireFormat() != mls.WireWelcome {
		return nil, fmt.Errorf("%w: %w", ErrRejected, ErrWelcome)
	}
	return m, nil
}

func (c *JoinConfig) mls(env Env, m *mls.Message) mls.JoinConfig {
	return mls.JoinConfig{
		Realm:      env.Realm,
		Signer:     env.Signer,
		KeyPackage: c.Secrets.KeyPackage.MLS,
		Secrets:    c.Secrets.MLS,
		Welcome:    m,
	}
}
