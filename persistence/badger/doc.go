// Package badger is the store port over Badger, for one directory that many
// installations share.
//
// # Files
//
//	LOCK              held while the store is open
//	MARK              how far the journal is durable (Config.MarkFile)
//	journal/*.log     every batch, in order, each record chained to the one before by a hash
//	tables/           Badger: MANIFEST and *.sst
//
// The journal comes first: a group of batches is one record, written before
// Badger sees it and synced for the batches that are Durable. Badger runs with
// our stamps for its versions (its managed mode) and without syncing, as an
// index. Its sorted tables are durable once they are in its manifest, and since
// memtables are flushed in order, the highest version in them says which
// records they hold: all up to that one. On opening, the rest is replayed from
// the journal. Badger's own write-ahead log is not read, but deleted; its value
// log stays empty, since large values are stored in pieces.
//
// # What is detected
//
// Open reads journal, manifest and every table, checks them, and only then
// changes anything. After an error the files are byte for byte as they were.
//
//   - A flipped bit in a table or the manifest, or a missing one: ErrDamaged,
//     or no row is touched by it.
//   - A flipped bit in the journal, a journal that is cut or misses a file:
//     ErrDamaged as far as the mark reaches; a journal that ends at a record's
//     end before its mark, as one put back from a copy does: ErrRolledBack.
//   - An older copy of tables/ beside a newer journal: replayed where the
//     journal still has what is missing, else ErrDamaged.
//   - An older copy of the whole directory: ErrRolledBack if the mark lies
//     elsewhere (Config.MarkFile) or a Config.Witness keeps the counter.
//   - A file of another store: ErrDamaged.
//
// Where the operator accepts an older store, Open writes the time of that into the
// mark, in the same write that accepts the state. Store.PutBack returns that time from
// then on, also after later starts.
//
// The mark is written before each Durable batch is acknowledged, and made
// durable itself once the store has been idle for 50 ms, once a second under
// load, and by Close. So it is exact after a process was killed.
//
// # What is not
//
//   - After a power cut: damage to the journal within the last second before
//     it, which looks like a tail that was never written. Undamaged, everything
//     acknowledged is there.
//   - Lazy batches within the last second before a crash may be lost, as the
//     contract says, and so may they by a flipped bit.
//   - Damage that comes while the store is open. Sealed records notice it when
//     they are read.
//   - A hostile change. Hashes here are against accidents; what must stay secret
//     or authentic is sealed by package persistence.
package badger
