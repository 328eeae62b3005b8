package features

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
)

// The status of a key package says until when an installation can be added, and
// why it cannot.
func TestKeyPackageStatuses(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	var passed atomic.Int64
	w := newWorld(t, func(c *conclave.Config) {
		c.Now = func() time.Time { return now.Add(time.Duration(passed.Load())) }
	})
	a := w.client().InstallationID()
	nobody := conclave.InstallationID{1}
	statuses := func() map[conclave.InstallationID]conclave.KeyPackageStatus {
		return must[map[conclave.InstallationID]conclave.KeyPackageStatus](t)(w.host.KeyPackageStatuses(w.ctx, a, nobody))
	}
	got := statuses()
	if s := got[a]; s.Err != nil || !s.NotBefore.Equal(now.Add(-time.Hour)) || !s.NotAfter.Equal(now.Add(84*24*time.Hour)) {
		t.Errorf("a new key package: %+v", s)
	}
	if !errors.Is(got[nobody].Err, conclave.ErrNotFound) {
		t.Errorf("an installation that nobody made: %+v", got[nobody])
	}
	passed.Store(int64(85 * 24 * time.Hour))
	if s := statuses()[a]; s.Err == nil {
		t.Errorf("85 days later: %+v", s)
	}
}
