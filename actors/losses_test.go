package actors

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// An operator accepts that the log has lost an entry while the host is closed. Who sent
// it finds that out when it opens, however much came after, and sends it again; who had
// not read it has it then.
func TestLossWhileClosed(t *testing.T) {
	for name, test := range map[string]struct {
		lost func(w *world, by InstallationID, id GroupID) // sends what is lost
		want []string
	}{
		"a message": {func(w *world, by InstallationID, id GroupID) { w.say(by, id, "lost") }, []string{"lost"}},
		"a commit":  {func(w *world, by InstallationID, id GroupID) { w.commit(by, id, "Quay") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := w.people(2)
				id := w.group(p[0], p[1])
				w.say(p[0], id, "before")
				w.say(p[1], id, "here")
				w.sync(p[0], id)
				w.sync(p[1], id)
				w.ok(w.sys.Sleep(w.ctx, p[1]))
				commits, messages := topicsOf(id)
				had, err := w.log.Last(w.ctx, commits, messages)
				w.ok(err)
				test.lost(w, p[0], id)
				lost, err := w.log.Read(w.ctx, slices.Max(had), 1, commits, messages)
				w.ok(err)
				want := append([]string{"before", "here"}, test.want...)
				for n := range 40 {
					text := fmt.Sprint("after ", n)
					w.say(p[0], id, text)
					want = append(want, text)
				}
				w.close()
				w.log.Lose(lost[0].ID)
				w.open()
				elapse(time.Minute)
				for range 3 { // the loser's round, then those of whoever it sent to
					w.sync(p[0], id)
					w.sync(p[1], id)
				}
				w.agree(id, p[0], p[1])
				slices.Sort(want)
				for _, in := range p {
					if got := slices.Sorted(slices.Values(w.texts(in, id))); !slices.Equal(got, want) {
						t.Errorf("stored are %q, want %q", got, want)
					}
				}
				if told, err := toldLosses(w.ctx, w.sys.installations[p[0]]); err != nil || told != 1 {
					t.Errorf("told of %d losses, %v", told, err)
				}
				rows := len(w.published(id))
				w.restart()
				elapse(time.Minute)
				if again := len(w.published(id)); again != rows {
					t.Errorf("%d envelopes more after one more start", again-rows)
				}
			})
		})
	}
}
