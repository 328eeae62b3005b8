package jetstream

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// embedded is a NATS server in this process, shared by the connections to it;
// the last one to let go stops it.
type embedded struct {
	srv            *server.Server
	lock           *os.File
	user, password string // for connections from within; empty where nothing listens

	mu   sync.Mutex
	refs int
}

const startTimeout = 30 * time.Second

func startServer(cfg Config) (*embedded, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("jetstream: make folder: %w", err)
	}
	lock, err := lockFile(filepath.Join(cfg.Dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("jetstream: %s is in use by another process or bus: %w", cfg.Dir, err)
	}
	opts := &server.Options{
		ServerName:             "conclave",
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               cfg.Dir,
		JetStreamMaxMemory:     64 << 20,
		MaxPayload:             8 << 20,
		MaxPending:             512 << 20,
		// A slow subscriber is disconnected in the end; until then it must not
		// hold up the publishers.
		NoFastProducerStall: true,
		SyncAlways:          cfg.SyncInterval == 0,
		SyncInterval:        cfg.SyncInterval,
	}
	e := &embedded{lock: lock, refs: 1}
	if cfg.Listen != "" {
		if err := e.listen(opts, cfg); err != nil {
			lock.Close()
			return nil, err
		}
	}
	e.srv, err = server.NewServer(opts)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("jetstream: make server: %w", err)
	}
	e.srv.SetLoggerV2(serverLog{cfg.Logger}, false, false, false)
	e.srv.Start()
	if !e.srv.ReadyForConnections(startTimeout) {
		e.stop()
		return nil, errors.New("jetstream: the embedded server did not start")
	}
	if !e.srv.JetStreamEnabled() {
		e.stop()
		return nil, errors.New("jetstream: the embedded server could not open its store")
	}
	return e, nil
}

func (e *embedded) listen(opts *server.Options, cfg Config) error {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return fmt.Errorf("jetstream: listen: %w", err)
	}
	opts.DontListen = false
	opts.Host = host
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("jetstream: listen: %w", err)
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if cfg.Credentials.TLS != nil {
		opts.TLSConfig = cfg.Credentials.TLS
		opts.TLSTimeout = 5
	}
	if cfg.Credentials.User != "" {
		e.user, e.password = "inside-"+rand.Text(), rand.Text()
		opts.Users = []*server.User{
			{Username: e.user, Password: e.password},
			{Username: cfg.Credentials.User, Password: cfg.Credentials.Password},
		}
	}
	return nil
}

func (e *embedded) dialOptions() []nats.Option {
	opts := []nats.Option{nats.InProcessServer(e.srv)}
	if e.user != "" {
		opts = append(opts, nats.UserInfo(e.user, e.password))
	}
	return opts
}

func (e *embedded) hold() {
	e.mu.Lock()
	e.refs++
	e.mu.Unlock()
}

func (e *embedded) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refs--; e.refs == 0 {
		e.stop()
	}
}

func (e *embedded) stop() {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	e.lock.Close()
}

// serverLog gives the server's lines to a slog.Logger. The server writes
// nothing of a message's body unless it traces, which is off.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.write(l.log.Debug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.write(l.log.Warn, format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.write(l.log.Error, format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.write(l.log.Error, format, v) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

func (l serverLog) write(at func(string, ...any), format string, v []any) {
	at("nats server", "line", fmt.Sprintf(format, v...))
}
