package identity

// SeenCount returns how many signatures the state remembers.
func (s *State) SeenCount() int { return len(s.seen) }

// Seen reports whether the state remembers a signature of this canonical form.
func (s *State) Seen(canonical []byte) bool {
	key := newReplayKey(canonical)
	for _, k := range s.seen {
		if k == key {
			return true
		}
	}
	return false
}
