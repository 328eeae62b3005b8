package actors

import (
	"encoding/hex"
	"log/slog"
	"strings"
)

// The keys of log records, named here and nowhere else. Ids are cut to eight
// digits: enough to follow one, too little to be a directory of members.
const (
	keyActor        = "actor"
	keyGroup        = "group"
	keyInstallation = "installation"
	keyErr          = "err"
	keyReason       = "reason"
	keyStanding     = "standing"
	keyCount        = "count"
	keyDelay        = "delay"
)

func short(id []byte) string { return hex.EncodeToString(id[:min(len(id), 4)]) }

// whose is what an actor is, and the short ids that its name holds.
func whose(name string) slog.Attr {
	attrs := []any{slog.String(keyActor, kindOf(name).String())}
	if rest, ok := strings.CutPrefix(name, prefixGroup); ok && len(rest) == 48 {
		attrs = append(attrs, groupAttr(GroupID([]byte(rest[32:]))), installationAttr(InstallationID([]byte(rest[:32]))))
	}
	if rest, ok := strings.CutPrefix(name, prefixInstallation); ok && len(rest) == 32 {
		attrs = append(attrs, installationAttr(InstallationID([]byte(rest))))
	}
	return slog.Group("", attrs...)
}

func groupAttr(id GroupID) slog.Attr               { return slog.String(keyGroup, short(id[:])) }
func installationAttr(id InstallationID) slog.Attr { return slog.String(keyInstallation, short(id[:])) }
