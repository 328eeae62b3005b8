package mls

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// The official test vectors of the MLS working group, one test per file. With
// -v or CONCLAVE_VECTORS_REPORT set, the run ends with a table of the files
// and the line "N passed, N failed, N skipped".

// vectorFile counts the cases of one file.
type vectorFile struct {
	name                           string
	cases, passed, failed, skipped int
	suites                         map[CipherSuite]int // skipped cases by suite
}

var vectorFiles []*vectorFile // Vector tests do not run in parallel.

// eachCase runs one subtest per element of a vector file. A case whose cipher
// suite is not supported counts as skipped; every other one must run to the
// end of run to count as passed.
func eachCase[T any](t *testing.T, file string, run func(t *testing.T, c T)) {
	t.Helper()
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS is not set: the folder with mls/" + file +
			", from test-vectors of github.com/mlswg/mls-implementations")
	}
	b, err := os.ReadFile(filepath.Join(dir, "mls", file))
	if err != nil {
		t.Fatal(err)
	}
	var suites []struct {
		Suite *CipherSuite `json:"cipher_suite"`
	}
	var cases []T
	if err := cmp.Or(json.Unmarshal(b, &suites), json.Unmarshal(b, &cases)); err != nil {
		t.Fatal(err)
	}
	f := &vectorFile{name: file, cases: len(cases), suites: map[CipherSuite]int{}}
	vectorFiles = append(vectorFiles, f)
	for i, c := range cases {
		if s := suites[i].Suite; s != nil && s.supported() != nil {
			f.skipped++
			f.suites[*s]++
			continue
		}
		ran := false
		ok := t.Run(strconv.Itoa(i), func(t *testing.T) {
			run(t, c)
			ran = true
		})
		if ok && ran {
			f.passed++
		} else {
			f.failed++
			t.Fail()
		}
	}
	if f.passed == 0 {
		t.Errorf("%s: no case passed", file)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if testing.Verbose() || os.Getenv("CONCLAVE_VECTORS_REPORT") != "" {
		reportVectors()
	}
	os.Exit(code)
}

func reportVectors() {
	if len(vectorFiles) == 0 || flag.Lookup("test.fuzzworker").Value.String() == "true" {
		return
	}
	slices.SortFunc(vectorFiles, func(a, b *vectorFile) int { return cmp.Compare(a.name, b.name) })
	fmt.Printf("%-34s %6s %6s %6s %7s\n", "file", "cases", "passed", "failed", "skipped")
	var passed, failed, skipped int
	for _, f := range vectorFiles {
		fmt.Printf("%-34s %6d %6d %6d %7d", f.name, f.cases, f.passed, f.failed, f.skipped)
		for s := CipherSuite(0); s < 0xff; s++ {
			if n := f.suites[s]; n > 0 {
				fmt.Printf("  suite %#04x: %d", uint16(s), n)
			}
		}
		fmt.Println()
		passed, failed, skipped = passed+f.passed, failed+f.failed, skipped+f.skipped
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
}

// hexBytes is a byte string in a vector file: hexadecimal, or null.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	d, err := hex.DecodeString(*s)
	*h = d
	return err
}
