package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/chaos/audit"
)

// flipStore: one thing is wrong in a store, and everything else is right.
var flipStore = scenario{
	name:  "flip-store",
	does:  "one bit flipped, or one file cut or gone, in a copy of a host's store, again and again",
	holds: "every row as it was, or a named error",
	world: worldSpec{hosts: 2, people: 6, groups: 2},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		if err := w.some(ctx); err != nil {
			return err
		}
		if err := w.down(ctx); err != nil {
			return err
		}
		if err := w.log.start(ctx); err != nil {
			return err
		}
		right, err := w.look(ctx, 0)
		if err != nil {
			return err
		}
		if right.Error != "" {
			return errors.New(right.Error)
		}
		spec := w.hostSpec(0)
		spec.Dir = filepath.Join(w.dir, "damaged")
		return w.times(6, 30, full, func(i int) error {
			if err := copyDir(w.hostDir(0), spec.Dir); err != nil {
				return err
			}
			what, err := damage(w.random, spec.Dir, i)
			if err != nil {
				return err
			}
			w.struck()
			if err := writeJSON(w.specFile(0), spec); err != nil {
				return err
			}
			s, err := lookAt(ctx, w.tools, w.specFile(0))
			switch {
			case err != nil:
				w.see(audit.Silent, "%s: the host crashed: %.300v", what, err)
			case s.Error != "" && s.Named == "":
				w.see(audit.Silent, "%s: an error without a name: %s", what, s.Error)
			case s.Error == "" && !reflect.DeepEqual(s.Views, right.Views):
				w.see(audit.Silent, "%s: opened without an error, and the rows are others", what)
			}
			return nil
		})
	},
}

// damage does one thing to one file of a folder, and tells which. Most often it
// is a bit.
func damage(random *rand.Rand, dir string, n int) (what string, err error) {
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "LOCK") {
			return err
		}
		if end, err := contentEnd(path); err != nil || end > 0 {
			files = append(files, path)
			return err
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("nothing to damage in %s", dir)
	}
	slices.Sort(files)
	path := files[random.IntN(len(files))]
	rel, _ := filepath.Rel(dir, path)
	end, err := contentEnd(path)
	if err != nil {
		return "", err
	}
	at := random.Int64N(end)
	switch n % 6 {
	case 4:
		return fmt.Sprintf("%s cut at %d of %d", rel, at, end), os.Truncate(path, at)
	case 5:
		return rel + " gone", os.Remove(path)
	}
	bit := random.IntN(8)
	return fmt.Sprintf("bit %d of byte %d of %d of %s flipped", bit, at, end, rel), flip(path, at, bit)
}

func flip(path string, at int64, bit int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, at); err == nil {
		b[0] ^= 1 << bit
		_, err = f.WriteAt(b, at)
	}
	return errors.Join(err, f.Close())
}

// contentEnd is where a file's last byte lies that is not zero: what follows was
// only set aside.
func contentEnd(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	end := len(b)
	for end > 0 && b[end-1] == 0 {
		end--
	}
	return int64(end), nil
}

// flipLog: so with the log, which a host that was away then reads.
var flipLog = scenario{
	name:  "flip-log",
	does:  "one bit flipped, or one file cut or gone, in a copy of the log, which a host reads that was away",
	holds: "everything as it was, or an error that names the damage, of serve or of the host",
	world: worldSpec{hosts: 2, people: 6, groups: 2},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		s := w.log.(*serve)
		if err := w.some(ctx); err != nil {
			return err
		}
		if err := w.down(ctx); err != nil {
			return err
		}
		// Host 1 stays away while host 0 sends.
		if err := s.start(ctx); err != nil {
			return err
		}
		if err := w.openHost(ctx, 0); err != nil {
			return err
		}
		if err := w.ask(ctx, request{Do: doBurst, Load: loadSpec{Seed: w.random.Uint64(), Sends: 80, Changes: 4}}); err != nil {
			return err
		}
		if err := w.ask(ctx, request{Do: doQuiesce, Limit: quiesceTime}); err != nil {
			return err
		}
		if err := errors.Join(w.closeHosts(ctx), s.stop()); err != nil {
			return err
		}
		right, says, err := w.reader(ctx, s.dir())
		if err != nil || says != "" || right.Error != "" {
			return errors.Join(err, fmt.Errorf("without damage: %s%s", says, right.Error))
		}
		return w.times(6, 30, full, func(i int) error {
			damaged := filepath.Join(w.dir, "damaged-log")
			if err := copyDir(s.dir(), damaged); err != nil {
				return err
			}
			what, err := damage(w.random, damaged, i)
			if err != nil {
				return err
			}
			w.struck()
			got, says, err := w.reader(ctx, damaged)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", what, err)
			case namesDamage(says + got.Error):
			case says+got.Error != "":
				w.see(audit.Silent, "%s: an error that does not name it: %.300s", what, says+got.Error)
			case !reflect.DeepEqual(got.Views, right.Views):
				w.see(audit.Silent, "%s: no error, and the host that was away has something else", what)
			}
			return nil
		})
	},
}

// namesDamage: what serve or a host says of a log that is not what was written.
func namesDamage(says string) bool {
	return slices.ContainsFunc([]error{conclave.ErrDamaged, bus.ErrDamaged, conclave.ErrLogRolledBack}, func(damage error) bool {
		_, words, _ := strings.Cut(damage.Error(), ": ") // what is said has no package's name
		return strings.Contains(says, words)
	})
}

// reader opens a copy of the host that was away on a log in some folder, brings
// it to its end, and shows what it has; or what was said on the way, by serve or
// by the host.
func (w *world) reader(ctx context.Context, log string) (s sight, says string, err error) {
	sub := &world{dir: filepath.Join(w.dir, "reader"), tools: w.tools, people: w.people, plans: w.plans, lives: []int{0, w.lives[1]}, spec: w.spec}
	sub.hosts, sub.rolled = make([]*hostProcess, 2), make([]bool, 2)
	if err := os.RemoveAll(sub.dir); err != nil {
		return s, "", err
	}
	if err := copyDir(w.hostDir(1), sub.hostDir(1)); err != nil {
		return s, "", err
	}
	if err := copyFile(w.ledgerOf(1), sub.ledgerOf(1)); err != nil {
		return s, "", err
	}
	address, err := freePort()
	if err != nil {
		return s, "", err
	}
	on := &serve{w: sub, address: address, at: log}
	sub.log = on
	defer func() { err = errors.Join(err, sub.end()) }()
	if err := on.start(ctx); err != nil {
		heard, readErr := os.ReadFile(filepath.Join(sub.dir, "serve.log"))
		return s, fmt.Sprintf("serve: %s", heard), readErr
	}
	if err := sub.openHost(ctx, 1); err != nil {
		return s, err.Error(), nil
	}
	a, err := sub.hosts[1].ask(ctx, request{Do: doQuiesce, Limit: readerTime, Plans: w.plans})
	if err != nil || len(a.Problems) > 0 {
		return s, fmt.Sprint(err, a.Problems), nil
	}
	if err := sub.closeHosts(ctx); err != nil {
		return s, err.Error(), nil
	}
	s, err = sub.look(ctx, 1)
	return s, "", err
}

// readerTime is how long a host may take to read some dozens of messages, or to
// say why it cannot.
const readerTime = quiesceTime / 3
