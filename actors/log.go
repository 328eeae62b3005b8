package actors

import (
	"encoding/hex"
	"log/slog"
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

func groupAttr(id GroupID) slog.Attr               { return slog.String(keyGroup, short(id[:])) }
func installationAttr(id InstallationID) slog.Attr { return slog.String(keyInstallation, short(id[:])) }
