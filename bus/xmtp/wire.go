package xmtp

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// payloadOf writes an entry's payload, as every host writes it. That of one which is
// too large for any client is empty, and its readers pass over it.
func payloadOf(entry, m proto.Message) ([]byte, error) {
	if proto.Size(entry) > maxMessage {
		return nil, nil
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("xmtp: write payload: %w", err)
	}
	return payload, nil
}

func timeOf(ns uint64) time.Time { return time.Unix(0, int64(ns)).UTC() }

// groupEnvelope is what a host on NATS reads of a group's entry. What does not
// parse lies among the messages, where its readers pass over it.
func groupEnvelope(m *mlsapi.GroupMessage) (bus.Envelope, error) {
	v1 := m.GetV1()
	topic, err := bus.MessagesOf(v1.GetGroupId())
	if err != nil || v1.GetId() == 0 {
		return bus.Envelope{}, fmt.Errorf("xmtp: the network answers with an entry %d of group %x", v1.GetId(), v1.GetGroupId())
	}
	if _, kind, err := group.Framing(v1.GetData()); err == nil && kind == group.TopicCommits {
		topic, _ = bus.CommitsOf(v1.GetGroupId()) // of the same length
	}
	payload, err := payloadOf(m, &mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: v1.GetData(), SenderHmac: v1.GetSenderHmac(), ShouldPush: v1.GetShouldPush(),
	}}})
	return bus.Envelope{ID: bus.ID(v1.GetId()), Topic: topic, Time: timeOf(v1.GetCreatedNs()), Payload: payload}, err
}

// welcomeEnvelope is what a host on NATS reads of a welcome.
func welcomeEnvelope(m *mlsapi.WelcomeMessage) (bus.Envelope, error) {
	var (
		input        = new(mlsapi.WelcomeMessageInput)
		id, created  uint64
		installation []byte
	)
	switch v := m.GetVersion().(type) {
	case *mlsapi.WelcomeMessage_V1_:
		id, created, installation = v.V1.GetId(), v.V1.GetCreatedNs(), v.V1.GetInstallationKey()
		input.Version = &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
			InstallationKey: installation, Data: v.V1.GetData(), HpkePublicKey: v.V1.GetHpkePublicKey(),
			WrapperAlgorithm: v.V1.GetWrapperAlgorithm(), WelcomeMetadata: v.V1.GetWelcomeMetadata(),
		}}
	case *mlsapi.WelcomeMessage_WelcomePointer_:
		p := v.WelcomePointer
		id, created, installation = p.GetId(), p.GetCreatedNs(), p.GetInstallationKey()
		input.Version = &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessageInput_WelcomePointer{
			InstallationKey: installation, WelcomePointer: p.GetWelcomePointer(), HpkePublicKey: p.GetHpkePublicKey(),
			WrapperAlgorithm: p.GetWrapperAlgorithm(),
		}}
	}
	topic, err := bus.WelcomesFor(installation)
	if err != nil || id == 0 {
		return bus.Envelope{}, fmt.Errorf("xmtp: the network answers with a welcome %d for installation %x", id, installation)
	}
	payload, err := payloadOf(m, input)
	return bus.Envelope{ID: bus.ID(id), Topic: topic, Time: timeOf(created), Payload: payload}, err
}

// carried refuses topics that a host reaches otherwise, or not at all.
func carried(topics ...bus.Topic) error {
	if _, err := bus.OneShard(1, 0, topics...); err != nil {
		return err
	}
	for _, t := range topics {
		switch t.Kind() {
		case bus.GroupCommits, bus.GroupMessages, bus.Welcomes:
		default:
			return fmt.Errorf("%w: an XMTP network has %v behind its services only", bus.ErrRefused, t)
		}
	}
	return nil
}
