package bus_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/bus"
)

// B6: a service's name is tokens that no subject reads as a wildcard.
func FuzzCheckService(f *testing.F) {
	for _, name := range []string{"identity.v1", "", ".", "a..b", "*", "a.>", " ", "a\x00"} {
		f.Add(name)
	}
	form := regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
	f.Fuzz(func(t *testing.T, name string) {
		want := len(name) <= 64 && form.MatchString(name)
		if err := bus.CheckService(name); (err == nil) != want || err != nil && !errors.Is(err, bus.ErrBadService) {
			t.Fatalf("%q: %v", name, err)
		}
	})
}

func TestAnswerCatchesAndNames(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	_, failed := bus.Answer(t.Context(), logger, func(context.Context, []byte) ([]byte, error) {
		panic("boom")
	}, nil)
	if failed == nil || failed.Code != bus.CodeInternal || strings.Contains(failed.Message, "boom") {
		t.Errorf("a panic is answered with %v", failed)
	}
	if !strings.Contains(log.String(), "boom") {
		t.Error("a panic is not logged")
	}
	_, failed = bus.Answer(t.Context(), logger, func(context.Context, []byte) ([]byte, error) {
		return []byte("half"), errors.New("plain")
	}, nil)
	if failed == nil || failed.Code != bus.CodeInternal || failed.Message != "plain" {
		t.Errorf("an error is answered with %v", failed)
	}
}
