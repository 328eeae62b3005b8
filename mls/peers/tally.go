package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A tally counts what a history did, by the engine that did it where that matters.
type tally struct {
	steps, removed, opened, compared                        int
	commits, joins, externals, resyncs, proposals, messages byEngine
	took                                                    time.Duration
	mismatch                                                error
}

type byEngine map[string]int

func newTally() tally {
	return tally{
		commits: byEngine{}, joins: byEngine{}, externals: byEngine{},
		resyncs: byEngine{}, proposals: byEngine{}, messages: byEngine{},
	}
}

// String lists the counts in the order of the engines.
func (b byEngine) String() string {
	counts := make([]string, len(engines))
	for i, e := range engines {
		counts[i] = fmt.Sprint(b[e])
	}
	return strings.Join(counts, "/")
}

// report prints one line for each suite.
func report(w io.Writer, suites []int, tallies []tally) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "counts by engine: %s\n", strings.Join(engines, "/"))
	fmt.Fprintln(t, "suite\tsteps\tcommits\twelcomed\texternal\tof them again\tproposals\tmessages\tremoved\topened\tstates compared\tmismatches\ttook\t")
	for i, c := range tallies {
		mismatches := 0
		if c.mismatch != nil {
			mismatches = 1
		}
		fmt.Fprintf(t, "%d\t%d\t%v\t%v\t%v\t%v\t%v\t%v\t%d\t%d\t%d\t%d\t%v\t\n", suites[i], c.steps, c.commits, c.joins, c.externals,
			c.resyncs, c.proposals, c.messages, c.removed, c.opened, c.compared, mismatches, c.took.Round(time.Second))
	}
	return t.Flush()
}
