// Command peers plays MLS groups whose members are this project's engine, OpenMLS
// and mls-rs, and compares what they agree on and what they refuse. See README.md.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	program := flag.String("engines", "rust/target/debug/peers", "the program that plays OpenMLS and mls-rs")
	list := flag.String("suites", "1,2,3", "cipher suites, by number")
	steps := flag.Int("steps", 1000, "steps of each history")
	seed := flag.Uint64("seed", 1, "of the histories")
	verdictsFile := flag.String("verdicts", "verdicts.md", "the table of verdicts to compare with; empty: no forgeries")
	write := flag.Bool("write", false, "write the table of verdicts instead")
	flag.Parse()
	s, err := openStage(*program)
	if err != nil {
		return fmt.Errorf("start %s (build it with `make peers`): %w", *program, err)
	}
	defer s.close()
	suites, err := suiteNumbers(*list)
	if err != nil {
		return err
	}
	var played, judged error
	if *steps > 0 {
		played = histories(s, suites, *steps, *seed)
	}
	if *verdictsFile != "" {
		judged = forgeries(s, suites, *verdictsFile, *write)
	}
	return errors.Join(played, judged)
}

// forgeries lets each engine judge forged messages in each suite, and compares what
// they say with what the document has.
func forgeries(s *stage, suites []int, path string, write bool) error {
	var cases []judged
	for _, suite := range suites {
		c, err := newCourt(s, suite)
		if err != nil {
			return fmt.Errorf("suite %d: %w", suite, err)
		}
		more, err := c.judge()
		if err != nil {
			return fmt.Errorf("suite %d: %w", suite, err)
		}
		cases = merge(cases, more)
	}
	now, err := document(cases)
	if write {
		return errors.Join(os.WriteFile(path, now, 0o644), err)
	}
	known, readErr := os.ReadFile(path)
	if readErr != nil {
		return readErr
	}
	if !bytes.Equal(now, known) {
		err = errors.Join(err, fmt.Errorf("the verdicts are not those of %s: run `make peers VERDICTS=-write`, and see what changed", path))
	}
	fmt.Printf("%d forged cases in suites %v\n", len(cases), suites)
	return err
}

func suiteNumbers(list string) (suites []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("-suites takes numbers with commas between them: %w", err)
		}
		suites = append(suites, n)
	}
	return suites, nil
}

// histories plays one in each suite and prints the table.
func histories(s *stage, suites []int, steps int, seed uint64) error {
	var tallies []tally
	var failed error
	for _, suite := range suites {
		begun := time.Now()
		h, err := newHistory(s, suite, seed)
		if err != nil {
			return err
		}
		if err := h.run(steps); err != nil {
			h.tally.mismatch = err
			failed = fmt.Errorf("suite %d, %w\nrepeat it: go run . -suites %d -seed %d -steps %d", suite, err, suite, seed, h.tally.steps)
			fmt.Fprintln(os.Stderr, failed)
		}
		h.tally.took = time.Since(begun)
		tallies = append(tallies, h.tally)
	}
	if err := report(os.Stdout, suites, tallies); err != nil {
		return err
	}
	return failed
}
