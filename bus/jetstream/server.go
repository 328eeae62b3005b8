package jetstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream/internal/files"
	"github.com/conclave-chat/conclave/internal/listen"
)

// Opening an embedded server.
var (
	// ErrListen: Config.Listen cannot be listened at.
	ErrListen = errors.New("jetstream: cannot listen")
	// ErrLocked: another process, or another bus of this one, has Config.Dir open.
	ErrLocked = errors.New("jetstream: folder is in use by another process or bus")
	// ErrReadOnly: nothing can be written in Config.Dir.
	ErrReadOnly = errors.New("jetstream: folder is read-only")
)

// embedded is a NATS server in this process, shared by the connections to it;
// the last one to let go stops it.
type embedded struct {
	cfg            Config
	lock           *os.File
	user, password string // for connections from within; empty where nothing listens

	mu     sync.Mutex
	refs   int
	port   int            // where it listens, once it does
	users  []*server.User // of others, see readUsers
	unshow func()         // takes back where the local password is; nil where that is shown nowhere
	srv    *server.Server // watch alone replaces it

	failed   atomic.Bool                       // the server met an error of the disk, and has to be started again
	why      atomic.Pointer[error]             // see ready
	mark     files.Mark                        // watch's own, while that runs
	lost     atomic.Pointer[map[string]uint64] // by stream the first sequence whose loss was accepted, which the streams' metadata is yet to say
	stop     context.CancelFunc                // ends watch
	watching sync.WaitGroup
}

// startServer starts a server that nobody reaches from outside yet: see accept.
// What it listens at is tried first, before the folder is touched. When ctx ends
// it returns at once, and the folder's lock is given back as soon as the server,
// which cannot be interrupted while it reads its files, has come to an end.
func startServer(ctx context.Context, cfg Config) (*embedded, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Listen != "" {
		l, err := listen.TCP(cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrListen, err)
		}
		l.Close()
	}
	e := &embedded{cfg: cfg, refs: 1}
	if err := e.takeFolder(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, cfg.Dir)
	}
	if err := e.chooseUsers(); err != nil {
		return nil, errors.Join(err, e.lock.Close())
	}
	if err := e.inspect(ctx); err != nil {
		return nil, errors.Join(err, e.lock.Close())
	}
	srv, err := e.launch(ctx, func() { e.lock.Close() })
	if err != nil {
		return nil, err
	}
	e.srv = srv
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	e.watching.Go(func() { e.watch(ctx) })
	return e, nil
}

// takeFolder makes the folder, locks it, and sees that it can be written.
func (e *embedded) takeFolder() error {
	if err := os.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return folderError(err)
	}
	lock, err := lockFile(filepath.Join(e.cfg.Dir, "LOCK"))
	if err != nil {
		return folderError(err)
	}
	if err := tryWrite(e.cfg.Dir); err != nil {
		lock.Close()
		return folderError(err)
	}
	e.lock = lock
	return nil
}

// tryWrite writes as much as an envelope takes, and takes it away again.
func tryWrite(dir string) error {
	path := filepath.Join(dir, "TRY")
	err := os.WriteFile(path, make([]byte, 64<<10), 0o600)
	return errors.Join(err, os.Remove(path))
}

// folderError names what is wrong with a folder.
func folderError(err error) error {
	switch {
	case errors.Is(err, errLocked):
		return fmt.Errorf("%w: stop that one, or give another folder", ErrLocked)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: make room on the disk: %w", bus.ErrFull, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: give one that this user may write to: %w", ErrReadOnly, err)
	}
	return fmt.Errorf("jetstream: open folder: %w", err)
}

func (e *embedded) options() *server.Options {
	opts := &server.Options{
		ServerName:             "conclave",
		DontListen:             true, // accept begins it
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               e.cfg.Dir,
		JetStreamMaxMemory:     64 << 20,
		MaxPayload:             8 << 20,
		MaxPending:             512 << 20,
		// A slow subscriber is disconnected in the end; until then it must not
		// hold up the publishers.
		NoFastProducerStall: true,
		SyncAlways:          e.cfg.SyncInterval == 0,
		SyncInterval:        e.cfg.SyncInterval,
	}
	if e.cfg.Listen == "" {
		return opts
	}
	host, port, _ := net.SplitHostPort(e.cfg.Listen) // startServer has tried it
	opts.Host = host
	opts.Port, _ = net.LookupPort("tcp", port)
	e.mu.Lock()
	opts.Port = cmp.Or(e.port, opts.Port)
	e.mu.Unlock()
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if e.cfg.Credentials.TLS != nil {
		opts.TLSConfig = e.cfg.Credentials.TLS
		opts.TLSTimeout = 5
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	opts.Users = append([]*server.User{{Username: e.user, Password: e.password}}, e.users...)
	return opts
}

// chooseUsers makes the password for connections from within, which alone own the
// log, and reads those of others.
func (e *embedded) chooseUsers() (err error) {
	if e.cfg.Listen == "" {
		return nil
	}
	e.user, e.password = "inside-"+rand.Text(), rand.Text()
	e.users, err = e.readUsers()
	return err
}

// readUsers returns who may come in from outside, with which password and rights.
func (e *embedded) readUsers() (users []*server.User, err error) {
	c := e.cfg
	if c.Credentials.User == "" {
		c.Credentials.User = localUser
		if c.Credentials.Password, err = makeLocalSecret(c.Dir); err != nil {
			return nil, err
		}
	}
	add := func(rights func(deployment, user string, shards int) Rights, all ...Credentials) error {
		for _, u := range all {
			if u.PasswordFile != "" {
				if u.Password, err = ReadSecret(u.PasswordFile); err != nil {
					return fmt.Errorf("jetstream: %w", err)
				}
			}
			if u.User != "" {
				users = append(users, &server.User{
					Username: u.User, Password: u.Password,
					Permissions: rights(c.Deployment, u.User, bus.MaxShards).permissions(),
				})
			}
		}
		return nil
	}
	return users, errors.Join(add(HostRights, c.Credentials), add(HostRights, c.Hosts...), add(NodeRights, c.Nodes), add(OperatorRights, c.Operators))
}

// reloadUsers reads the passwords again. Whose password is another one now is
// disconnected.
func (e *embedded) reloadUsers() error {
	if e.cfg.Listen == "" {
		return nil
	}
	users, err := e.readUsers()
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.users = users
	srv := e.srv
	e.mu.Unlock()
	if err := srv.ReloadOptions(e.options()); err != nil {
		return fmt.Errorf("jetstream: take new passwords: %w", err)
	}
	return nil
}

// launch starts a server on the folder, and calls ended, on failure, when that is
// free again.
func (e *embedded) launch(ctx context.Context, ended func()) (*server.Server, error) {
	srv, err := server.NewServer(e.options())
	if err != nil {
		ended()
		return nil, fmt.Errorf("jetstream: make server: %w", err)
	}
	fatal := make(chan string, 1)
	srv.SetLoggerV2(serverLog{e.cfg.Logger, fatal, e.writeFailed}, false, false, false)
	started := make(chan struct{})
	go func() {
		defer close(started)
		srv.Start()
	}()
	abandon := func() {
		<-started
		srv.Shutdown()
		srv.WaitForShutdown()
		ended()
	}
	select {
	case <-started:
	case <-ctx.Done():
		go abandon()
		return nil, ctx.Err()
	}
	select {
	case why := <-fatal:
		err = e.notStarted(why)
	default:
		if !srv.JetStreamEnabled() {
			err = e.notStarted("it does not say why")
		}
	}
	if err != nil {
		abandon()
		return nil, err
	}
	return srv, nil
}

// notStarted names the reason of a server that did not start.
func (e *embedded) notStarted(why string) error {
	if err := tryWrite(e.cfg.Dir); err != nil {
		return fmt.Errorf("%w: %s", folderError(err), e.cfg.Dir)
	}
	return fmt.Errorf("jetstream: the embedded server could not open its store: %s", why)
}

// accept lets others in from outside, where that is asked for.
func (e *embedded) accept() error {
	if e.cfg.Listen == "" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv.AcceptLoop(make(chan struct{}))
	at, ok := e.srv.Addr().(*net.TCPAddr)
	if !ok { // somebody was faster since it was tried
		return fmt.Errorf("%w: %s is taken: give another port", ErrListen, e.cfg.Listen)
	}
	e.port = at.Port
	if e.cfg.Credentials.User == "" && e.unshow == nil {
		var err error
		if e.unshow, err = showLocalSecret(e.cfg.Dir, e.port); err != nil {
			e.cfg.Logger.Warn("hosts do not find the password by themselves", "user", localUser, "file", filepath.Join(e.cfg.Dir, localSecret), "error", err)
		}
	}
	return nil
}

func (e *embedded) url() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv.ClientURL()
}

func (e *embedded) dialOptions() []nats.Option {
	opts := []nats.Option{nats.InProcessServer(e)}
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

// release stops the server when nobody holds it any more.
func (e *embedded) release() {
	e.mu.Lock()
	e.refs--
	last := e.refs == 0
	e.mu.Unlock()
	if !last {
		return
	}
	if e.unshow != nil {
		e.unshow()
	}
	e.stop()
	e.watching.Wait()
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	if err := e.sealMark(); err != nil {
		e.cfg.Logger.Warn("mark of the log's end not written", "error", err)
	}
	e.lock.Close()
}

// serverLog gives the server's lines to a slog.Logger, the reason why it cannot go
// on to fatal, and its errors to failed. The server writes nothing of a message's body unless it
// traces, which is off.
type serverLog struct {
	log    *slog.Logger
	fatal  chan<- string
	failed func(format string, v []any)
}

func (l serverLog) Noticef(format string, v ...any) { l.write(l.log.Debug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.write(l.log.Warn, format, v) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

func (l serverLog) Errorf(format string, v ...any) {
	l.write(l.log.Error, format, v)
	l.failed(format, v)
}

func (l serverLog) Fatalf(format string, v ...any) {
	l.write(l.log.Error, format, v)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

func (l serverLog) write(at func(string, ...any), format string, v []any) {
	at("nats server", "line", fmt.Sprintf(format, v...))
}
