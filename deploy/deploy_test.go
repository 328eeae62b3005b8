// Package deploy holds what an operator starts Conclave with. Its tests parse
// every file, and start what can be started without a container.
package deploy

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"gopkg.in/yaml.v2"
)

// read returns a file of this folder.
func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parse(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(read(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

var built struct {
	sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// binary builds the command as the Dockerfile does, once.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		var dir string
		if dir, built.err = os.MkdirTemp("", "conclave"); built.err != nil {
			return
		}
		built.path = filepath.Join(dir, "conclave")
		var args []string
		for _, step := range instructions(t) {
			if line, ok := strings.CutPrefix(step, "RUN CGO_ENABLED=0 go build "); ok {
				line, _, _ = strings.Cut(line, "&&")
				// -trimpath changes names only, and would compile everything anew.
				line = strings.Replace(line, "-trimpath ", "", 1)
				args = append([]string{"build"}, words(strings.Replace(line, "/conclave ", built.path+" ", 1))...)
			}
		}
		if args == nil {
			built.err = fmt.Errorf("the Dockerfile builds nothing")
			return
		}
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go %q: %w\n%s", args, err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// words splits a shell line of plain and single-quoted words.
func words(line string) []string {
	var out []string
	for _, w := range regexp.MustCompile(`(?:[^\s']|'[^']*')+`).FindAllString(line, -1) {
		out = append(out, strings.ReplaceAll(w, "'", ""))
	}
	return out
}

// instructions returns the Dockerfile's, one line each, without comments.
func instructions(t *testing.T) []string {
	t.Helper()
	var out []string
	joined := strings.ReplaceAll(read(t, "Dockerfile"), "\\\n", " ")
	for line := range strings.Lines(joined) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// checkServe checks that a command line is one of `conclave serve`, with flags
// that it has.
func checkServe(t *testing.T, where string, args []string) {
	t.Helper()
	if len(args) == 0 || args[0] != "serve" {
		t.Fatalf("%s runs %q, not serve", where, args)
	}
	help, err := exec.Command(binary(t), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("serve --help: %v\n%s", err, help)
	}
	for _, a := range args {
		if flag, _, _ := strings.Cut(a, "="); strings.HasPrefix(flag, "--") && !regexp.MustCompile(regexp.QuoteMeta(flag)+`[\s,]`).Match(help) {
			t.Errorf("%s: serve has no flag %s", where, flag)
		}
	}
}

func TestDockerfileBuildsAStaticBinary(t *testing.T) {
	known := []string{"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
	var stages, entry, cmd []string
	for _, line := range instructions(t) {
		verb, rest, _ := strings.Cut(line, " ")
		if !slices.Contains(known, verb) {
			t.Errorf("unknown instruction %q", line)
		}
		switch verb {
		case "FROM":
			f := strings.Fields(rest)
			if len(f) == 3 && f[1] == "AS" {
				stages = append(stages, f[2])
			}
		case "COPY":
			for _, word := range strings.Fields(rest) {
				if from, ok := strings.CutPrefix(word, "--from="); ok && !slices.Contains(stages, from) {
					t.Errorf("COPY from a stage %q that is not there", from)
				}
			}
		case "ENTRYPOINT":
			list(t, rest, &entry)
		case "CMD":
			list(t, rest, &cmd)
		}
	}
	if !slices.Equal(entry, []string{"/conclave"}) {
		t.Errorf("entry point %q", entry)
	}
	checkServe(t, "Dockerfile", cmd)

	f, err := elf.Open(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary asks for an interpreter: it would not start on scratch")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("the binary is linked with %q", libs)
	}
	version := read(t, "../go.mod")
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(version)[1]
	if !strings.Contains(read(t, "Dockerfile"), "FROM golang:"+want+" ") {
		t.Errorf("the Dockerfile builds with another Go than go.mod's %s", want)
	}
}

// list reads the JSON form of CMD and ENTRYPOINT, which is YAML too.
func list(t *testing.T, text string, into *[]string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

func TestUnitIsValid(t *testing.T) {
	known := map[string][]string{
		"Unit": {"Description", "Documentation", "After", "Wants"},
		"Service": {"Type", "ExecStart", "StateDirectory", "StateDirectoryMode", "DynamicUser", "KillSignal", "TimeoutStopSec",
			"Restart", "RestartSec", "LimitCORE", "LimitNOFILE", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp",
			"PrivateDevices", "ProtectKernelTunables", "ProtectControlGroups", "RestrictAddressFamilies", "RestrictNamespaces",
			"LockPersonality", "MemoryDenyWriteExecute"},
		"Install": {"WantedBy"},
	}
	unit := read(t, "conclave.service")
	section, values := "", map[string]string{}
	for line := range strings.Lines(unit) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			if known[section] == nil {
				t.Errorf("unknown section %q", section)
			}
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || !slices.Contains(known[section], key) || values[key] != "" {
				t.Errorf("[%s] has the line %q", section, line)
			}
			values[key] = value
		}
	}
	start := strings.Fields(values["ExecStart"])
	checkServe(t, "ExecStart", start[1:])
	if values["LimitCORE"] != "0" {
		t.Error("a core dump would hold keys") // faults.md D13
	}
	if values["StateDirectory"] != "conclave" || !slices.Contains(start, "/var/lib/conclave") {
		t.Error("the log does not lie in the state directory")
	}

	// Where systemd is at hand it has the last word.
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	copied := filepath.Join(t.TempDir(), "conclave.service")
	if err := os.WriteFile(copied, []byte(strings.Replace(unit, start[0], binary(t), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--recursive-errors=no", copied).CombinedOutput(); err != nil || strings.Contains(string(out), copied) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// A composeFile is as much of Compose's format as compose.yaml uses.
type composeFile struct {
	Services map[string]service        `yaml:"services"`
	Volumes  map[string]map[string]any `yaml:"volumes"`
	Secrets  map[string]struct {
		Environment string `yaml:"environment"`
	} `yaml:"secrets"`
	Nats any `yaml:"x-nats"`
	Node any `yaml:"x-node"`
}

type service struct {
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
	Ports       []string          `yaml:"ports"`
	Secrets     []string          `yaml:"secrets"`
	DependsOn   []string          `yaml:"depends_on"`
	Restart     string            `yaml:"restart"`
	Grace       string            `yaml:"stop_grace_period"`
	Build       struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
	} `yaml:"build"`
}

func TestComposeRefersToWhatIsThere(t *testing.T) {
	var c composeFile
	parse(t, "compose.yaml", &c)
	nodes := 0
	for name, s := range c.Services {
		if s.Restart == "" || s.Grace == "" {
			t.Errorf("%s is not restarted, or is killed in the middle of its drain", name)
		}
		for _, on := range s.DependsOn {
			if _, ok := c.Services[on]; !ok {
				t.Errorf("%s depends on %s, which is no service", name, on)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(from, ".") {
				if _, err := os.Stat(from); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s uses the volume %s, which is not declared", name, from)
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond the machine", name, p)
			}
		}
		if !strings.HasPrefix(s.Image, "nats:") {
			continue
		}
		nodes++
		if s.Environment["NODE"] != name || !slices.Contains(s.Volumes, name+":/data") || s.Environment["STORE"] != "/data" {
			t.Errorf("%s is not itself: %v %v", name, s.Environment, s.Volumes)
		}
		if !slices.Equal(s.Command, []string{"-c", "/etc/nats/nats.conf"}) || !slices.Contains(s.Volumes, "./nats.conf:/etc/nats/nats.conf:ro") || !slices.Contains(s.Volumes, "./rights.conf:/etc/nats/rights.conf:ro") {
			t.Errorf("%s does not run with nats.conf", name)
		}
		for n := range 3 {
			if route := s.Environment[fmt.Sprintf("ROUTE_%d", n+1)]; !strings.HasSuffix(route, fmt.Sprintf("@nats-%d:6222", n+1)) {
				t.Errorf("%s has the route %q", name, route)
			}
		}
		// The image is the server that the tests run with.
		if _, version, _ := strings.Cut(s.Image, ":"); !strings.Contains(read(t, "../go.mod"), "nats-server/v2 v"+version+"\n") {
			t.Errorf("%s runs %s, go.mod another version", name, s.Image)
		}
	}
	if nodes != 3 {
		t.Errorf("%d NATS nodes", nodes)
	}
	host := c.Services["conclave"]
	checkServe(t, "compose.yaml", host.Command)
	if _, err := os.Stat(filepath.Join(host.Build.Context, host.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	for _, s := range host.Secrets {
		if c.Secrets[s].Environment == "" || !slices.Contains(host.Command, "/run/secrets/"+s) {
			t.Errorf("secret %s comes from nowhere or goes nowhere", s)
		}
	}

	// Compose itself, where it is at hand.
	if exec.Command("docker", "compose", "version").Run() == nil {
		cmd := exec.Command("docker", "compose", "-f", "compose.yaml", "config", "--quiet")
		cmd.Env = append(os.Environ(), "PASSWORD=1234", "NODE_PASSWORD=1", "HOST_PASSWORD=2", "OPERATOR_PASSWORD=3")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("docker compose config: %v\n%s", err, out)
		}
	}
}
