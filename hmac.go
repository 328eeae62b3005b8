package conclave

import (
	"context"

	"github.com/conclave-chat/conclave/group"
)

// A HmacKey marks this inbox's messages in one conversation for 30 days: a push
// server that has it leaves out notifying their sender, and learns nothing else.
type HmacKey = group.PushKey

// HmacKeys returns, for each group, the keys of the 30 days before the present
// ones, of the present ones and of those after, to be given to a push server.
func (c *Client) HmacKeys(ctx context.Context) (_ map[GroupID][]HmacKey, err error) {
	defer failing("derive push keys", &err)
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	return c.host.system.HMACKeys(ctx, c.info.ID)
}
