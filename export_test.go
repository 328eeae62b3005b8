package conclave

import "context"

// SyncCommitLogs does at once what a host does every few minutes.
func (h *Host) SyncCommitLogs(ctx context.Context) error { return h.system.SyncCommitLogs(ctx) }
