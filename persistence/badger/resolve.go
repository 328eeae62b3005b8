package badger

import (
	"errors"
	"fmt"
	"slices"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/conclave-chat/conclave/persistence"
)

// resolve collects the group's changes in c.ops, with every PutAbsent decided,
// and returns the requests that take part, and those that no longer fit. The
// others have been answered.
func (c *committer) resolve(group []*request) (taken, rest []*request) {
	c.ops = c.ops[:0]
	clear(c.seen)
	conditional := slices.ContainsFunc(group, (*request).conditional)
	taken = group[:0]
	total := 0
	for i, r := range group {
		start := len(c.ops)
		size, err := c.resolveOne(r, conditional)
		if err != nil {
			c.drop(start)
			r.result <- err
			continue
		}
		taken = append(taken, r)
		if total += size; total >= groupBytes {
			return taken, group[i+1:]
		}
	}
	return taken, nil
}

func (r *request) conditional() bool {
	return slices.ContainsFunc(r.ops, func(op persistence.Op) bool { return op.Kind == persistence.PutAbsent })
}

// resolveOne adds a request's changes to c.ops. Where the group is conditional
// it also keeps c.seen, which later requests of the group decide by.
func (c *committer) resolveOne(r *request, conditional bool) (size int, err error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	for _, op := range r.ops {
		if op.Kind == persistence.PutAbsent {
			there, err := c.there(op.Key)
			if err != nil {
				return 0, err
			}
			if there {
				continue
			}
			if op.Value, err = op.MakeValue(); err != nil {
				return 0, err
			}
		}
		if size += len(op.Key) + len(op.Value); size > persistence.MaxBatch {
			return 0, fmt.Errorf("%w: batch exceeds %d bytes", persistence.ErrLimit, persistence.MaxBatch)
		}
		c.ops = append(c.ops, op)
		if conditional {
			c.seen[string(op.Key)] = op.Kind != persistence.Delete
		}
	}
	return size, nil
}

// drop takes the changes of a request that failed out of the group.
func (c *committer) drop(start int) {
	clear(c.ops[start:])
	c.ops = c.ops[:start]
	clear(c.seen)
	for _, op := range c.ops {
		c.seen[string(op.Key)] = op.Kind != persistence.Delete
	}
}

// there says whether a key is in the store after the group's changes so far.
func (c *committer) there(key []byte) (bool, error) {
	if there, ok := c.seen[string(key)]; ok {
		return there, nil
	}
	if c.recent.has(key) {
		return true, nil
	}
	txn := c.db.NewTransactionAt(c.log.Last(), false)
	defer txn.Discard()
	switch _, err := txn.Get(rowKey(key)); {
	case errors.Is(err, badgerdb.ErrKeyNotFound):
		return false, nil
	case err != nil:
		return false, damaged(err)
	}
	c.recent.add(key)
	return true, nil
}

// recent remembers some keys that are in the store, of those that PutAbsent
// asked for: the members of a group put the same row within moments. It holds
// two generations of keys; a full one replaces the older.
type recent struct {
	young, old map[string]struct{}
}

const recentKeys = 4096

func (r *recent) has(key []byte) bool {
	if _, ok := r.young[string(key)]; ok {
		return true
	}
	_, ok := r.old[string(key)]
	return ok
}

func (r *recent) add(key []byte) {
	if r.young == nil || len(r.young) >= recentKeys {
		r.young, r.old = map[string]struct{}{}, r.young
	}
	r.young[string(key)] = struct{}{}
}

// follow takes over what a group did.
func (r *recent) follow(ops []persistence.Op) {
	for i := range ops {
		switch ops[i].Kind {
		case persistence.PutAbsent:
			r.add(ops[i].Key)
		case persistence.Delete:
			delete(r.young, string(ops[i].Key))
			delete(r.old, string(ops[i].Key))
		}
	}
}
