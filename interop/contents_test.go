//go:build interop

package interop

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// An asIs is a content of any type in the form in which it travels: what a
// service does that carries types on without reading them.
type asIs struct {
	id      content.TypeID
	encoded *contents.EncodedContent
}

func (c asIs) Type() content.TypeID { return c.id }

// asIsCodec carries one type as asIs.
type asIsCodec struct{ id content.TypeID }

func (c asIsCodec) Type() content.TypeID { return c.id }
func (c asIsCodec) Encode(v content.Content) (*contents.EncodedContent, error) {
	return proto.Clone(v.(asIs).encoded).(*contents.EncodedContent), nil
}
func (c asIsCodec) Decode(e *contents.EncodedContent) (content.Content, error) {
	return asIs{c.id, e}, nil
}
func (c asIsCodec) Fallback(v content.Content) string { return v.(asIs).encoded.GetFallback() }
func (c asIsCodec) ShouldPush(content.Content) bool   { return true }

var (
	markdown = content.TypeID{Authority: "xmtp.org", Name: "markdown", Major: 1}
	reply    = content.TypeID{Authority: "xmtp.org", Name: "reply", Major: 1}
)

// codecs are those that Conclave's hosts have on top of their own.
func codecs() []content.Codec { return []content.Codec{asIsCodec{markdown}, asIsCodec{reply}} }

// Types that Conclave has no codec for arrive as their fallback, those that it
// was given a codec for whole, and real clients decode what it sends.
func TestWalkContentTypes(t *testing.T) {
	s := begin(t, "markdown, reply, reaction and read receipt both ways")
	ada, gus, gil := s.real("ada")[0], s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	theirs := must[room](t)(ada.NewGroup(s.ctx, "types", gus, gil)).(*realRoom)
	ours := s.enter(theirs.id, gus).(*goRoom)
	s.say(ours, "plain")
	v := s.agree([]room{theirs, ours}, "gus: plain")

	id := func() string {
		messages, err := ours.Messages(s.ctx, conclave.MessageQuery{})
		s.do(err)
		for _, m := range messages {
			if m.Text() == "plain" {
				return m.ID.String()
			}
		}
		t.Fatal("the text is gone")
		return ""
	}()
	about := args{"reference": id, "inbox": gus.Inbox()}
	s.do(theirs.call(s.ctx, "sendMarkdown", args{"text": "**bold**"}, nil))
	about["text"] = "indeed"
	s.do(theirs.call(s.ctx, "sendReply", about, nil))
	about["text"] = "👍"
	s.do(theirs.call(s.ctx, "sendReaction", about, nil))
	s.do(theirs.call(s.ctx, "sendReadReceipt", nil, nil))
	s.do(ours.SendContent(s.ctx, asIs{markdown, &contents.EncodedContent{
		Parameters: map[string]string{"encoding": "UTF-8"}, Content: []byte("_slanted_"),
	}}))
	nested, err := content.NewRegistry().Encode(content.Text("yes, indeed"))
	s.do(err)
	s.do(ours.SendContent(s.ctx, asIs{reply, &contents.EncodedContent{
		Parameters: map[string]string{"reference": id, "contentType": "xmtp.org/text:1.0", "referenceInboxId": gus.Inbox()},
		Fallback:   proto.String("Replied with \"yes, indeed\""), Content: nested.Bytes,
	}}))
	s.row.sent += 6

	want := []string{"text", "markdown", "reply", "reaction", "readReceipt", "markdown", "reply"}
	s.do(poll(s.ctx, func() error { // what Conclave has
		v, err = ours.Look(s.ctx)
		if err == nil && len(v.Lines) != len(want) {
			err = fmt.Errorf("gus reads %q", s.lines(v))
		}
		return err
	}))
	for i, l := range v.Lines {
		if l.Type != want[i] {
			t.Errorf("line %d is %s, not %s", i, l.Type, want[i])
		}
	}
	messages, err := ours.Messages(s.ctx, conclave.MessageQuery{})
	s.do(err)
	for _, m := range messages {
		switch c := m.Content.(type) {
		case asIs:
			if m.Sender == ada.Inbox() && c.id == markdown && string(c.encoded.Content) != "**bold**" {
				t.Errorf("markdown arrived as %q", c.encoded.Content)
			}
			if m.Sender == ada.Inbox() && c.id == reply && c.encoded.Parameters["reference"] != id {
				t.Errorf("the reply refers to %v", c.encoded.Parameters)
			}
		case *content.Unknown:
			if c.ID.Name == "reaction" && !strings.Contains(m.Fallback, "👍") {
				t.Errorf("the reaction's fallback is %q", m.Fallback)
			}
		}
	}

	var seen struct { // what the SDK decodes
		Messages []struct {
			Sender, Type, Text string
			Content            struct {
				ReferenceID string `json:"referenceId"`
				Content     any
			}
		}
	}
	s.do(theirs.call(s.ctx, "look", args{"sync": true}, &seen))
	var slanted, replied bool
	for _, m := range seen.Messages {
		if m.Sender != gus.Inbox() {
			continue
		}
		slanted = slanted || m.Type == "markdown" && m.Text == "_slanted_"
		replied = replied || m.Type == "reply" && m.Content.ReferenceID == id && m.Content.Content == "yes, indeed"
	}
	if !slanted || !replied {
		t.Errorf("ada decodes markdown %v, reply %v: %+v", slanted, replied, seen.Messages)
	}
	s.row.members, s.row.epoch, s.row.read = len(v.Members), v.Epoch, 2*len(v.Lines)
}

// A text of a mebibyte goes both ways.
func TestWalkMebibyte(t *testing.T) {
	s := begin(t, "a text of 1 MiB both ways")
	ada, gus, gil := s.real("ada")[0], s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	ours := must[room](t)(gus.NewGroup(s.ctx, "large", ada, gil))
	theirs, grpc := s.enter(ours.ID(), ada), s.enter(ours.ID(), gil)
	var want []string
	for i, r := range []room{theirs, ours, grpc} {
		text := strings.Repeat(string(rune('a'+i)), 1<<20)
		s.say(r, text)
		want = append(want, r.Member().Name()+": "+text)
	}
	v := s.agree([]room{theirs, ours, grpc})
	for i, l := range s.lines(v) {
		if i >= len(want) || l != want[i] {
			t.Errorf("message %d is %.40q with %d bytes", i, l, len(l))
		}
	}
	if len(v.Lines) != len(want) {
		t.Errorf("%d messages, not %d", len(v.Lines), len(want))
	}
}

// ask calls the node's API as a program without any SDK would: one POST.
func (s *scenario) ask(ctx context.Context, method string, in, out proto.Message) error {
	body, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.network.xmtpURL()+"/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/proto")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if body, err = io.ReadAll(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", method, answer.Status, body)
	}
	return proto.Unmarshal(body, out)
}

// What a notification server goes by arrives as it was sent: texts ask for a
// push and commits do not, and each carries a hash of its bytes under the key that
// its sender shows for the period.
func TestWalkPushFields(t *testing.T) {
	s := begin(t, "sender_hmac and should_push as a notification server reads them")
	ada, gus := s.real("ada")[0], s.ours(s.nats, "gus")[0]
	theirs := must[room](t)(ada.NewGroup(s.ctx, "push", gus)).(*realRoom)
	ours := s.enter(theirs.id, gus)
	s.say(theirs, "from ada")
	s.say(ours, "from gus")
	s.agree([]room{theirs, ours}, "ada: from ada", "gus: from gus")

	var keys []struct {
		Key    string
		Period int
	}
	s.do(theirs.call(s.ctx, "hmacKeys", nil, &keys))
	group := must[[]byte](t)(hex.DecodeString(theirs.id))
	var log mlsapi.QueryGroupMessagesResponse
	s.do(s.ask(s.ctx, "xmtp.mls.api.v1.MlsApi/QueryGroupMessages", &mlsapi.QueryGroupMessagesRequest{
		GroupId: group, PagingInfo: &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_ASCENDING},
	}, &log))
	shown := must[map[conclave.GroupID][]conclave.HmacKey](t)(gus.client.HmacKeys(s.ctx))[must[conclave.GroupID](t)(conclave.ParseGroupID(theirs.id))]
	by := map[string][][]byte{} // keys by who showed them
	for _, k := range keys {
		by["ada"] = append(by["ada"], must[[]byte](t)(hex.DecodeString(k.Key)))
	}
	for _, k := range shown {
		by["gus"] = append(by["gus"], k.Key)
	}
	texts, marked := 0, map[string]int{}
	for _, m := range log.Messages {
		v1 := m.GetV1()
		if v1.ShouldPush == v1.IsCommit {
			t.Errorf("message %d: commit %v, should push %v", v1.Id, v1.IsCommit, v1.ShouldPush)
		}
		if len(v1.SenderHmac) != sha256.Size {
			t.Errorf("message %d has a sender_hmac of %d bytes", v1.Id, len(v1.SenderHmac))
		}
		if v1.IsCommit {
			continue
		}
		texts++
		for name, keys := range by {
			for _, k := range keys {
				mac := hmac.New(sha256.New, k)
				mac.Write(v1.Data)
				if hmac.Equal(mac.Sum(nil), v1.SenderHmac) {
					marked[name]++
				}
			}
		}
	}
	if texts != 2 || marked["ada"] != 1 || marked["gus"] != 1 {
		t.Errorf("%d texts, of whom the keys know %v", texts, marked)
	}
}
