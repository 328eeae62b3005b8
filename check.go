package conclave

import (
	"context"
	"fmt"
	"reflect"

	"github.com/conclave-chat/conclave/identity"
)

// Every method checks its handle and its context before anything else, so that a
// mistake of the caller is an error and never a panic.

func checkContext(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: ctx is nil: give context.Background() at least", ErrInvalid)
	}
	return nil
}

func (h *Host) check(ctx context.Context) error {
	if h == nil || h.system == nil {
		return fmt.Errorf("%w: Host is the zero value: take one from Open", ErrInvalid)
	}
	return checkContext(ctx)
}

func (c *Client) check(ctx context.Context) error {
	if c == nil || c.host == nil {
		return fmt.Errorf("%w: Client is the zero value: take one from Host.CreateClient or Host.LoadClient", ErrInvalid)
	}
	return c.host.check(ctx)
}

func (v Conversations) check(ctx context.Context) error {
	if v.client == nil {
		return fmt.Errorf("%w: Conversations is the zero value: take it from Client.Conversations", ErrInvalid)
	}
	return v.client.check(ctx)
}

func (g *Group) check(ctx context.Context) error {
	if g == nil || g.client == nil {
		return fmt.Errorf("%w: Group is the zero value: take one from Conversations", ErrInvalid)
	}
	return g.client.check(ctx)
}

func (d *Dm) check(ctx context.Context) error {
	if d == nil || d.client == nil {
		return fmt.Errorf("%w: Dm is the zero value: take one from Conversations", ErrInvalid)
	}
	return d.client.check(ctx)
}

// checkGiven refuses an interface or function without a value, by its name.
func checkGiven(name string, v any) error {
	if r := reflect.ValueOf(v); !r.IsValid() || (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil() {
		return fmt.Errorf("%w: %s is nil", ErrInvalid, name)
	}
	return nil
}

// addressOf returns who a wallet is.
func addressOf(wallet Signer) (identity.Identifier, error) {
	if err := checkGiven("wallet", wallet); err != nil {
		return identity.Identifier{}, err
	}
	return identity.ParseAddress(wallet.Address())
}
