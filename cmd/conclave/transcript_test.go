package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestTranscript proves which texts are read, and how the others are refused.
func TestTranscript(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name, text string
		want       []string
		refusal    string
	}{
		{"lines", "one\ntwo\n", []string{"one", "two"}, ""},
		{"no end of line", "one\ntwo", []string{"one", "two"}, ""},
		{"ends as on Windows", "one\r\ntwo\r\n", []string{"one", "two"}, ""},
		{"blank lines are messages", "one\n\ntwo\n", []string{"one", "", "two"}, ""},
		{"any script", "grüß\n雾\n", []string{"grüß", "雾"}, ""},
		{"the longest line", long + "\nend\n", []string{long, "end"}, ""},
		{"the longest line, on Windows", long + "\r\n", []string{long}, ""},
		{"empty", "", nil, "transcript T is empty: every line of it is to be one message"},
		{"NUL", "one\nt\x00o\n", nil, "transcript T: line 2 is not UTF-8 text: give a text file"},
		{"not UTF-8", "\xff\xfe\n", nil, "transcript T: line 1 is not UTF-8 text: give a text file"},
		{"a line over the limit", "one\n" + long + "x\n", nil, "transcript T: line 2 is over the limit of a message, 1048576 bytes: break it up"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := readTranscript(strings.NewReader(test.text), "T")
			if refusal := errorText(err); refusal != test.refusal || !slices.Equal(got, test.want) {
				t.Errorf("got %.40q, %q", got, refusal)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// endless is a line without an end. It counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

// TestTranscriptLineWithoutEnd proves that a line is not read further than its
// limit, however long it is.
func TestTranscriptLineWithoutEnd(t *testing.T) {
	line := new(endless)
	_, err := readTranscript(line, "T")
	if err == nil || !strings.Contains(err.Error(), "line 1 is over the limit") {
		t.Errorf("says %v", err)
	}
	if line.read > 2*maxLine {
		t.Errorf("read %d bytes of it", line.read)
	}
}

// TestTranscriptThatFails proves that a failing read is not taken for the end.
func TestTranscriptThatFails(t *testing.T) {
	torn := errors.New("torn")
	_, err := readTranscript(io.MultiReader(strings.NewReader("one\ntw"), &failing{torn}), "T")
	if !errors.Is(err, torn) {
		t.Errorf("says %v", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// TestOwnTranscript proves that what is built in can be replayed.
func TestOwnTranscript(t *testing.T) {
	lines, err := loadTranscript("", nil)
	if err != nil || len(lines) < 100 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}
