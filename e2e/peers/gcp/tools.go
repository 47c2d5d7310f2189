//go:build tools

// Package gcp pins go-control-plane's own integration server, which `cargo xtask setup` builds and the end-to-end tests
// run against our proxy. Nothing of it is part of the product.
package gcp

import _ "github.com/envoyproxy/go-control-plane/pkg/test/main"
