package benchmarks

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Machine describes what a figure was measured on: processor, cores, system.
func Machine() string {
	name := runtime.GOARCH
	if v := procField("/proc/cpuinfo", "model name"); v != "" {
		name = v
	}
	return name + ", " + strconv.Itoa(runtime.GOMAXPROCS(0)) + " cores, " + runtime.GOOS + ", " + runtime.Version()
}

// Revision is the source's revision, where the build knows it.
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	commit, modified := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changes"
		}
	}
	return commit + modified
}

// PeakMemory is the most memory that this process ever held resident, in
// bytes; 0 where the system does not tell.
func PeakMemory() int64 { return procBytes("self", "VmHWM") }

// Resident is the memory that this process holds resident now, in bytes; 0
// where the system does not tell.
func Resident() int64 { return residentOf("self") }

func residentOf(process string) int64 { return procBytes(process, "VmRSS") }

func procBytes(process, field string) int64 {
	kb, _, _ := strings.Cut(procField("/proc/"+process+"/status", field), " ")
	n, _ := strconv.ParseInt(kb, 10, 64)
	return n << 10
}

func procField(path, field string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Descriptors is the number of files and sockets that this process has open;
// 0 where the system does not tell.
func Descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries) - 1 // the one that reads the directory
}
