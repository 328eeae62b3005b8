package group

// Outstanding returns the numbers of the intents that have no outcome yet, in
// the order of the wishes.
func (r *Replica) Outstanding() []uint64 {
	var ids []uint64
	for _, it := range r.intents {
		if it.state != stateFailed {
			ids = append(ids, it.id)
		}
	}
	return ids
}
