package sim

// A plant is a bug that a test puts into the world, to see that an invariant
// finds it.
type plant int

const (
	plantNone     plant = iota
	plantSkipSave       // sends what was not saved
	plantLazySave       // sends before the disk has it
	plantGap            // delivers past a gap, and vouches for it
)
