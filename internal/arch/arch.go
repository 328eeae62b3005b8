// Package arch holds one test: the house's floors, doors and pure rooms, read
// from the source. ARCHITECTURE.md draws what this package enforces.
package arch
