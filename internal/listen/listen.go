// Package listen opens a port, and says in one sentence why it cannot.
package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// TCP listens at host:port. Its error tells what to do.
func TCP(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port, such as 127.0.0.1:4222", address)
	}
	l, err := net.Listen("tcp", address)
	var name *net.DNSError
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %s is taken: stop what listens at %s, or give another port: %w", port, address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: give one that is, or 0.0.0.0 for all: %w", host, err)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("port %s may not be listened at by this user: give one above 1023: %w", port, err)
	case errors.As(err, &name) && name.Name == host:
		return nil, fmt.Errorf("host %q has no address: give an address of this machine: %w", host, err)
	}
	return nil, fmt.Errorf("%s is nothing to listen at: give host:port with a port from 0 to 65535: %w", address, err)
}
