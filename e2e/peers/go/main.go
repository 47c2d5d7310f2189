// The guest of the SDK tests in Go: what it does by path is the table of `e2e/peers/README.md`. The SDK has no gRPC, so the
// hostcalls and callbacks of that are declared in grpc.go.
package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

const callTimeoutMs = 5000

// main is never called: a reactor's entry is init.
func main() {}

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &root{} })
}

type root struct {
	types.DefaultPluginContext
	word     string
	queue    uint32
	requests proxywasm.MetricCounter
}

func (r *root) OnPluginStart(int) types.OnPluginStartStatus {
	word, err := proxywasm.GetPluginConfiguration()
	if err != nil && !errors.Is(err, types.ErrorStatusNotFound) {
		return types.OnPluginStartStatusFailed
	}
	r.word = string(word)
	r.requests = proxywasm.DefineCounterMetric("guest_requests")
	if r.word == "tcp" {
		return types.OnPluginStartStatusOK
	}
	if r.queue, err = proxywasm.RegisterSharedQueue("jobs"); err != nil {
		return types.OnPluginStartStatusFailed
	}
	if err = proxywasm.SetTickPeriodMilliSeconds(50); err != nil {
		return types.OnPluginStartStatusFailed
	}
	return types.OnPluginStartStatusOK
}

func (r *root) OnTick() { count("ticks") }

func (r *root) OnQueueReady(queue uint32) {
	for {
		job, err := proxywasm.DequeueSharedQueue(queue)
		if err != nil {
			return
		}
		report(proxywasm.SetSharedData("job", job, 0))
	}
}

func (r *root) NewHttpContext(id uint32) types.HttpContext {
	if r.word == "tcp" {
		return nil
	}
	return &stream{root: r, id: id}
}

func (r *root) NewTcpContext(uint32) types.TcpContext {
	if r.word != "tcp" {
		return nil
	}
	return &connection{}
}

// report logs what should not happen.
func report(err error) {
	if err != nil {
		proxywasm.LogErrorf("guest: %v", err)
	}
}

// count adds one to a number in shared data, and tells it.
func count(key string) string {
	for {
		value, cas, _ := proxywasm.GetSharedData(key)
		number, _ := strconv.Atoi(string(value))
		next := strconv.Itoa(number + 1)
		if err := proxywasm.SetSharedData(key, []byte(next), cas); !errors.Is(err, types.ErrorStatusCasMismatch) {
			return next
		}
	}
}

func shared(key string) string {
	value, _, err := proxywasm.GetSharedData(key)
	if err != nil {
		return "none"
	}
	return string(value)
}

func property(path ...string) string {
	value, err := proxywasm.GetProperty(path)
	if err != nil {
		return ""
	}
	return string(value)
}

type stream struct {
	types.DefaultHttpContext
	root *root
	id   uint32
	path string
}

func (s *stream) wanted() string {
	first, _, _ := strings.Cut(strings.TrimPrefix(s.path, "/"), "/")
	first, _, _ = strings.Cut(first, "?")
	return first
}

func (s *stream) OnHttpRequestHeaders(int, bool) types.Action {
	s.path, _ = proxywasm.GetHttpRequestHeader(":path")
	report(proxywasm.AddHttpRequestHeader("x-guest", "go"))
	s.root.requests.Increment(1)
	switch s.wanted() {
	case "headers":
		report(proxywasm.ReplaceHttpRequestHeader("x-replaced", "new"))
		report(proxywasm.RemoveHttpRequestHeader("x-removed"))
		report(proxywasm.AddHttpRequestHeader("x-added", "2"))
	case "body":
		report(proxywasm.RemoveHttpRequestHeader("content-length"))
	case "call":
		return s.call()
	case "grpc":
		return s.grpc()
	case "local":
		report(proxywasm.SendHttpResponse(418, [][2]string{{"x-local", "yes"}}, []byte("short and stout"), -1))
		return types.ActionPause
	case "shared":
		report(proxywasm.AddHttpRequestHeader("x-shared", count("count")))
	case "enqueue":
		report(proxywasm.EnqueueSharedQueue(s.root.queue, []byte("job-1")))
	case "job":
		report(proxywasm.AddHttpRequestHeader("x-job", shared("job")))
		report(proxywasm.AddHttpRequestHeader("x-ticks", shared("ticks")))
	case "property":
		s.properties()
	}
	return types.ActionContinue
}

func (s *stream) call() types.Action {
	headers := [][2]string{
		{":method", "POST"}, {":path", "/callout"}, {":authority", "callout"}, {"x-origin", "status=201"},
	}
	_, err := proxywasm.DispatchHttpCall("callout", headers, []byte("ping"), nil, callTimeoutMs, func(_, size, _ int) {
		status := ""
		answer, err := proxywasm.GetHttpCallResponseHeaders()
		report(err)
		for _, header := range answer {
			if header[0] == ":status" {
				status = header[1]
			}
		}
		body, err := proxywasm.GetHttpCallResponseBody(0, size)
		report(err)
		report(proxywasm.AddHttpRequestHeader("x-callout", status+" "+string(body)))
		report(proxywasm.ResumeHttpRequest())
	})
	if err != nil {
		report(err)
		return types.ActionContinue
	}
	return types.ActionPause
}

func (s *stream) properties() {
	source := property("source", "address")
	host := source[:max(strings.LastIndexByte(source, ':'), 0)]
	words := []string{property("request", "method"), property("request", "path"), property("plugin_name"), host}
	report(proxywasm.AddHttpRequestHeader("x-property", strings.Join(words, " ")))
}

func (s *stream) OnHttpRequestBody(size int, end bool) types.Action {
	if s.wanted() != "body" {
		return types.ActionContinue
	}
	if !end {
		return types.ActionPause
	}
	body, err := proxywasm.GetHttpRequestBody(0, size)
	report(err)
	report(proxywasm.ReplaceHttpRequestBody([]byte("[" + string(body) + "]")))
	return types.ActionContinue
}

func (s *stream) OnHttpResponseHeaders(int, bool) types.Action {
	report(proxywasm.AddHttpResponseHeader("x-guest-response", s.root.word))
	if s.wanted() == "body" {
		report(proxywasm.RemoveHttpResponseHeader("content-length"))
	}
	return types.ActionContinue
}

func (s *stream) OnHttpResponseBody(size int, end bool) types.Action {
	if s.wanted() != "body" {
		return types.ActionContinue
	}
	if !end {
		return types.ActionPause
	}
	body, err := proxywasm.GetHttpResponseBody(0, size)
	report(err)
	report(proxywasm.ReplaceHttpResponseBody([]byte("{" + string(body) + "}")))
	return types.ActionContinue
}

type connection struct {
	types.DefaultTcpContext
}

func (c *connection) OnDownstreamData(size int, _ bool) types.Action {
	if size > 0 {
		data, err := proxywasm.GetDownstreamData(0, size)
		report(err)
		report(proxywasm.ReplaceDownstreamData(bytes.ToUpper(data)))
	}
	return types.ActionContinue
}

func (c *connection) OnUpstreamData(size int, _ bool) types.Action {
	if size > 0 {
		data, err := proxywasm.GetUpstreamData(0, size)
		report(err)
		report(proxywasm.ReplaceUpstreamData([]byte("<" + string(data) + ">")))
	}
	return types.ActionContinue
}
