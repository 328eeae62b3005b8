package conclave

import (
	"context"

	"github.com/conclave-chat/conclave/actors"
)

// A Request is a welcome that waits for its owner: somebody who is no member that
// this installation knows would bring it back into a group whose log it cannot
// follow (StandingApart, StandingLost, StandingStranded). It may be a member that
// was added meanwhile, or a stranger who knows the group's id. Once it is accepted
// the group is the one that AddedBy leads, under the same history.
type Request = actors.Request

// Requests lists what waits for the owner, oldest first. A request is kept for 30
// days. Config.Admit answers requests as they come.
func (v Conversations) Requests(ctx context.Context) (_ []Request, err error) {
	defer failing("list requests", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	return v.client.host.system.Requests(ctx, v.client.info.ID)
}

// Accept joins the group of a request. What waits to be sent there is Failed, since
// it was written for others; Retry sends it. One that was answered before,
// or whose group is followed again, is ErrNoRequest.
func (v Conversations) Accept(ctx context.Context, r Request) (err error) {
	defer failing("accept request", &err)
	if err := v.check(ctx); err != nil {
		return err
	}
	return v.client.host.system.Accept(ctx, v.client.info.ID, r)
}

// Decline forgets a request, and changes nothing else.
func (v Conversations) Decline(ctx context.Context, r Request) (err error) {
	defer failing("decline request", &err)
	if err := v.check(ctx); err != nil {
		return err
	}
	return v.client.host.system.Decline(ctx, v.client.info.ID, r)
}
