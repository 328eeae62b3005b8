package node

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// The node reads only the cleartext around messages, since it cannot open them. Hosts
// publish to the topics of groups and installations without asking the node. So each
// envelope is checked when it is served, by the rules that apply when the node itself
// appends one. An envelope that breaks a rule is left out; clients and hosts would pass
// over it as well.

// encode is how the node encodes what it appends. Equal fields give equal bytes, by
// which the bus recognises a repeat.
var encode = proto.MarshalOptions{Deterministic: true}.Marshal

// groupTopics are the two topics of a group: its messages, and its commits.
func groupTopics(group []byte) ([]bus.Topic, error) {
	messages, err := bus.MessagesOf(group)
	if err != nil {
		return nil, fmt.Errorf("%w: a group id has 16 bytes, not %d", errInvalid, len(group))
	}
	commits, err := bus.CommitsOf(group)
	return []bus.Topic{messages, commits}, err
}

// welcomeTopic is the topic of an installation's welcomes, or of the random 32
// bytes that a welcome pointer leads to.
func welcomeTopic(installation []byte) (bus.Topic, error) {
	topic, err := bus.WelcomesFor(installation)
	if err != nil {
		return bus.Topic{}, fmt.Errorf("%w: an installation key has 32 bytes, not %d", errInvalid, len(installation))
	}
	return topic, nil
}

// groupTopicOf is the topic that a group message belongs to, by its framing.
func groupTopicOf(data []byte) (bus.Topic, error) {
	id, kind, err := group.Framing(data)
	if err != nil {
		return bus.Topic{}, fmt.Errorf("%w: invalid group message: %w", errInvalid, err)
	}
	topics, err := groupTopics(id)
	if err != nil {
		return bus.Topic{}, fmt.Errorf("invalid group message: %w", err)
	}
	if kind == group.TopicCommits {
		return topics[1], nil
	}
	return topics[0], nil
}

// encodeGroupMessage makes the envelope of a group message. Fields that the node
// does not know are left out, and repeats are known by the message alone: whoever
// copies what another has sent, with an HMAC of its own, adds nothing.
func encodeGroupMessage(in *mlsapi.GroupMessageInput) (publication, error) {
	v1 := in.GetV1()
	if v1 == nil {
		return publication{}, fmt.Errorf("%w: group message without a known version", errInvalid)
	}
	topic, err := groupTopicOf(v1.GetData())
	if err != nil {
		return publication{}, err
	}
	payload, err := encode(&mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: v1.GetData(), SenderHmac: v1.GetSenderHmac(), ShouldPush: v1.GetShouldPush(),
	}}})
	return publication{topic, payload, v1.GetData()}, err
}

// groupMessage is an envelope of a group's topics as clients see it: Data is
// what was sent, to the byte. It reports false for what is no group message of
// that group.
func groupMessage(e bus.Envelope) (*mlsapi.GroupMessage, bool) {
	in := new(mlsapi.GroupMessageInput)
	if proto.Unmarshal(e.Payload, in) != nil {
		return nil, false
	}
	v1 := in.GetV1()
	// A host may have chosen the other topic of the two. Members follow what
	// the message is, not where it lies, so it is served from either.
	topic, err := groupTopicOf(v1.GetData())
	if err != nil || !bytes.Equal(topic.ID(), e.Topic.ID()) {
		return nil, false
	}
	return &mlsapi.GroupMessage{Version: &mlsapi.GroupMessage_V1_{V1: &mlsapi.GroupMessage_V1{
		Id:         uint64(e.ID),
		CreatedNs:  uint64(e.Time.UnixNano()),
		GroupId:    e.Topic.ID(),
		Data:       v1.GetData(),
		SenderHmac: v1.GetSenderHmac(),
		ShouldPush: v1.GetShouldPush(),
		IsCommit:   e.Topic.Kind() == bus.GroupCommits,
	}}}, true
}

// cleanWelcome is a welcome with the fields that the node knows, and its topic.
// What is inside is for its receiver alone; the checks are those of XMTP's node.
func cleanWelcome(in *mlsapi.WelcomeMessageInput) (*mlsapi.WelcomeMessageInput, bus.Topic, error) {
	switch v := in.GetVersion().(type) {
	case *mlsapi.WelcomeMessageInput_V1_:
		return cleanWelcomeV1(v.V1)
	case *mlsapi.WelcomeMessageInput_WelcomePointer_:
		return cleanWelcomePointer(v.WelcomePointer)
	}
	return nil, bus.Topic{}, fmt.Errorf("%w: welcome without a known version", errInvalid)
}

func cleanWelcomeV1(w *mlsapi.WelcomeMessageInput_V1) (*mlsapi.WelcomeMessageInput, bus.Topic, error) {
	topic, err := welcomeTopic(w.GetInstallationKey())
	if err != nil {
		return nil, bus.Topic{}, err
	}
	algorithm := w.GetWrapperAlgorithm()
	switch {
	case len(w.GetData()) == 0:
		return nil, bus.Topic{}, fmt.Errorf("%w: welcome without data", errInvalid)
	case len(w.GetHpkePublicKey()) == 0 && algorithm != contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY:
		return nil, bus.Topic{}, fmt.Errorf("%w: welcome without the HPKE key that it is sealed to", errInvalid)
	case algorithm == contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_UNSPECIFIED: // from before there were two
		algorithm = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519
	}
	return &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: w.GetInstallationKey(), Data: w.GetData(), HpkePublicKey: w.GetHpkePublicKey(),
		WrapperAlgorithm: algorithm, WelcomeMetadata: w.GetWelcomeMetadata(),
	}}}, topic, nil
}

func cleanWelcomePointer(p *mlsapi.WelcomeMessageInput_WelcomePointer) (*mlsapi.WelcomeMessageInput, bus.Topic, error) {
	topic, err := welcomeTopic(p.GetInstallationKey())
	switch {
	case err != nil:
		return nil, bus.Topic{}, err
	case len(p.GetWelcomePointer()) == 0:
		return nil, bus.Topic{}, fmt.Errorf("%w: empty welcome pointer", errInvalid)
	case len(p.GetHpkePublicKey()) == 0:
		return nil, bus.Topic{}, fmt.Errorf("%w: welcome pointer without the HPKE key that it is sealed to", errInvalid)
	case p.GetWrapperAlgorithm() != contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6:
		return nil, bus.Topic{}, fmt.Errorf("%w: welcome pointer wrapped by algorithm %d, not X-Wing", errInvalid, p.GetWrapperAlgorithm())
	}
	return &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessageInput_WelcomePointer{
		InstallationKey: p.GetInstallationKey(), WelcomePointer: p.GetWelcomePointer(), HpkePublicKey: p.GetHpkePublicKey(),
		WrapperAlgorithm: p.GetWrapperAlgorithm(),
	}}}, topic, nil
}

// encodeWelcome makes the envelope of a welcome. Repeats are known by what is sealed.
func encodeWelcome(in *mlsapi.WelcomeMessageInput) (publication, error) {
	clean, topic, err := cleanWelcome(in)
	if err != nil {
		return publication{}, err
	}
	payload, err := encode(clean)
	sealed := clean.GetV1().GetData()
	if p := clean.GetWelcomePointer(); p != nil {
		sealed = p.GetWelcomePointer()
	}
	return publication{topic, payload, sealed}, err
}

// welcomeMessage is an envelope of a welcome topic as clients see it. It reports
// false for what is no welcome to that topic.
func welcomeMessage(e bus.Envelope) (*mlsapi.WelcomeMessage, bool) {
	in := new(mlsapi.WelcomeMessageInput)
	if proto.Unmarshal(e.Payload, in) != nil {
		return nil, false
	}
	clean, topic, err := cleanWelcome(in)
	if err != nil || topic != e.Topic {
		return nil, false
	}
	id, created := uint64(e.ID), uint64(e.Time.UnixNano())
	if p := clean.GetWelcomePointer(); p != nil {
		return &mlsapi.WelcomeMessage{Version: &mlsapi.WelcomeMessage_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessage_WelcomePointer{
			Id: id, CreatedNs: created,
			InstallationKey: p.InstallationKey, WelcomePointer: p.WelcomePointer, HpkePublicKey: p.HpkePublicKey,
			WrapperAlgorithm: p.WrapperAlgorithm,
		}}}, true
	}
	w := clean.GetV1()
	return &mlsapi.WelcomeMessage{Version: &mlsapi.WelcomeMessage_V1_{V1: &mlsapi.WelcomeMessage_V1{
		Id: id, CreatedNs: created,
		InstallationKey: w.InstallationKey, Data: w.Data, HpkePublicKey: w.HpkePublicKey,
		WrapperAlgorithm: w.WrapperAlgorithm, WelcomeMetadata: w.WelcomeMetadata,
	}}}, true
}
