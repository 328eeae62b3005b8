//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's script works as printed, but for the address of the node.
func TestReadmeScript(t *testing.T) {
	s := begin(t, "the README's script, as printed")
	readme := must[[]byte](t)(os.ReadFile("../README.md"))
	printed := regexp.MustCompile("(?s)```ts\n(.*?)```").FindSubmatch(readme)
	if printed == nil {
		t.Fatal("the README has no script")
	}
	script := strings.Replace(string(printed[1]), `env: "local"`, `env: "local", apiUrl: "`+s.network.xmtpURL()+`"`, 1)
	if script == string(printed[1]) {
		t.Fatal("the README's script does not say where the network is")
	}
	path := filepath.Join(".sdk", sdkVersion(), "readme.mjs")
	s.do(os.WriteFile(path, []byte(script), 0o600))
	t.Cleanup(func() { os.Remove(path) })
	out, err := exec.CommandContext(s.ctx, ".sdk/node", path).CombinedOutput()
	if want := "hello | hello over Conclave"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v, %q is missing in\n%s", err, want, out)
	}
	s.row.real, s.row.members, s.row.sent, s.row.read = 2, 2, 1, 1
}
