package main

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestBenchReports proves the shape of every benchmark's JSON, at tiny sizes.
func TestBenchReports(t *testing.T) {
	tests := []struct {
		args    string
		figures []string
		fields  []string
	}{
		{"fanout --members 4 --messages 8", []string{"deliveries_per_second", "send_to_all_stored_p99"}, []string{"fanout"}},
		{"fanout --members 4 --messages 8 --verify", []string{"deliveries_per_second", "send_to_all_stored_p99"}, []string{"fanout"}},
		{"form --members 4", []string{"form_and_join", "heap_per_further_member"}, nil},
		{"commit --members 4", []string{"commit_to_all_applied_p50"}, nil},
		{"idle --installations 6", []string{"bytes_per_installation"}, []string{"bytes_per_installation", "descriptors", "goroutines"}},
		{"mixed --installations 6 --groups 3 --messages 12", []string{"deliveries_per_second"}, nil},
		{"node --rate 50 --for 1s --writers 2 --messages 20 --clients 2", []string{"publish_to_stream_p99", "durable_publishes_per_second", "bytes_per_client"}, nil},
	}
	if runtime.GOOS == "linux" { // where 127.0.0.2 is there unasked
		node := &tests[len(tests)-1]
		node.args += " --flood"
		node.figures = append(node.figures, "flooded_publish_to_stream_p99", "flood_answers_per_second")
	}
	t.Setenv(asChild, "1") // of the processes that --verify and node start
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			t.Parallel()
			out, errw, err := output(t, "", append([]string{"bench", "--json"}, strings.Fields(test.args)...)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, errw)
			}
			var report struct {
				Name, Machine, Commit string
				Seed, Lost, Repeated  *int
				Figures               []struct {
					Name, Unit          string
					Value, Floor, Ratio *float64
				}
				Fanout struct {
					Deliveries, Streamed, Agreeing int
					Checksum                       string
				}
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(out), &report); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(out), &fields); err != nil {
				t.Fatal(err)
			}
			if report.Name != strings.Fields(test.args)[0] || report.Machine == "" || report.Commit == "" || report.Seed == nil || report.Lost == nil || report.Repeated == nil {
				t.Errorf("header: %s", out)
			}
			for _, field := range test.fields {
				if _, ok := fields[field]; !ok {
					t.Errorf("no field %q", field)
				}
			}
			var names []string
			for _, f := range report.Figures {
				names = append(names, f.Name)
				if f.Unit == "" || f.Value == nil || f.Floor == nil || f.Ratio == nil {
					t.Errorf("figure %q is not whole", f.Name)
				}
			}
			for _, want := range test.figures {
				if !slices.Contains(names, want) {
					t.Errorf("no figure %q among %q", want, names)
				}
			}
			if f := report.Fanout; report.Name == "fanout" && (f.Deliveries != 32 || f.Streamed != 32 || f.Agreeing != 4 || len(f.Checksum) != 64) {
				t.Errorf("fanout: %+v", f)
			}
		})
	}
}
