package conclave

import "context"

// SyncCommitLogs does at once what a host does every few minutes.
func (h *Host) SyncCommitLogs(ctx context.Context) error { return h.system.SyncCommitLogs(ctx) }

// BeginDm is NewDm up to the instant before the other side is added.
func (c *Client) BeginDm(ctx context.Context, inbox string) error {
	_, err := c.host.system.OpenDM(ctx, c.info.ID, inbox)
	return err
}
