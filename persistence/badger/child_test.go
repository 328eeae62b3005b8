package badger_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// childProcess runs when a test starts this binary again, with the store's
// directory in the environment: it writes from several goroutines and prints
// each batch once it is durable, until it is killed.
func childProcess() {
	dir := os.Getenv("BADGER_TEST_CHILD")
	if dir == "" {
		return
	}
	s, err := badger.Open(context.Background(), badger.SmallSegments(config(dir), 1<<20))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("open")
	from, _ := strconv.Atoi(os.Getenv("BADGER_TEST_FROM"))
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			for i := from; ; i++ {
				var b persistence.Batch
				for part := range 3 {
					b.Put(fmt.Appendf(nil, "%d.%08d.%d", w, i, part), make([]byte, 2000))
				}
				durability := persistence.Durability(i % 2)
				if err := s.Apply(context.Background(), &b, durability); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				if durability == persistence.Durable {
					fmt.Println(w, i)
				}
			}
		})
	}
	wait.Wait()
}

// child starts the process and returns what it prints.
func child(t *testing.T, dir string, from int) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BADGER_TEST_CHILD="+dir, "BADGER_TEST_FROM="+strconv.Itoa(from))
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child said %q", lines.Text())
	}
	return cmd, lines
}

func TestSecondProcessIsLockedOut(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := child(t, dir, 0)
	_, err := badger.Open(t.Context(), config(dir))
	if !errors.Is(err, persistence.ErrLocked) {
		t.Errorf("got %v", err)
	}
	check(t, cmd.Process.Kill())
	cmd.Wait()
	open(t, config(dir)) // the lock dies with its holder
	if _, err := badger.Open(t.Context(), config(dir)); !errors.Is(err, persistence.ErrLocked) {
		t.Errorf("got %v", err)
	}
}

// D7: killed at any instant, the store opens with every batch that was
// acknowledged as durable, whole batches only, and in a row.
func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]int{} // writer to its last durable batch
	from := 0
	for round := range 6 {
		cmd, lines := child(t, dir, from)
		for range 1 + 150*round {
			if !lines.Scan() {
				break
			}
			if w, i, ok := strings.Cut(lines.Text(), " "); ok {
				n, err := strconv.Atoi(i)
				if err != nil {
					t.Fatal(lines.Text())
				}
				acked[w] = max(acked[w], n)
			}
		}
		check(t, cmd.Process.Kill())
		for lines.Scan() { // what it printed before it died counts as well
			if w, i, ok := strings.Cut(lines.Text(), " "); ok {
				if n, err := strconv.Atoi(i); err == nil {
					acked[w] = max(acked[w], n)
				}
			}
		}
		cmd.Wait()

		s, err := badger.Open(t.Context(), config(dir))
		check(t, err)
		batches := map[string]int{}
		last := map[string]int{}
		check(t, s.View(t.Context(), func(r persistence.Reader) error {
			return r.Scan(nil, nil, func(key, _ []byte) bool {
				w, rest, _ := strings.Cut(string(key), ".")
				i, _, _ := strings.Cut(rest, ".")
				batches[w+"."+i]++
				n, _ := strconv.Atoi(i)
				last[w] = max(last[w], n)
				return true
			})
		}))
		for batch, rows := range batches {
			if rows != 3 {
				t.Errorf("round %d: batch %s has %d rows", round, batch, rows)
			}
		}
		for w, i := range acked {
			for n := i; n >= max(from, i-20); n-- {
				if batches[fmt.Sprintf("%s.%08d", w, n)] != 3 {
					t.Errorf("round %d: writer %s acknowledged %d, and %d is not there", round, w, i, n)
				}
			}
			from = max(from, last[w]+1)
		}
		check(t, s.Close())
	}
}
