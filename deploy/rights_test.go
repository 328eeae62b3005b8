package deploy

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

var update = flag.Bool("update", false, "write rights.conf")

// roles are the users of nats.conf and what the code has them do.
var roles = []struct {
	user   string
	rights func(deployment, user string, shards int) jetstream.Rights
}{{"host", jetstream.HostRights}, {"node", jetstream.NodeRights}, {"operator", jetstream.OperatorRights}}

// rights.conf is the code's rights, and the server reads the same out of nats.conf.
func TestRightsOfDeploymentAreTheCodes(t *testing.T) {
	text := "# Made by go test ./deploy -run TestRightsOfDeploymentAreTheCodes -update. What an embedded server gives, for up to 64 shards.\n"
	quoted := func(verb string, subjects []string) {
		text += "  " + verb + " { allow: [\n"
		for _, s := range subjects {
			text += fmt.Sprintf("    %q\n", s)
		}
		text += "  ] }\n"
	}
	for _, r := range roles {
		rights := r.rights("CONCLAVE", r.user, bus.MaxShards)
		text += strings.ToUpper(r.user) + "_RIGHTS {\n"
		quoted("publish", rights.Publish)
		quoted("subscribe", rights.Subscribe)
		text += "}\n"
	}
	switch {
	case *update:
		if err := os.WriteFile("rights.conf", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	case read(t, "rights.conf") != text:
		t.Error("rights.conf gives others than the code: go test ./deploy -run TestRightsOfDeploymentAreTheCodes -update")
	}

	for _, name := range []string{"NODE", "STORE", "PASSWORD", "ROUTE_1", "ROUTE_2", "ROUTE_3", "NODE_PASSWORD", "HOST_PASSWORD", "OPERATOR_PASSWORD"} {
		t.Setenv(name, "nats://127.0.0.1:1")
	}
	opts, err := server.ProcessConfigFile("nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	if len(opts.Users) != len(roles) || opts.NoAuthUser != "" {
		t.Errorf("%d users, and who presents nothing is %q", len(opts.Users), opts.NoAuthUser)
	}
	for _, r := range roles {
		i := slices.IndexFunc(opts.Users, func(u *server.User) bool { return u.Username == r.user })
		if i < 0 {
			t.Errorf("no user %q", r.user)
			continue
		}
		want, got := r.rights("CONCLAVE", r.user, bus.MaxShards), opts.Users[i].Permissions
		if got == nil || got.Publish == nil || got.Subscribe == nil || !slices.Equal(got.Publish.Allow, want.Publish) || !slices.Equal(got.Subscribe.Allow, want.Subscribe) ||
			len(got.Publish.Deny)+len(got.Subscribe.Deny) > 0 || got.Response != nil {
			t.Errorf("%s has other rights than the code's", r.user)
		}
	}
}
