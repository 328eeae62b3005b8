// Package files reads what the embedded NATS server keeps on disk, while that
// does not run. The server cuts a block off at the first record that is not as
// it was written, or passes over the record, and tells nobody. So every record
// is looked at before the server opens the log.
package files

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
	"golang.org/x/sync/errgroup"
)

// A Stream is what the files of one say.
type Stream struct {
	Name    string  `json:"stream"`
	Entries int     `json:"entries"`
	First   uint64  `json:"first"`
	Last    uint64  `json:"last"`
	Missing uint64  `json:"missing"` // sequences between first and last that have no entry: expired, or lost
	Faults  []Fault `json:"faults"`

	dir    string
	blocks []block
}

// A Fault is one thing that is not as it was written.
type Fault struct {
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"` // of the first entry that it may concern; 0 where it concerns all
	File     string `json:"file"`
	At       int64  `json:"at"`
	What     string `json:"what"`
}

func (f Fault) Error() string {
	at := "stream " + f.Stream
	if f.Sequence > 0 {
		at += ", sequence " + strconv.FormatUint(f.Sequence, 10)
	}
	return fmt.Sprintf("%s: %s (%s, byte %d)", at, f.What, f.File, f.At)
}

// A block is what one file says.
type block struct {
	number      int
	name        string
	entries     int
	first, last uint64
	bad         []span // what holds no record
	torn        int    // where a record begins whose writing was cut short; 0 where none does
	faults      []Fault
}

type span struct{ from, to int }

// Where the server keeps things below its folder.
const (
	streamsGlob = "jetstream/*/streams/*"
	metaFile    = "meta.inf"
	sumFile     = "meta.sum"
	blockSuffix = ".blk"
)

// Check reads the streams below the server's folder. clean says that the server
// was stopped: then no block may end in the middle of a record.
func Check(ctx context.Context, root string, clean bool) ([]Stream, error) {
	dirs, err := filepath.Glob(filepath.Join(root, streamsGlob))
	if err != nil {
		return nil, err
	}
	slices.Sort(dirs)
	var streams []Stream
	for _, dir := range dirs {
		s, err := checkStream(ctx, dir, clean)
		if err != nil {
			return nil, err
		}
		streams = append(streams, s)
	}
	return streams, nil
}

func checkStream(ctx context.Context, dir string, clean bool) (Stream, error) {
	s := Stream{Name: filepath.Base(dir), dir: dir, Faults: []Fault{}}
	if fault := checkMeta(dir); fault != "" {
		s.Faults = append(s.Faults, Fault{Stream: s.Name, File: filepath.Join(s.Name, metaFile), What: fault})
	}
	found, err := os.ReadDir(filepath.Join(dir, "msgs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	for _, f := range found {
		number, isBlock := strings.CutSuffix(f.Name(), blockSuffix)
		if n, err := strconv.Atoi(number); isBlock && err == nil {
			s.blocks = append(s.blocks, block{number: n, name: f.Name()})
		}
	}
	slices.SortFunc(s.blocks, func(a, b block) int { return cmp.Compare(a.number, b.number) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range s.blocks {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return s.blocks[i].read(s.Name, dir, !clean && i == len(s.blocks)-1)
		})
	}
	if err := g.Wait(); err != nil {
		return s, err
	}
	s.add()
	return s, nil
}

// add sums up what the blocks say.
func (s *Stream) add() {
	for _, b := range s.blocks {
		s.Faults = append(s.Faults, b.faults...)
		s.Entries += b.entries
		s.Last = max(s.Last, b.last)
		if s.First == 0 && b.entries > 0 {
			s.First = b.first
		}
	}
	if s.Entries > 0 {
		s.Missing = s.Last - s.First + 1 - uint64(s.Entries)
	}
}

// checkMeta says what is wrong with a stream's own description.
func checkMeta(dir string) string {
	meta, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		return "the stream's description is gone: " + reason(err)
	}
	sum, err := os.ReadFile(filepath.Join(dir, sumFile))
	if err != nil {
		return "the sum of the stream's description is gone: " + reason(err)
	}
	if !bytes.Equal(sum, metaSum(filepath.Base(dir), meta)) {
		return "the stream's description is not as it was written"
	}
	return ""
}

func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// metaSum is the sum that the server keeps beside a description.
func metaSum(stream string, meta []byte) []byte {
	key := sha256.Sum256([]byte(stream))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	h.Write(meta)
	return []byte(hex.EncodeToString(h.Sum(nil)))
}

// read looks at every record of the block. mayEnd says that the process may have
// died while it wrote the last one, which nobody was told of then.
func (b *block) read(stream, dir string, mayEnd bool) error {
	data, err := os.ReadFile(filepath.Join(dir, "msgs", b.name))
	if err != nil {
		return err
	}
	if bytes.HasPrefix(data, []byte("cmp")) {
		return nil // a compressed block, which no stream of ours has; the server checks it
	}
	h := hashOf(stream, b.number)
	for at := 0; at < len(data); {
		r, announced, ok := parse(h, data[at:])
		if ok {
			if !r.gone && r.sequence > b.last {
				if b.entries++; b.first == 0 {
					b.first = r.sequence
				}
				b.last = r.sequence
			} else if r.gone {
				b.last = max(b.last, r.sequence)
			}
			at += r.size
			continue
		}
		next := resume(h, data, at, announced)
		if mayEnd && next == len(data) && torn(h, data[at:], announced) {
			b.torn = at
			return nil
		}
		b.bad = append(b.bad, span{at, next})
		b.faults = append(b.faults, Fault{
			Stream: stream, Sequence: b.last + 1,
			File: filepath.Join(stream, "msgs", b.name), At: int64(at),
			What: "what is stored is not what was written",
		})
		at = next
	}
	return nil
}

// CutTorn ends the streams' blocks before what was not written to its end, as the
// server itself would, which takes it for a loss.
func CutTorn(streams []Stream) error {
	for _, s := range streams {
		for _, b := range s.blocks {
			if b.torn == 0 {
				continue
			}
			if err := os.Truncate(filepath.Join(s.dir, "msgs", b.name), int64(b.torn)); err != nil {
				return err
			}
		}
	}
	return nil
}

// resume finds where records go on behind a bad one: behind its own length, or at
// the next place that holds a whole record; the end where there is none.
func resume(h *highwayhash.Digest64, data []byte, at, announced int) int {
	if next := at + announced; announced > 0 && next <= len(data) {
		if _, _, ok := parse(h, data[next:]); ok || next == len(data) {
			return next
		}
	}
	for next := at + 1; next+headBytes+hashBytes <= len(data); next++ {
		if _, _, ok := parse(h, data[next:]); ok {
			return next
		}
	}
	return len(data)
}

// torn says whether the end of a block is a record whose writing was cut short:
// it ends before its own length, or in bytes that never came to the disk. One
// that is whole under another length was not cut short.
func torn(h *highwayhash.Digest64, rest []byte, announced int) bool {
	if len(rest) >= headBytes+hashBytes {
		for _, headers := range []bool{false, true} {
			if check(h, rest, headers) {
				return false
			}
		}
	}
	never := make([]byte, hashBytes)
	return len(rest) < headBytes || announced > len(rest) || bytes.HasSuffix(rest, never) ||
		binary.LittleEndian.Uint32(rest) == 0
}
