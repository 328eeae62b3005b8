package conclave

// A Kind is a row of the table of errors.
type Kind struct {
	Err          error
	Also         []error
	Code, Advice string
	Retryable    bool
}

// Kinds are all of them, in the order in which they are tried.
func Kinds() (all []Kind) {
	for _, k := range kinds {
		all = append(all, Kind{k.err, k.also, k.code, k.advice, k.retryable})
	}
	return all
}

// Failing is what a method does to its error.
func Failing(op string, err error) error {
	failing(op, &err)
	return err
}

// Layers are the names that errors do not show.
func Layers() []string { return layers }
