// Package attack is a list of attacks, each a small program. It names who attacks and
// from which of four places (a member, an admin, a stranger who may write to the log,
// the node), what it does, and what must hold all the same.
//
// They are played in the simulation's world, by real keys and clients of internal/forge
// that keep no rule; the world holds every invariant against them. random.go is attackers
// that a seed makes up.
//
// `make attack` prints the list with its verdicts.
package attack

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A Place is what the attacker may do before it breaks any rule.
type Place string

const (
	Member   Place = "member"   // has the group's keys, and the rights of a plain member
	Admin    Place = "admin"    // and those of an admin or super admin
	Stranger Place = "stranger" // may write to every topic that hosts write to
	Node     Place = "node"     // orders, delays and answers for the network
)

// An Attack is one way to do harm.
type Attack struct {
	Place Place
	Name  string
	Does  string // what the attacker does
	Holds string // what must hold all the same
	From  string // a row of docs/faults.md, a section of RFC 9420, a published idea
	// Open is the row of docs/faults.md that says that this is not up to it yet. Its
	// verdict is shown as such, and the attack must go on failing: once it holds, it is
	// no longer open.
	Open string
	Run  func() error
}

// All are the attacks, by place.
func All() []Attack {
	return slices.Concat(memberCommits, memberMessages, memberBurdens, adminAbuse, strangerWrites, strangerWelcomes, strangerJoins, nodeLies)
}

// A Verdict is what became of an attack.
type Verdict string

const (
	Held   Verdict = "held"
	Broken Verdict = "BROKEN"
	Open   Verdict = "open"
)

// Try carries an attack out.
func (a Attack) Try() (Verdict, error) {
	switch err := a.Run(); {
	case a.Open != "" && err != nil:
		return Open, err
	case a.Open != "":
		return Broken, fmt.Errorf("it is said to be open (%s) and holds: take that back", a.Open)
	case err != nil:
		return Broken, err
	}
	return Held, nil
}

// Print tries attacks and prints a line for each, and reports whether all hold.
func Print(w io.Writer, list []Attack, details bool) (sound bool, err error) {
	table := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "place\t| attack\t| what must hold\t| verdict")
	sound = true
	count := map[Verdict]int{}
	var notes []string
	for _, a := range list {
		verdict, why := a.Try()
		count[verdict]++
		sound = sound && verdict != Broken
		fmt.Fprintf(table, "%s\t| %s\t| %s\t| %s\n", a.Place, a.Name, a.Holds, verdict)
		if why != nil {
			notes = append(notes, fmt.Sprintf("%s: %s: %v", verdict, a.Name, why))
		}
		if details {
			notes = append(notes, fmt.Sprintf("%s: %s (%s)", a.Name, a.Does, a.From))
		}
	}
	if err := table.Flush(); err != nil {
		return false, err
	}
	notes = append(notes, fmt.Sprintf("%d attacks: %d held, %d open, %d broken", len(list), count[Held], count[Open], count[Broken]))
	_, err = fmt.Fprintln(w, "\n"+strings.Join(notes, "\n"))
	return sound, err
}
