//go:build tools

// Package suites pins the protocol suites that `cargo xtask setup` builds and the end-to-end tests run against our proxy.
// Nothing of them is part of the product.
package suites

import (
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
