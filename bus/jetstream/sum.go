package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
)

// headerSum is the header of an entry with its payload's CRC-32C. Entries that
// were written before there was one have none.
const headerSum = "Conclave-Sum"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sumOf(payload []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(payload, castagnoli)) }

// checkSum returns bus.ErrDamaged for an entry that is not what was published.
func (b *Bus) checkSum(shard int, sequence uint64, header nats.Header, payload []byte) error {
	if sum := header.Get(headerSum); sum != "" && sum != sumOf(payload) {
		return fmt.Errorf("%w: stream %s, sequence %d: the payload is not what was published", bus.ErrDamaged, b.stream(shard), sequence)
	}
	return nil
}

// maxDeleted is how many deleted sequences one answer of the server may list.
const maxDeleted = 200_000

// checkLost returns bus.ErrDamaged where the server itself says that it lost
// something of a stream: it cuts a block off at the first entry that it cannot
// read. It says so only together with every sequence that it deleted. Not asked is
// a server in this process, whose files were looked at, and a stream with
// replicas, which gets what it lost from the others.
func (b *Bus) checkLost(ctx context.Context, shard, deleted int) error {
	if b.server != nil || b.replicated.Load() || deleted > maxDeleted {
		return nil
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+b.stream(shard), []byte(`{"deleted_details":true}`))
	if err != nil {
		return err
	}
	var info struct {
		State struct {
			Last uint64 `json:"last_seq"`
			Lost *struct {
				Sequences []uint64 `json:"msgs"`
				Bytes     uint64   `json:"bytes"`
			} `json:"lost"`
		} `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return fmt.Errorf("read stream %s: %w", b.stream(shard), err)
	}
	lost := info.State.Lost
	if lost == nil {
		return nil
	}
	first := info.State.Last + 1
	if len(lost.Sequences) > 0 {
		first = lost.Sequences[0]
	}
	return fmt.Errorf("%w: stream %s, sequence %d: the server has lost %d bytes from there on: put a backup in its place", bus.ErrDamaged, b.stream(shard), first, lost.Bytes)
}
