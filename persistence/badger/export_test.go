package badger

// SmallSegments makes the journal start a new file after so many bytes.
func SmallSegments(c Config, bytes int64) Config {
	c.segment = bytes
	return c
}

// WithDisk replaces the question of how much space is left.
func WithDisk(c Config, free func() int64) Config {
	c.freeSpace = func(string) (int64, error) { return free(), nil }
	return c
}

// BreakDisk makes every later write and sync of the journal fail.
func BreakDisk(s *Store) error { return s.committer.log.Abandon() }
