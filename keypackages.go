package conclave

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/group"
)

// A KeyPackageStatus says whether an installation can be added to a group: by the
// key package that it published last, which serves until NotAfter. An installation
// that runs renews it every thirty days.
type KeyPackageStatus struct {
	NotBefore, NotAfter time.Time
	// Err says why it cannot: ErrNotFound where there is no key package.
	Err error
}

var errLifetime = errors.New("conclave: key package is outside its lifetime")

// KeyPackageStatuses reads and verifies the key packages of installations, of
// anybody's.
func (h *Host) KeyPackageStatuses(ctx context.Context, ids ...InstallationID) (_ map[InstallationID]KeyPackageStatus, err error) {
	defer failing("read key packages", &err)
	if err := h.check(ctx); err != nil {
		return nil, err
	}
	keys := make([][]byte, len(ids))
	for i := range ids {
		keys[i] = ids[i][:]
	}
	packages, err := h.system.KeyPackages(ctx, keys)
	if err != nil {
		return nil, err
	}
	statuses := make(map[InstallationID]KeyPackageStatus, len(ids))
	for i, id := range ids {
		statuses[id] = keyPackageStatus(packages[i], id, h.system.Now())
	}
	return statuses, nil
}

func keyPackageStatus(b []byte, id InstallationID, now time.Time) (s KeyPackageStatus) {
	if b == nil {
		return KeyPackageStatus{Err: ErrNotFound}
	}
	k, err := group.ParseKeyPackage(nil, b)
	if err == nil && InstallationID(k.Installation()) != id {
		err = fmt.Errorf("%w: of another installation", group.ErrKeyPackage)
	}
	if err != nil {
		return KeyPackageStatus{Err: err}
	}
	s.NotBefore, s.NotAfter = k.Lifetime()
	if !k.ValidAt(now) {
		s.Err = errLifetime
	}
	return s
}
