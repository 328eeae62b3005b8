package benchmarks

import "time"

// A Report is what one benchmark found: the object that --json prints.
type Report struct {
	Name     string   `json:"name"`
	Machine  string   `json:"machine"`
	Commit   string   `json:"commit"`
	Seed     uint64   `json:"seed"`
	Lost     int      `json:"lost"`
	Repeated int      `json:"repeated"`
	Figures  []Figure `json:"figures"`

	Fanout *FanoutFacts `json:"fanout,omitempty"`
	*IdleFacts
}

// FanoutFacts say how far a fan-out's figure reaches.
type FanoutFacts struct {
	Deliveries int    `json:"deliveries"`
	Streamed   int    `json:"streamed"` // values that handlers got, each its own
	Checksum   string `json:"checksum"` // SHA-256 over what a handler got, ids and texts in order
	Agreeing   int    `json:"agreeing"` // handlers with that checksum
	Disordered int    `json:"disordered"`
	Verified   string `json:"verified"` // how the stores were read
}

// IdleFacts are what an idle installation holds.
type IdleFacts struct {
	BytesPerInstallation int64 `json:"bytes_per_installation"`
	Descriptors          int   `json:"descriptors"`
	Goroutines           int   `json:"goroutines"`
}

// A Figure is a value beside the least that it could be. Ratio is how many times
// the floor's cost was paid: value/floor of a time or size, floor/value of a
// rate. It is 0 where there is no floor.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Floor float64 `json:"floor"`
	Ratio float64 `json:"ratio"`
}

func newReport(name string, seed uint64) *Report {
	return &Report{Name: name, Machine: Machine(), Commit: Revision(), Seed: seed}
}

// duration adds a time, in seconds.
func (r *Report) duration(name string, d, floor time.Duration) {
	r.cost(name, "s", d.Seconds(), floor.Seconds())
}

// cost adds what is better when it is smaller.
func (r *Report) cost(name, unit string, value, floor float64) {
	f := Figure{Name: name, Value: value, Unit: unit, Floor: floor}
	if floor > 0 {
		f.Ratio = value / floor
	}
	r.Figures = append(r.Figures, f)
}

// rate adds what is better when it is larger, per second.
func (r *Report) rate(name string, value, floor float64) {
	f := Figure{Name: name, Value: value, Unit: "1/s", Floor: floor}
	if value > 0 {
		f.Ratio = floor / value
	}
	r.Figures = append(r.Figures, f)
}

// add takes the floors' own figures over, each its own floor: what the machine
// does, beside what was made of it.
func (r *Report) add(figures []Figure) { r.Figures = append(r.Figures, figures...) }

// OK says that nothing was lost, repeated or out of order.
func (r *Report) OK() bool {
	return r.Lost == 0 && r.Repeated == 0 && (r.Fanout == nil || r.Fanout.Disordered == 0)
}
