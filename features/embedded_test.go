package features

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// S07 S08 S10 S66: the embedded default keeps everything: a host that is closed
// and opened again has the same installations, groups and messages, without
// asking a wallet.
func TestEmbeddedDefaultSurvivesRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	host := must[*conclave.Host](t)(conclave.Open(ctx, conclave.Config{Dir: dir}))
	alix := must[*conclave.Client](t)(host.CreateClient(ctx, must[*ethereum.Key](t)(ethereum.GenerateKey()), conclave.ClientOptions{}))
	bo := must[*conclave.Client](t)(host.CreateClient(ctx, must[*ethereum.Key](t)(ethereum.GenerateKey()), conclave.ClientOptions{}))
	g := must[*conclave.Group](t)(alix.Conversations().NewGroup(ctx, addresses(bo), conclave.GroupOptions{Name: "kept"}))
	id := must[conclave.MessageID](t)(g.Send(ctx, conclave.Text("first")))
	must[conclave.DeliveryStatus](t)(g.Wait(ctx, id))
	if err := bo.Conversations().SyncAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(ctx); err != nil {
		t.Fatal(err)
	}

	host = must[*conclave.Host](t)(conclave.Open(ctx, conclave.Config{Dir: dir}))
	defer func() {
		if err := host.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	w := &world{t, ctx, host}
	again := must[*conclave.Client](t)(host.LoadClient(ctx, bo.InstallationID(), bo.DatabaseKey()))
	theirs := must[*conclave.Group](t)(again.Conversations().Get(ctx, g.ID()))
	if got := fmt.Sprint(w.texts(theirs)); got != "[first]" {
		t.Fatalf("after the restart bo reads %s", got)
	}
	must[conclave.MessageID](t)(theirs.Send(ctx, conclave.Text("second")))
	if err := theirs.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	first := must[*conclave.Client](t)(host.LoadClient(ctx, alix.InstallationID(), alix.DatabaseKey()))
	mine := must[*conclave.Group](t)(first.Conversations().Get(ctx, g.ID()))
	if err := mine.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.texts(mine)); got != "[first second]" {
		t.Fatalf("after the restart alix reads %s", got)
	}
}
