package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/conclave-chat/conclave/benchmarks"
)

// printTable prints names and values in two columns.
func printTable(w io.Writer, rows [][2]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\n", r[0], r[1])
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printReport prints a benchmark's report as people read it.
func printReport(w io.Writer, r *benchmarks.Report) error {
	fmt.Fprintf(w, "%s on %s, commit %.12s, seed %d\n", r.Name, r.Machine, r.Commit, r.Seed)
	fmt.Fprintf(w, "lost %d, repeated %d\n", r.Lost, r.Repeated)
	if f := r.Fanout; f != nil {
		fmt.Fprintf(w, "streamed %s values, checksum %.16s in %d handlers; stores read %s\n", humanize.Comma(int64(f.Streamed)), f.Checksum, f.Agreeing, f.Verified)
	}
	if f := r.IdleFacts; f != nil {
		fmt.Fprintf(w, "%s bytes an installation, %d descriptors, %d goroutines\n", humanize.Comma(f.BytesPerInstallation), f.Descriptors, f.Goroutines)
	}
	width := 0
	for _, f := range r.Figures {
		width = max(width, len(f.Name))
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%-*s\tvalue\tfloor\tratio\t\n", width, "")
	for _, f := range r.Figures {
		floor, ratio := "–", "–"
		if f.Floor > 0 {
			floor, ratio = amount(f.Floor, f.Unit), fmt.Sprintf("%.1f", f.Ratio)
		}
		fmt.Fprintf(t, "%-*s\t%s\t%s\t%s\t\n", width, f.Name, amount(f.Value, f.Unit), floor, ratio)
	}
	return t.Flush()
}

// amount writes a figure in a unit: 0.88 ms, 197 MB, 2,784 1/s.
func amount(v float64, unit string) string {
	switch {
	case unit == "s" && v < 1:
		return fmt.Sprintf("%.2f ms", 1000*v)
	case unit == "s":
		return fmt.Sprintf("%.3f s", v)
	case unit == "B" && v >= 1e6:
		return humanize.Bytes(uint64(v))
	case v < 10:
		return fmt.Sprintf("%.2f %s", v, unit)
	}
	return humanize.Comma(int64(v)) + " " + unit
}
