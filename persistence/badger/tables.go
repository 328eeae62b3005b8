package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/persistence"
)

// tables is what inspectTables saw in Badger's directory.
type tables struct {
	dir         string
	applied     uint64 // every stamp up to here is in the tables
	manifestEnd int64  // behind it lies a change that a crash cut short
	caches      []string
}

// inspectTables checks the manifest and every table that it names, and changes
// nothing. Badger's other files hold nothing that the journal does not, and are
// listed to be removed: its own write-ahead log, an empty value log, statistics
// and a key registry without keys.
func inspectTables(dir string) (*tables, error) {
	t := &tables{dir: dir}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	} else if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case strings.HasSuffix(name, ".mem"), strings.HasSuffix(name, ".vlog"),
			name == "DISCARD", name == "KEYREGISTRY", name == "LOCK":
			t.caches = append(t.caches, filepath.Join(dir, name))
		}
	}
	ids, err := t.readManifest()
	if err != nil {
		return nil, err
	}
	for id := range ids {
		path := table.NewFilename(id, dir)
		version, err := checkTable(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", persistence.ErrDamaged, path, err)
		}
		t.applied = max(t.applied, version)
	}
	return t, nil
}

func (t *tables) manifestPath() string { return filepath.Join(t.dir, "MANIFEST") }

// readManifest returns the tables that are in use. The manifest is a log of
// changes:
//
//	"Bdgr" | external version (2) | version (2)
//	length (4) | CRC-32C (4) | protobuf ManifestChangeSet, any number of times
//
// A last change that is not whole was cut short by a crash, or is damage: if
// tables are missing because of it, the journal does not cover the gap.
func (t *tables) readManifest() (map[uint64]bool, error) {
	data, err := os.ReadFile(t.manifestPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	damaged := func(what string) error {
		return fmt.Errorf("%w: %s: %s", persistence.ErrDamaged, t.manifestPath(), what)
	}
	const headLen = 8
	if len(data) < headLen || string(data[:6]) != "Bdgr\x00\x00" {
		return nil, damaged("no manifest")
	}
	if version := binary.BigEndian.Uint16(data[6:]); version != 8 {
		return nil, damaged(fmt.Sprintf("version %d", version))
	}
	ids := map[uint64]bool{}
	t.manifestEnd = headLen
	for rest := data[headLen:]; len(rest) >= 8; rest = data[t.manifestEnd:] {
		length := int64(binary.BigEndian.Uint32(rest))
		if int64(len(rest)) < 8+length {
			break
		}
		body := rest[8 : 8+length]
		if crc32.Checksum(body, y.CastagnoliCrcTable) != binary.BigEndian.Uint32(rest[4:]) {
			if int64(len(rest)) == 8+length {
				break
			}
			return nil, damaged(fmt.Sprintf("checksum of the change at offset %d", t.manifestEnd))
		}
		var set pb.ManifestChangeSet
		if err := proto.Unmarshal(body, &set); err != nil {
			return nil, damaged(err.Error())
		}
		for _, change := range set.Changes {
			switch change.Op {
			case pb.ManifestChange_CREATE:
				ids[change.Id] = true
			case pb.ManifestChange_DELETE:
				delete(ids, change.Id)
			}
		}
		t.manifestEnd += 8 + length
	}
	return ids, nil
}

// checkTable reads one table whole and returns the highest version in it. The
// footer is checked here, since Badger ends the process over a bad one; a panic
// over a bad block is an error here.
func checkTable(path string) (version uint64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if err := checkFooter(data); err != nil {
		return 0, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("table does not parse: %s", firstLine(p))
		}
	}()
	t, err := table.OpenInMemoryTable(data, 0, &table.Options{ChkMode: options.OnTableAndBlockRead, BlockSize: blockSize})
	if err != nil {
		return 0, err
	}
	return t.MaxVersion(), t.VerifyChecksum()
}

// checkFooter checks the index of a table, on which everything else is found:
//
//	blocks | index | index length (4) | protobuf Checksum | its length (4)
func checkFooter(data []byte) error {
	errFooter := errors.New("table footer is not what was written")
	end := len(data)
	take := func(n int) []byte {
		if n < 0 || n > end {
			return nil
		}
		end -= n
		return data[end : end+n]
	}
	takeLength := func() int {
		if b := take(4); b != nil {
			return int(binary.BigEndian.Uint32(b))
		}
		return -1
	}
	encoded := take(takeLength())
	index := take(takeLength())
	var sum pb.Checksum
	if len(encoded) == 0 || len(index) == 0 || proto.Unmarshal(encoded, &sum) != nil {
		return errFooter
	}
	if sum.Algo != pb.Checksum_CRC32C && sum.Algo != pb.Checksum_XXHash64 {
		return errFooter
	}
	return y.VerifyChecksum(index, &sum)
}

func firstLine(p any) string {
	line, _, _ := strings.Cut(strings.TrimSpace(fmt.Sprint(p)), "\n")
	return line
}

// accept removes what inspectTables found superfluous.
func (t *tables) accept() error {
	for _, path := range t.caches {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if t.manifestEnd == 0 {
		return nil
	}
	return os.Truncate(t.manifestPath(), t.manifestEnd)
}
