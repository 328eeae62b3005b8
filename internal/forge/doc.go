// Package forge is what a client can do that keeps no rule: with the true state and
// keys of a member it makes commits, messages and welcomes whose syntax is valid and
// whose content is whatever its owner likes. Tests, internal/sim and internal/attack
// publish them and see that nobody is harmed.
//
// An Insider is a member whose client this is. It reads its own stored rows, derives
// what RFC 9420 derives from them, and shares none of that code with package mls:
// what both get wrong alike would be missed otherwise.
package forge
