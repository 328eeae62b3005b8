// Command list tries every attack and prints what became of it. Its exit status is 1
// where one is broken.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/conclave-chat/conclave/internal/attack"
)

func main() {
	seeds := flag.Int("seeds", 20, "how many worlds with random attackers")
	first := flag.Uint64("first", 1, "the first seed of theirs")
	details := flag.Bool("v", false, "say of each attack what it does, and which row or idea it is of")
	flag.Parse()
	sound, err := attack.Print(os.Stdout, append(attack.All(), attack.Random(*first, *seeds)...), *details)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !sound || err != nil {
		os.Exit(1)
	}
}
