package node_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Any bytes at all: never a panic, and nothing is stored unless it is what the
// log would give back.
func FuzzSendGroupMessages(f *testing.F) {
	for _, data := range [][]byte{private(id16(1), commit, "x"), publicRemove(id16(1)), private(nil, application, ""), nil} {
		b, err := proto.Marshal(&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{input(data)}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		request := new(mlsapi.SendGroupMessagesRequest)
		if proto.Unmarshal(b, request) != nil {
			return
		}
		n := newNetwork(t, memory.Config{}, node.Limits{})
		if _, err := n.node.SendGroupMessages(t.Context(), request); err != nil {
			wantCode(t, err, bus.CodeInvalid)
			nothingStored(t, n.Bus)
			return
		}
		for _, in := range request.GetMessages() {
			data := in.GetV1().GetData()
			found := false
			for _, m := range n.messages(t, data[5:21]) { // after version, wire format and length
				found = found || bytes.Equal(m.Data, data) && bytes.Equal(m.SenderHmac, in.GetV1().GetSenderHmac())
			}
			if !found {
				t.Fatalf("%x was accepted and is not served", data)
			}
		}
	})
}

func FuzzSendWelcomeMessages(f *testing.F) {
	for _, w := range []*mlsapi.WelcomeMessageInput{
		welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("d"), HpkePublicKey: []byte("k")}),
		pointer(&mlsapi.WelcomeMessageInput_WelcomePointer{InstallationKey: id32(1), WelcomePointer: []byte("p"), HpkePublicKey: []byte("k"), WrapperAlgorithm: xwingPointer}),
		{},
	} {
		b, err := proto.Marshal(&mlsapi.SendWelcomeMessagesRequest{Messages: []*mlsapi.WelcomeMessageInput{w}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		request := new(mlsapi.SendWelcomeMessagesRequest)
		if proto.Unmarshal(b, request) != nil {
			return
		}
		n := newNetwork(t, memory.Config{}, node.Limits{})
		if _, err := n.node.SendWelcomeMessages(t.Context(), request); err != nil {
			wantCode(t, err, bus.CodeInvalid)
			nothingStored(t, n.Bus)
			return
		}
		for _, in := range request.GetMessages() {
			topic := in.GetV1().GetInstallationKey()
			if p := in.GetWelcomePointer(); p != nil {
				topic = p.GetInstallationKey()
			}
			if len(n.welcomes(t, topic)) == 0 {
				t.Fatalf("%v was accepted and is not served", in)
			}
		}
	})
}

func FuzzBatchPublishCommitLog(f *testing.F) {
	for _, e := range []*mlsapi.PublishCommitLogRequest{entry(id16(1), "e"), entry(nil, ""), {}} {
		b, err := proto.Marshal(&mlsapi.BatchPublishCommitLogRequest{Requests: []*mlsapi.PublishCommitLogRequest{e}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		request := new(mlsapi.BatchPublishCommitLogRequest)
		if proto.Unmarshal(b, request) != nil {
			return
		}
		n := newNetwork(t, memory.Config{}, node.Limits{})
		if _, err := n.node.BatchPublishCommitLog(t.Context(), request); err != nil {
			wantCode(t, err, bus.CodeInvalid)
			nothingStored(t, n.Bus)
			return
		}
		for _, e := range request.GetRequests() {
			if r := n.queryLogs(t, &mlsapi.QueryCommitLogRequest{GroupId: e.GetGroupId()}); len(r[0].GetCommitLogEntries()) == 0 {
				t.Fatalf("%v was accepted and is not served", e)
			}
		}
	})
}
