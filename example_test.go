package conclave_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// fatal ends an example that went wrong.
func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// newWallet stands for the wallet that your service or its users have.
func newWallet() conclave.Signer {
	wallet, err := ethereum.GenerateKey()
	fatal(err)
	return wallet
}

// openHost opens a host that forgets: the other examples are about what
// follows.
func openHost(ctx context.Context) (host *conclave.Host, closeHost func()) {
	b := membus.New(membus.Config{})
	host, err := conclave.Open(ctx, conclave.Config{Bus: b, Store: memstore.New(), ServeNode: true})
	fatal(err)
	return host, func() {
		fatal(host.Close(ctx))
		fatal(b.Close())
	}
}

// newClients makes installations of new wallets.
func newClients(ctx context.Context, host *conclave.Host, n int) []*conclave.Client {
	clients := make([]*conclave.Client, n)
	for i := range clients {
		var err error
		clients[i], err = host.CreateClient(ctx, newWallet(), conclave.ClientOptions{})
		fatal(err)
	}
	return clients
}

// A service opens a host on a directory, and clients on the host. That is all:
// the bus and the store are in this process.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "conclave")
	fatal(err)
	defer os.RemoveAll(dir)

	host, err := conclave.Open(ctx, conclave.Config{Dir: dir})
	fatal(err)
	defer host.Close(ctx)
	alix, err := host.CreateClient(ctx, newWallet(), conclave.ClientOptions{})
	fatal(err)
	bo, err := host.CreateClient(ctx, newWallet(), conclave.ClientOptions{})
	fatal(err)

	room, err := alix.Conversations().NewGroup(ctx, []string{bo.Address()}, conclave.GroupOptions{Name: "ops"})
	fatal(err)
	_, err = room.Send(ctx, conclave.Text("hello"))
	fatal(err)
	fatal(room.Sync(ctx))

	fatal(bo.Conversations().SyncAll(ctx))
	groups, err := bo.Conversations().List(ctx)
	fatal(err)
	info, err := groups[0].Info(ctx)
	fatal(err)
	messages, err := groups[0].Messages(ctx, conclave.MessageQuery{})
	fatal(err)
	for _, m := range messages {
		if text, ok := m.Content.(conclave.Text); ok {
			fmt.Printf("in %s: %s\n", info.Name, text)
		}
	}
	// Output: in ops: hello
}

// A wallet is anything with an address that signs a text as personal_sign does:
// a key, a keystore, a remote signer. It is asked once, when the installation is
// made; from then on the database key opens it.
func ExampleHost_CreateClient() {
	ctx := context.Background()
	host, closeHost := openHost(ctx)
	defer closeHost()

	key, err := ethereum.GenerateKey()
	fatal(err)
	wallet := conclave.SignerFunc(key.Address(), func(text string) ([]byte, error) {
		fmt.Println("the wallet signs")
		return key.SignMessage(text)
	})
	client, err := host.CreateClient(ctx, wallet, conclave.ClientOptions{})
	fatal(err)
	id, database := client.InstallationID(), client.DatabaseKey() // keep them

	again, err := host.LoadClient(ctx, id, database)
	fatal(err)
	fmt.Println("the same installation:", again.InstallationID() == id)
	fmt.Println("its key prints as", database)
	// Output:
	// the wallet signs
	// the same installation: true
	// its key prints as [redacted]
}

// Send returns when the message is stored here, with or without a network. Wait
// says what became of it.
func ExampleGroup_Send() {
	ctx := context.Background()
	host, closeHost := openHost(ctx)
	defer closeHost()
	clients := newClients(ctx, host, 2)
	room, err := clients[0].Conversations().NewGroup(ctx, []string{clients[1].Address()}, conclave.GroupOptions{})
	fatal(err)

	id, err := room.Send(ctx, conclave.Text("hello"))
	fatal(err)
	status, err := room.Wait(ctx, id)
	fatal(err)
	fmt.Println(status)

	failed, err := room.Messages(ctx, conclave.MessageQuery{Status: conclave.Failed})
	fatal(err)
	for _, m := range failed {
		fatal(room.Retry(ctx, m.ID)) // under the same id
	}
	// Output: published
}

// A stream begins with the call and yields the messages of all groups, those
// joined later included.
func ExampleConversations_StreamAllMessages() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	host, closeHost := openHost(context.Background())
	defer closeHost()
	clients := newClients(ctx, host, 2)
	stream := clients[1].Conversations().StreamAllMessages(ctx)

	room, err := clients[0].Conversations().NewGroup(ctx, []string{clients[1].Address()}, conclave.GroupOptions{})
	fatal(err)
	for _, text := range []string{"one", "two", "three"} {
		_, err := room.Send(ctx, conclave.Text(text))
		fatal(err)
	}
	for m, err := range stream {
		fatal(err)
		switch c := m.Content.(type) {
		case *conclave.GroupUpdated:
			fmt.Println("members added:", len(c.Added))
		case conclave.Text:
			fmt.Println(c)
		}
		if m.Text() == "three" {
			break
		}
	}
	// Output:
	// members added: 1
	// one
	// two
	// three
}

// Handle is a stream with a function instead of a loop: what fails is reported
// and handed over again.
func ExampleHandle() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	host, closeHost := openHost(context.Background())
	defer closeHost()
	clients := newClients(ctx, host, 2)
	stream := clients[1].Conversations().StreamAllMessages(ctx)
	room, err := clients[0].Conversations().NewGroup(ctx, []string{clients[1].Address()}, conclave.GroupOptions{})
	fatal(err)
	_, err = room.Send(ctx, conclave.Text("ping"))
	fatal(err)

	tries := 0
	err = conclave.Handle(ctx, stream, func(_ context.Context, m *conclave.Message) error {
		if m.Text() != "ping" {
			return nil
		}
		if tries++; tries == 1 {
			panic("out of coffee")
		}
		fmt.Println("handled at try", tries)
		cancel()
		return nil
	}, conclave.HandlerOptions{Report: func(f conclave.HandlerFailure) { fmt.Println(f.Err) }})
	fatal(err)
	// Output:
	// conclave: handler panicked: out of coffee
	// handled at try 2
}
