// A module of its own: it needs cargo, and code that only it is built with.
module github.com/conclave-chat/conclave/mls/peers

go 1.26.0

replace github.com/conclave-chat/conclave => ../..

require github.com/conclave-chat/conclave v0.0.0

require (
	github.com/cloudflare/circl v1.6.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
