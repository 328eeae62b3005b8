// Package interop holds XMTP's published SDK against Conclave: the unmodified
// npm package @xmtp/node-sdk and installations of this module sit in the same
// groups, on one `conclave serve --xmtp`. README.md tells how it runs; the
// scenarios are its tests, under the build tag interop.
package interop
