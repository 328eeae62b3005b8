package xmtp

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Publish implements bus.Bus. The network tells no ID. A payload that belongs to
// another topic than the one named is refused here, since the network goes by the
// payload alone.
func (b *Bus) Publish(ctx context.Context, topic bus.Topic, payload []byte, _ ...bus.PublishOption) (bus.Ack, error) {
	if err := carried(topic); err != nil {
		return bus.Ack{}, err
	}
	if err := b.ready(ctx); err != nil {
		return bus.Ack{}, err
	}
	if len(payload) > b.cfg.MaxPayload {
		return bus.Ack{}, fmt.Errorf("%w: %d bytes, at most %d", bus.ErrTooLarge, len(payload), b.cfg.MaxPayload)
	}
	publish := b.publishToGroup
	if topic.Kind() == bus.Welcomes {
		publish = b.publishWelcome
	}
	return bus.Ack{}, publish(ctx, topic, payload)
}

func (b *Bus) publishToGroup(ctx context.Context, topic bus.Topic, payload []byte) error {
	m := new(mlsapi.GroupMessageInput)
	if err := proto.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%w: not a GroupMessageInput: %w", bus.ErrRefused, err)
	}
	id, kind, err := group.Framing(m.GetV1().GetData())
	if err != nil {
		return fmt.Errorf("%w: not an MLS message: %w", bus.ErrRefused, err)
	}
	if isCommit := topic.Kind() == bus.GroupCommits; isCommit != (kind == group.TopicCommits) || !bytes.Equal(id, topic.ID()) {
		return fmt.Errorf("%w: the message does not belong to %v", bus.ErrRefused, topic)
	}
	_, err = call(ctx, b, b.calls.sendGroup, &mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{m}})
	return busError(err)
}

func (b *Bus) publishWelcome(ctx context.Context, topic bus.Topic, payload []byte) error {
	m := new(mlsapi.WelcomeMessageInput)
	if err := proto.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%w: not a WelcomeMessageInput: %w", bus.ErrRefused, err)
	}
	installation := m.GetV1().GetInstallationKey()
	if p := m.GetWelcomePointer(); p != nil {
		installation = p.GetInstallationKey()
	}
	if !bytes.Equal(installation, topic.ID()) {
		return fmt.Errorf("%w: the welcome does not belong to %v", bus.ErrRefused, topic)
	}
	_, err := call(ctx, b, b.calls.sendWelcomes, &mlsapi.SendWelcomeMessagesRequest{Messages: []*mlsapi.WelcomeMessageInput{m}})
	return busError(err)
}
