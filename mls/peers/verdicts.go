package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/conclave-chat/conclave/mls"
)

// The verdicts of the three engines on forged messages. See mls/forge.go for how
// they are made: with real keys, and right but for one rule.

// A judged case is one forgery, with what each engine said in each suite.
type judged struct {
	family, name, rule string
	suites             []int
	verdicts           []verdicts // of each suite
}

// verdicts are what the engines say, in the order of engines.
type verdicts [3]string

// What can become of a forgery. In forks the engine enters another epoch than the
// forger, and so than everybody who takes it as it was meant.
const (
	taken   = "taken"
	refused = "refused"
	forks   = "FORKS"
	panics  = "PANICS"
)

// court is a group in which each engine has one judge.
type court struct {
	stage    *stage
	suite    int
	rand     *rand.ChaCha8
	forger   *own
	second   *own
	judges   [3]judge
	joiners  [3]judge
	outside  [3]judge
	victim   int
	offers   []*mls.KeyPackage
	rules    map[string]string // by the text of their errors
	everyone []judge
}

func newCourt(s *stage, suite int) (*court, error) {
	c := &court{stage: s, suite: suite, rand: rand.NewChaCha8([32]byte{byte(suite)})}
	var err error
	if c.rules, err = readRules(); err != nil {
		return nil, err
	}
	// The leaves: the forger, its second, two judges, the third, and the victim. No
	// judge is the forger's neighbour, whose path secret some forgeries spoil.
	cast := []struct {
		name, engine string
	}{{"forger", ours}, {"second", ours}, {"judge-openmls", openMLS}, {"judge-mls-rs", mlsRS}, {"judge", ours}, {"victim", ours}}
	for _, who := range cast {
		m, err := c.begin(who.name, who.engine)
		if err != nil {
			return nil, err
		}
		c.everyone = append(c.everyone, m)
	}
	c.forger, c.second, c.victim = c.everyone[0].(*own), c.everyone[1].(*own), 5
	c.judges = [3]judge{c.everyone[4], c.everyone[2], c.everyone[3]}
	for i, e := range engines {
		if c.joiners[i], err = c.begin("joiner-"+e, e); err != nil {
			return nil, err
		}
		if c.outside[i], err = c.begin("outsider-"+e, e); err != nil {
			return nil, err
		}
		k, err := c.joiners[i].keyPackage()
		if err != nil {
			return nil, err
		}
		offer, err := unwrapped(k)
		if err != nil {
			return nil, err
		}
		c.offers = append(c.offers, offer)
	}
	return c, c.gather()
}

// A judge is a member that can try a forgery as if it were a copy of itself.
type judge interface {
	member
	try(mls.Forged) (state, error)
}

// errNoCommit says that a message was taken, and is none that begins an epoch.
var errNoCommit = errors.New("not a commit")

// try lets a copy of the member take it.
func (o *own) try(x mls.Forged) (s state, err error) {
	copied := *o
	switch {
	case x.Welcome != nil:
		return copied.join(x.Welcome)
	case x.Info != nil:
		_, s, err = copied.external(x.Info)
		return s, err
	}
	var last opened
	for _, m := range x.Messages {
		if last, err = copied.open(m); err != nil {
			return "", err
		}
	}
	if last.kind != "commit" {
		return "", errNoCommit
	}
	return last.state, nil
}

// try asks for the same.
func (p *peer) try(x mls.Forged) (state, error) {
	switch {
	case x.Welcome != nil:
		return p.state("tryjoin", hex.EncodeToString(x.Welcome))
	case x.Info != nil:
		return p.state("tryexternal", hex.EncodeToString(x.Info))
	}
	messages := make([]string, len(x.Messages))
	for i, m := range x.Messages {
		messages[i] = hex.EncodeToString(m)
	}
	words, err := p.words("try", messages...)
	if err == nil && words[0] != "commit" {
		err = errNoCommit
	}
	return state(strings.Join(words, " ")), err
}

func (c *court) begin(name, engine string) (judge, error) {
	name = fmt.Sprintf("c%d-%s", c.suite, name)
	if engine == ours {
		return newOwn(c.rand, name, c.suite, false)
	}
	return c.stage.newPeer(name, engine, c.suite, false)
}

// gather makes the group. Each member commits once, so that the tree is full.
func (c *court) gather() error {
	if _, err := c.forger.create([]byte("court")); err != nil {
		return err
	}
	changes := []change{changeOf("context", []byte("court"))}
	for _, m := range c.everyone[1:] {
		k, err := m.keyPackage()
		if err != nil {
			return err
		}
		changes = append(changes, changeOf("add", k))
	}
	_, welcome, err := c.forger.commit(changes...)
	if err != nil {
		return err
	}
	want, err := c.forger.merge()
	if err != nil {
		return err
	}
	for _, m := range c.everyone[1:] {
		if got, err := m.join(welcome); err != nil || got != want {
			return fmt.Errorf("a member of the court joins: %q: %w", got, err)
		}
	}
	for i, m := range c.everyone {
		commit, _, err := m.commit("path:")
		if err != nil {
			return fmt.Errorf("member %d of the court commits: %w", i, err)
		}
		want, err := m.merge()
		if err != nil {
			return err
		}
		for _, other := range c.everyone {
			if other == m {
				continue
			}
			if o, err := other.open(commit); err != nil || o.state != want {
				return fmt.Errorf("the court follows member %d: %w", i, err)
			}
		}
	}
	return nil
}

// judge asks all three engines about all forgeries.
func (c *court) judge() (cases []judged, err error) {
	f := &mls.Forger{
		Rand: c.rand, Group: c.forger.group, Second: c.second.group, Victim: mls.LeafIndex(c.victim), Lifetime: lifetime(), Joiners: c.offers,
	}
	for _, family := range []struct {
		name string
		make func() ([]mls.Forged, error)
	}{
		{"Key packages", f.KeyPackages}, {"Proposal lists", f.ProposalLists}, {"Paths", f.Paths}, {"Frames", f.Framings},
		{"External commits", f.ExternalCommits}, {"Welcomes", f.Welcomes}, {"Group infos", f.Infos},
	} {
		forged, err := family.make()
		if err != nil {
			return nil, err
		}
		for _, x := range forged {
			j := judged{family: family.name, name: x.Name, rule: x.Rule, suites: []int{c.suite}}
			var v verdicts
			for i := range engines {
				if v[i], err = c.verdict(i, x); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", j.family, j.name, err)
				}
			}
			j.verdicts = []verdicts{v}
			cases = append(cases, j)
		}
	}
	return cases, nil
}

// verdict is what becomes of a forgery in one engine, whose state it does not change.
func (c *court) verdict(engine int, x mls.Forged) (string, error) {
	s, err := c.who(engine, x).try(x)
	if err != nil {
		return c.refusal(err)
	}
	if x.Authenticator != nil && !strings.Contains(string(s), fmt.Sprintf(" %x ", x.Authenticator)) {
		return forks, nil
	}
	return taken, nil
}

func (c *court) who(engine int, x mls.Forged) judge {
	switch {
	case x.Welcome != nil:
		return c.joiners[engine]
	case x.Info != nil:
		return c.outside[engine]
	}
	return c.judges[engine]
}

// refusal is the verdict that an error stands for.
func (c *court) refusal(err error) (string, error) {
	if e := engineError(""); errors.As(err, &e) {
		if strings.HasPrefix(string(e), "panic") {
			return panics, nil
		}
		return refused, nil
	}
	// The first sentence of a chain is the verdict, what follows is its cause.
	first, name := len(err.Error()), "by no rule: "+err.Error()
	for text, rule := range c.rules {
		if at := strings.Index(err.Error(), text); at >= 0 && at < first {
			first, name = at, rule
		}
	}
	return refused + " " + name, nil
}

// readRules reads the numbers of this engine's rules, and the sentinels that have
// none.
func readRules() (map[string]string, error) {
	rules := map[string]string{}
	for _, path := range []string{"../errors.go", "../group.go", "../ciphersuite.go"} {
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for _, m := range regexp.MustCompile(`invalid\("(.+)"\) *// (M\d+)`).FindAllStringSubmatch(string(source), -1) {
			rules["mls: "+m[1]] = m[2]
		}
		for _, m := range regexp.MustCompile(`(Err\w+) *= errors.New\("(.+)"\)`).FindAllStringSubmatch(string(source), -1) {
			rules[m[2]] = m[1]
		}
	}
	delete(rules, "mls: invalid")
	return rules, nil
}

// merge joins the cases of several suites: those of one name become one.
func merge(all []judged, more []judged) []judged {
	for _, j := range more {
		at := slices.IndexFunc(all, func(k judged) bool { return k.family == j.family && k.name == j.name })
		if at < 0 {
			all = slices.Insert(all, endOf(all, j.family), j)
			continue
		}
		all[at].suites = append(all[at].suites, j.suites...)
		all[at].verdicts = append(all[at].verdicts, j.verdicts...)
	}
	return all
}

// endOf is where a family's cases end; a new one's, behind all.
func endOf(all []judged, family string) int {
	for i, j := range slices.Backward(all) {
		if j.family == family {
			return i + 1
		}
	}
	return len(all)
}

// agree reports whether the engines say the same, whatever this one's reason.
func (v verdicts) agree() bool {
	kind := func(s string) string { k, _, _ := strings.Cut(s, " "); return k }
	return kind(v[0]) == kind(v[1]) && kind(v[1]) == kind(v[2])
}

// document writes the table of verdicts, and says what is wrong with it: an engine
// that follows nobody, a rule that another one than the named refuses, a difference
// without its reason or a reason without a difference.
func document(cases []judged) ([]byte, error) {
	var b bytes.Buffer
	var wrong []error
	fmt.Fprint(&b, preface)
	used := map[string]bool{}
	family, differences := "", 0
	for _, j := range cases {
		if j.family != family {
			family = j.family
			fmt.Fprintf(&b, "\n## %s\n\n| case | rule | suites | conclave | OpenMLS | mls-rs | why they differ |\n|---|---|---|---|---|---|---|\n", family)
		}
		for _, row := range j.rows() {
			v := row.verdicts[0]
			id, reason := j.family+": "+j.name, ""
			if !v.agree() {
				differences++
				reason = reasons[id]
				used[id] = true
				if reason == "" {
					wrong = append(wrong, fmt.Errorf("%s: %v has no reason in reasons.go", id, v))
				}
			}
			if slices.Contains(v[:], panics) && reason == "" || v[0] == forks {
				wrong = append(wrong, fmt.Errorf("%s: %v", id, v))
			}
			if want := strings.TrimSpace(refused + " " + j.rule); strings.HasPrefix(v[0], refused) && v[0] != want {
				wrong = append(wrong, fmt.Errorf("%s: %s, and the case says %s", id, v[0], want))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", j.name, j.rule, row.suiteList(), strings.Fields(v[0])[0], v[1], v[2], reason)
		}
	}
	for id := range reasons {
		if !used[id] {
			wrong = append(wrong, fmt.Errorf("%s: a reason without a difference", id))
		}
	}
	fmt.Fprintf(&b, "\n%d cases, %d rows in which the engines differ.\n", len(cases), differences)
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return b.Bytes(), errors.Join(wrong...)
}

// rows are the case's, one for all suites that say the same.
func (j judged) rows() (rows []judged) {
	for i, v := range j.verdicts {
		at := slices.IndexFunc(rows, func(r judged) bool { return r.verdicts[0] == v })
		if at < 0 {
			rows = append(rows, judged{verdicts: []verdicts{v}})
			at = len(rows) - 1
		}
		rows[at].suites = append(rows[at].suites, j.suites[i])
	}
	return rows
}

func (j judged) suiteList() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(j.suites), "[]"), " ", ", ")
}
