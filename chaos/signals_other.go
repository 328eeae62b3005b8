//go:build !unix

package main

// freeze and thaw need signals that only Unix has.
func (p *process) freeze() error { return errNotRun{"a process cannot be frozen on this system"} }
func (p *process) thaw() error   { return p.freeze() }
