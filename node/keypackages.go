package node

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// maxKeyPackage is the most bytes of a key package. A real one has 1,659.
const maxKeyPackage = 16 << 10

// A newestPackage is an installation's newest key package. It is one of last
// resort: serving it does not use it up.
type newestPackage struct{ bytes []byte }

// readPackage passes over what is not a key package of its topic's installation.
func readPackage(_ context.Context, p *newestPackage, e bus.Envelope) error {
	if kp, err := group.ParseKeyPackage(nil, e.Payload); err == nil && bytes.Equal(kp.Installation(), e.Topic.ID()) {
		p.bytes = e.Payload
	}
	return nil
}

func (p newestPackage) found() bool { return p.bytes != nil }

// UploadKeyPackage publishes an installation's newest key package. The inbox that the credential names need
// not exist yet: real clients upload first and register then. Whether the inbox
// has the installation is for those who add it to check, in the identity log.
func (n *Node) UploadKeyPackage(ctx context.Context, request *mlsapi.UploadKeyPackageRequest) (*emptypb.Empty, error) {
	return answer(ctx, n, packageWork, request, func(ctx context.Context, request *mlsapi.UploadKeyPackageRequest) (*emptypb.Empty, error) {
		_, err := n.storePackage(ctx, request.GetKeyPackage())
		return new(emptypb.Empty), err
	})
}

// RegisterInstallation is UploadKeyPackage under its older name; it answers with
// the installation's key.
func (n *Node) RegisterInstallation(ctx context.Context, request *mlsapi.RegisterInstallationRequest) (*mlsapi.RegisterInstallationResponse, error) {
	return answer(ctx, n, packageWork, request, func(ctx context.Context, request *mlsapi.RegisterInstallationRequest) (*mlsapi.RegisterInstallationResponse, error) {
		key, err := n.storePackage(ctx, request.GetKeyPackage())
		return &mlsapi.RegisterInstallationResponse{InstallationKey: key}, err
	})
}

// storePackage returns the installation that the key package is of.
func (n *Node) storePackage(ctx context.Context, upload *mlsapi.KeyPackageUpload) ([]byte, error) {
	b := upload.GetKeyPackageTlsSerialized()
	if len(b) > maxKeyPackage {
		return nil, fmt.Errorf("%w: key package of %d bytes, at most %d", errInvalid, len(b), maxKeyPackage)
	}
	kp, err := group.ParseKeyPackage(nil, b)
	if err != nil {
		return nil, err
	}
	if _, err := identity.ParseInboxID(kp.Inbox); err != nil {
		return nil, fmt.Errorf("%w: credential: %w", group.ErrKeyPackage, err)
	}
	now := n.config.Now()
	if !kp.ValidAt(now) {
		return nil, fmt.Errorf("%w: its lifetime is over, has not begun, or is too long", group.ErrKeyPackage)
	}
	topic, err := bus.KeyPackagesOf(kp.Installation())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if err := n.replaces(ctx, topic, kp); err != nil {
		return nil, err
	}
	if err := n.budgets.spend(now, callerOf(ctx), []publication{{topic: topic, payload: b}}); err != nil {
		return nil, err
	}
	left := time.Unix(int64(kp.MLS.LeafNode.Lifetime.NotAfter), 0).Sub(now)
	if _, err := n.bus.Publish(ctx, topic, b, bus.TTL(max(left, time.Second))); err != nil {
		return nil, fmt.Errorf("store key package: %w", err)
	}
	return kp.Installation(), nil
}

// replaces refuses a key package that is older than the one served, which
// somebody else may have kept: the private keys are gone, and whoever is added by
// it could not join. And it refuses another one with a key of the one served: a
// new key package is there to leave the old keys behind (RFC 9420, Section 10).
func (n *Node) replaces(ctx context.Context, topic bus.Topic, kp *group.KeyPackage) error {
	newest, err := n.packages.current(ctx, []bus.Topic{topic})
	if err != nil {
		return err
	}
	served := newest[0].bytes
	if served == nil || bytes.Equal(served, kp.MLS.Bytes()) {
		return nil
	}
	current, err := group.ParseKeyPackage(nil, served)
	switch {
	case err != nil:
		return fmt.Errorf("read the key package that is served: %w", err)
	case kp.MLS.LeafNode.Lifetime.NotBefore < current.MLS.LeafNode.Lifetime.NotBefore:
		return fmt.Errorf("%w: older than the one that is served", group.ErrKeyPackage)
	case bytes.Equal(kp.MLS.InitKey, current.MLS.InitKey),
		bytes.Equal(kp.MLS.LeafNode.EncryptionKey, current.MLS.LeafNode.EncryptionKey):
		return fmt.Errorf("%w: it has a key of the one that is served", group.ErrKeyPackage)
	}
	return nil
}

// FetchKeyPackages answers in the order asked, empty where an installation has
// none.
func (n *Node) FetchKeyPackages(ctx context.Context, request *mlsapi.FetchKeyPackagesRequest) (*mlsapi.FetchKeyPackagesResponse, error) {
	return answer(ctx, n, packageWork, request, n.fetchPackages)
}

func (n *Node) fetchPackages(ctx context.Context, request *mlsapi.FetchKeyPackagesRequest) (*mlsapi.FetchKeyPackagesResponse, error) {
	if err := checkBatch(len(request.GetInstallationKeys()), MaxAsked); err != nil {
		return nil, err
	}
	topics := make([]bus.Topic, len(request.GetInstallationKeys()))
	for i, key := range request.GetInstallationKeys() {
		var err error
		if topics[i], err = bus.KeyPackagesOf(key); err != nil {
			return nil, fmt.Errorf("%w: %w", errInvalid, err)
		}
	}
	newest, err := n.packages.current(ctx, topics)
	if err != nil {
		return nil, err
	}
	response := new(mlsapi.FetchKeyPackagesResponse)
	size := 0
	for _, p := range newest {
		answer := &mlsapi.FetchKeyPackagesResponse_KeyPackage{KeyPackageTlsSerialized: p.bytes}
		response.KeyPackages = append(response.KeyPackages, answer)
		if size += len(answer.KeyPackageTlsSerialized); size > maxPageBytes {
			return nil, fmt.Errorf("%w: %d key packages", errAnswerTooLarge, len(topics))
		}
	}
	return response, nil
}
