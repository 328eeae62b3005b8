package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// ownTranscript is what a demonstration plays where it is given nothing else.
//
//go:embed transcript.txt
var ownTranscript string

const (
	maxLine       = 1 << 20   // bytes: what fits an envelope on every network
	maxTranscript = 256 << 20 // bytes: a replay keeps its lines in memory
)

// loadTranscript reads the lines of a file, of standard input for "-", or the
// project's own for "".
func loadTranscript(name string, stdin io.Reader) ([]string, error) {
	if name == "" {
		return readTranscript(strings.NewReader(ownTranscript), "the built-in transcript")
	}
	if name == "-" {
		return readTranscript(stdin, "standard input")
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("transcript %s does not exist: give a text file, or - for standard input", name)
	}
	if err != nil {
		return nil, fmt.Errorf("transcript: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("transcript %s is a directory: give a text file, or - for standard input", name)
	}
	return readTranscript(f, name)
}

// readTranscript reads text: every line is one message. It never holds more than
// one line beyond the limit.
func readTranscript(r io.Reader, name string) ([]string, error) {
	var lines []string
	total := 0
	for in := bufio.NewReaderSize(r, 64<<10); ; {
		line, err := readLine(in)
		number := len(lines) + 1
		switch {
		case errors.Is(err, errLineTooLong):
			return nil, fmt.Errorf("transcript %s: line %d is over the limit of a message, %d bytes: break it up", name, number, maxLine)
		case errors.Is(err, io.EOF) && len(lines) == 0:
			return nil, fmt.Errorf("transcript %s is empty: every line of it is to be one message", name)
		case errors.Is(err, io.EOF):
			return lines, nil
		case err != nil:
			return nil, fmt.Errorf("transcript %s: line %d: %w", name, number, err)
		case bytes.IndexByte(line, 0) >= 0 || !utf8.Valid(line):
			return nil, fmt.Errorf("transcript %s: line %d is not UTF-8 text: give a text file", name, number)
		}
		if total += len(line) + 1; total > maxTranscript {
			return nil, fmt.Errorf("transcript %s has more than %d MiB: give a part of it", name, maxTranscript>>20)
		}
		lines = append(lines, string(line))
	}
}

var errLineTooLong = errors.New("line over the limit")

// readLine returns the next line without its end. A last line needs none.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLine+len("\r\n") {
			return nil, errLineTooLong
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
		case err != nil:
			return nil, err
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > maxLine {
			return nil, errLineTooLong
		}
		return line, nil
	}
}
