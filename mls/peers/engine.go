package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// A member of a group, whichever engine plays it. Messages are MLSMessages.
type member interface {
	keyPackage() ([]byte, error)
	create(groupID []byte) (state, error)
	psk(id, key []byte) error
	propose(change) ([]byte, error)
	// commit makes a commit of these changes and of all proposals received.
	commit(...change) (commit, welcome []byte, err error)
	// merge enters the epoch of the own commit.
	merge() (state, error)
	seal(data []byte) ([]byte, error)
	open(message []byte) (opened, error)
	join(welcome []byte) (state, error)
	info() ([]byte, error)
	// external joins by an external commit; a member with the same key is removed.
	external(info []byte) ([]byte, state, error)
	// forget ends the member.
	forget() error
}

// The engines. Each plays a third of the members.
const (
	ours    = "conclave"
	openMLS = "openmls"
	mlsRS   = "mls-rs"
)

var engines = []string{ours, openMLS, mlsRS}

// A change is a part of a commit, or a proposal: add:KEYPACKAGE, remove:LEAF,
// update:, psk:ID, context:DATA or path:, with bytes in hexadecimal. Update is only
// proposed; path, that a commit has one whether it needs it or not, only committed.
type change string

func changeOf(kind string, value []byte) change {
	return change(kind + ":" + hex.EncodeToString(value))
}

func removal(leaf int) change { return change("remove:" + strconv.Itoa(leaf)) }

func (c change) kind() string { kind, _, _ := strings.Cut(string(c), ":"); return kind }

// A state is what members of an epoch have in common, as one line: epoch, epoch
// authenticator, tree hash, exported secret, members.
type state string

var stateFields = []string{"epoch", "epoch authenticator", "tree hash", "exported secret", "members"}

// differences names the fields in which two states differ.
func (s state) differences(t state) (names []string) {
	a, b := strings.Split(string(s), " "), strings.Split(string(t), " ")
	if len(a) != len(stateFields) || len(b) != len(stateFields) {
		return []string{"form"}
	}
	for i, name := range stateFields {
		if a[i] != b[i] {
			names = append(names, name)
		}
	}
	return names
}

// leaves returns the leaf of each member by its name.
func (s state) leaves() map[string]int {
	leaves := map[string]int{}
	fields := strings.Split(string(s), " ")
	for m := range strings.SplitSeq(fields[len(fields)-1], ",") {
		if parts := strings.Split(m, ":"); len(parts) == 3 {
			leaf, _ := strconv.Atoi(parts[0])
			name, _ := hex.DecodeString(parts[1])
			leaves[string(name)] = leaf
		}
	}
	return leaves
}

// What a message held.
type opened struct {
	kind   string // application, proposal, commit or removed
	sender string // a leaf, of an application message
	data   []byte
	state  state // after a commit
}

// A stage is the process in which OpenMLS and mls-rs play their members.
type stage struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// An engineError is what an engine answered instead of a result.
type engineError string

func (e engineError) Error() string { return string(e) }

func openStage(program string) (*stage, error) {
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &stage{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

func (s *stage) close() error {
	return errors.Join(s.in.Close(), s.cmd.Wait())
}

// ask sends one request and returns the words of its answer.
func (s *stage) ask(words ...string) ([]string, error) {
	if _, err := fmt.Fprintln(s.in, strings.Join(words, " ")); err != nil {
		return nil, fmt.Errorf("ask the engines: %w", err)
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("hear the engines: %w", err)
	}
	verdict, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if verdict != "ok" {
		return nil, engineError(rest)
	}
	return strings.Split(rest, " "), nil
}

// peer is a member that an engine of the stage plays.
type peer struct {
	*stage
	name string
}

func (s *stage) newPeer(name, engine string, suite int, private bool) (*peer, error) {
	framing := "public"
	if private {
		framing = "private"
	}
	_, err := s.ask("new", name, engine, strconv.Itoa(suite), framing)
	return &peer{s, name}, err
}

// words asks this peer.
func (p *peer) words(verb string, args ...string) ([]string, error) {
	return p.ask(append([]string{verb, p.name}, args...)...)
}

func (p *peer) bytes(verb string, args ...string) ([]byte, error) {
	words, err := p.words(verb, args...)
	if err != nil {
		return nil, err
	}
	return hex.DecodeString(words[0])
}

func (p *peer) state(verb string, args ...string) (state, error) {
	words, err := p.words(verb, args...)
	return state(strings.Join(words, " ")), err
}

func (p *peer) keyPackage() ([]byte, error) { return p.bytes("keypackage") }

func (p *peer) create(groupID []byte) (state, error) {
	return p.state("create", hex.EncodeToString(groupID))
}

func (p *peer) psk(id, key []byte) error {
	_, err := p.words("psk", hex.EncodeToString(id), hex.EncodeToString(key))
	return err
}

func (p *peer) propose(c change) ([]byte, error) { return p.bytes("propose", string(c)) }

func (p *peer) commit(changes ...change) (commit, welcome []byte, err error) {
	args := make([]string, len(changes))
	for i, c := range changes {
		args[i] = string(c)
	}
	words, err := p.words("commit", args...)
	if err != nil {
		return nil, nil, err
	}
	if commit, err = hex.DecodeString(words[0]); err == nil && words[1] != "-" {
		welcome, err = hex.DecodeString(words[1])
	}
	return commit, welcome, err
}

func (p *peer) merge() (state, error) { return p.state("merge") }

func (p *peer) seal(data []byte) ([]byte, error) { return p.bytes("seal", hex.EncodeToString(data)) }

func (p *peer) open(message []byte) (opened, error) { return p.opened("open", message) }

// opened asks for what a message holds.
func (p *peer) opened(verb string, message []byte) (opened, error) {
	words, err := p.words(verb, hex.EncodeToString(message))
	if err != nil {
		return opened{}, err
	}
	o := opened{kind: words[0]}
	switch o.kind {
	case "application":
		o.sender = words[1]
		o.data, err = hex.DecodeString(words[2])
	case "commit":
		o.state = state(strings.Join(words[1:], " "))
	}
	return o, err
}

func (p *peer) join(welcome []byte) (state, error) {
	return p.state("join", hex.EncodeToString(welcome))
}

func (p *peer) info() ([]byte, error) { return p.bytes("info") }

func (p *peer) external(info []byte) ([]byte, state, error) {
	words, err := p.words("external", hex.EncodeToString(info))
	if err != nil {
		return nil, "", err
	}
	commit, err := hex.DecodeString(words[0])
	return commit, state(strings.Join(words[1:], " ")), err
}

func (p *peer) forget() error {
	_, err := p.words("forget")
	return err
}
