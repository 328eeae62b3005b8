package jetstream

import (
	"strconv"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
)

// Rights are the subjects that a user of a NATS server may publish to and
// subscribe to.
type Rights struct{ Publish, Subscribe []string }

// HostRights are what a host uses of a deployment: it writes messages, commits and
// welcomes, reads the log, and asks the node. It neither writes what only the node
// writes, nor answers as the node, nor changes a stream. shards is how many the
// deployment has, or the most that it may have.
func HostRights(deployment, user string, shards int) Rights {
	r := Rights{
		Publish: []string{
			deployment + ".*.g.*.c",
			deployment + ".*.g.*.a",
			deployment + ".*.w.*",
		},
		Subscribe: []string{deployment + ".inbox." + user + ".>"},
	}
	for _, service := range []string{
		bus.PublishIdentityUpdate, bus.GetIdentityUpdates, bus.GetInboxIds, bus.VerifySignatures,
		bus.UploadKeyPackage, bus.FetchKeyPackages, bus.PublishCommitLog, bus.QueryCommitLog,
	} {
		r.Publish = append(r.Publish, deployment+".svc."+service)
	}
	for n := range shards {
		r.Publish = append(r.Publish, reading(deployment+"_"+strconv.Itoa(n))...)
	}
	return r
}

// reading are JetStream's calls by which a stream is read.
func reading(stream string) []string {
	return []string{
		"$JS.API.STREAM.INFO." + stream,
		"$JS.API.STREAM.MSG.GET." + stream,
		"$JS.API.DIRECT.GET." + stream,
		"$JS.API.CONSUMER.CREATE." + stream + ".*",
		"$JS.API.CONSUMER.INFO." + stream + ".*",
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*",
		"$JS.API.CONSUMER.DELETE." + stream + ".*",
	}
}

// NodeRights are what a node uses beside: it writes every topic, serves, answers
// to every host's inbox, and creates and updates the deployment's streams. It
// deletes none.
func NodeRights(deployment, user string, shards int) Rights {
	r := HostRights(deployment, user, shards)
	r.Publish = append(r.Publish,
		deployment+".*.g.*.l", deployment+".*.g.*.r", deployment+".*.i.*", deployment+".*.k.*", deployment+".inbox.>")
	r.Subscribe = append(r.Subscribe, deployment+".svc.>")
	for n := range shards {
		stream := deployment + "_" + strconv.Itoa(n)
		r.Publish = append(r.Publish, "$JS.API.STREAM.CREATE."+stream, "$JS.API.STREAM.UPDATE."+stream)
	}
	return r
}

// OperatorRights are what an operator uses who purges a log: it reads all of it,
// and alone deletes. It writes nothing.
func OperatorRights(deployment, user string, shards int) Rights {
	r := Rights{Subscribe: []string{deployment + ".inbox." + user + ".>"}}
	for n := range shards {
		stream := deployment + "_" + strconv.Itoa(n)
		r.Publish = append(append(r.Publish, reading(stream)...), "$JS.API.STREAM.PURGE."+stream)
	}
	return r
}

func (r Rights) permissions() *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: r.Publish},
		Subscribe: &server.SubjectPermission{Allow: r.Subscribe},
	}
}
