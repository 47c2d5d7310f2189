// What the SDK has no gRPC of: its hostcalls and its callbacks.
package main

import (
	"strconv"
	"unsafe"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

const grpcMessage = 5

//go:wasmimport env proxy_grpc_call
func grpcCall(cluster, service, method, metadata, message string, timeoutMs uint32, token *uint32) uint32

//go:wasmimport env proxy_get_buffer_bytes
func getBufferBytes(buffer, start, size uint32, data unsafe.Pointer, length *uint32) uint32

//go:wasmimport env proxy_set_effective_context
func setEffectiveContext(id uint32) uint32

// waiting has the streams that wait for a call, by its token.
var waiting = map[uint32]uint32{}

func (s *stream) grpc() types.Action {
	var token uint32
	if status := grpcCall("grpc", "guest.Echo", "Say", "", "ping", callTimeoutMs, &token); status != 0 {
		proxywasm.LogErrorf("guest: the call has status %d", status)
		return types.ActionContinue
	}
	waiting[token] = s.id
	return types.ActionPause
}

// goOn lets the stream that waits for a call go on, with the answer as a request header.
func goOn(token uint32, answer string) {
	id, found := waiting[token]
	if !found {
		return
	}
	delete(waiting, token)
	if setEffectiveContext(id) != 0 {
		return
	}
	report(proxywasm.AddHttpRequestHeader("x-grpc", answer))
	report(proxywasm.ResumeHttpRequest())
}

//go:wasmexport proxy_on_grpc_receive
func onGrpcReceive(_, token, size uint32) {
	var data *byte
	var length uint32
	if getBufferBytes(grpcMessage, 0, size, unsafe.Pointer(&data), &length) != 0 {
		return
	}
	goOn(token, unsafe.String(data, length))
}

//go:wasmexport proxy_on_grpc_close
func onGrpcClose(_, token, status uint32) {
	goOn(token, strconv.Itoa(int(status)))
}
