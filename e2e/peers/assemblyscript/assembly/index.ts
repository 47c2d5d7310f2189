// The guest of the SDK tests in AssemblyScript: what it does by path is the table of `e2e/peers/README.md`.
//
// The SDK declares the gRPC call with two arguments too few and has no network filter: what those need is declared here. Its
// wrappers of shared data and queues take no results, so those go to its raw imports.

export * from "@solo-io/proxy-runtime/proxy";
import {
  BaseContext, Context, Counter, FilterDataStatusValues, FilterHeadersStatusValues, GrpcStatusValues, HeaderPair, Headers,
  RootContext, WasmResultValues, continue_request, log, LogLevelValues, proxy_set_effective_context, registerRootContext,
  send_local_response, stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes, get_property } from "@solo-io/proxy-runtime/runtime";
import * as raw from "@solo-io/proxy-runtime/imports";

// The SDK declares no such import.
// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(buffer: u32, start: u32, length: u32, bytes: usize, size: usize): u32;

// @ts-ignore: decorator
@external("env", "proxy_grpc_call")
declare function grpc_call(
  cluster: usize, cluster_size: usize, service: usize, service_size: usize, method: usize, method_size: usize,
  metadata: usize, metadata_size: usize, message: usize, message_size: usize, timeout_ms: u32, token: usize): u32;

const CALL_TIMEOUT_MS: u32 = 5000;

/// Where the host leaves pointers and numbers.
class Out {
  pointer: usize = 0;
  size: usize = 0;
  number: u32 = 0;

  text(): string {
    return this.size == 0 ? "" : String.UTF8.decodeUnsafe(this.pointer, this.size);
  }
}

function at(out: Out, field: usize): usize {
  return changetype<usize>(out) + field;
}

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(String.UTF8.encode(name), String.UTF8.encode(value));
}

function getShared(key: string, out: Out): u32 {
  const name = String.UTF8.encode(key);
  return raw.proxy_get_shared_data(
    changetype<usize>(name), name.byteLength, at(out, offsetof<Out>("pointer")), at(out, offsetof<Out>("size")),
    at(out, offsetof<Out>("number")));
}

function setShared(key: string, value: string, cas: u32): u32 {
  const name = String.UTF8.encode(key);
  const bytes = String.UTF8.encode(value);
  return raw.proxy_set_shared_data(
    changetype<usize>(name), name.byteLength, changetype<usize>(bytes), bytes.byteLength, cas);
}

function shared(key: string): string {
  const out = new Out();
  return getShared(key, out) == WasmResultValues.Ok ? out.text() : "none";
}

/// Adds one to a number in shared data, and tells it.
function count(key: string): string {
  let next = "";
  let set: u32 = WasmResultValues.CasMismatch;
  while (set == WasmResultValues.CasMismatch) {
    const out = new Out();
    const known = getShared(key, out) == WasmResultValues.Ok;
    next = ((known ? I32.parseInt(out.text()) : 0) + 1).toString();
    set = setShared(key, next, known ? out.number : 0);
  }
  return next;
}

function text(path: string): string {
  return String.UTF8.decode(get_property(path));
}

function segment(path: string): string {
  return path.substring(1).split("/")[0].split("?")[0];
}

class Root extends RootContext {
  queue: u32 = 0;
  requests: Counter | null = null;
  waiting: Map<u32, u32> = new Map();

  onConfigure(size: u32): bool {
    if (!super.onConfigure(size)) return false;
    this.requests = new Counter("guest_requests");
    if (this.getConfiguration() == "tcp") return true;
    const out = new Out();
    const jobs = String.UTF8.encode("jobs");
    const registered = raw.proxy_register_shared_queue(
      changetype<usize>(jobs), jobs.byteLength, at(out, offsetof<Out>("number")));
    this.queue = out.number;
    return registered == WasmResultValues.Ok && raw.proxy_set_tick_period_milliseconds(50) == WasmResultValues.Ok;
  }

  onTick(): void {
    count("ticks");
  }

  onQueueReady(queue: u32): void {
    for (;;) {
      const out = new Out();
      const taken = raw.proxy_dequeue_shared_queue(
        queue, at(out, offsetof<Out>("pointer")), at(out, offsetof<Out>("size")));
      if (taken != WasmResultValues.Ok) return;
      setShared("job", out.text(), 0);
    }
  }

  on_grpc_receive(token: u32, size: u32): void {
    this.goOn(token, String.UTF8.decode(get_buffer_bytes(BufferTypeValues.GrpcReceiveBuffer, 0, size)));
  }

  on_grpc_close(token: u32, status: u32): void {
    this.goOn(token, status.toString());
  }

  /// The stream that waits for a call goes on, with the answer as a request header.
  private goOn(token: u32, answer: string): void {
    if (!this.waiting.has(token)) return;
    const stream = this.waiting.get(token);
    this.waiting.delete(token);
    if (proxy_set_effective_context(stream) != WasmResultValues.Ok) return;
    stream_context.headers.request.add("x-grpc", answer);
    continue_request();
  }

  createContext(id: u32): Context {
    return new Stream(id, this);
  }
}

class Stream extends Context {
  root: Root;
  wanted: string = "";

  constructor(id: u32, root: Root) {
    super(id, root);
    this.root = root;
  }

  onRequestHeaders(_: u32, end: bool): FilterHeadersStatusValues {
    const headers = stream_context.headers.request;
    this.wanted = segment(headers.get(":path"));
    headers.add("x-guest", "assemblyscript");
    const requests = this.root.requests;
    if (requests !== null) requests.increment(1);
    if (this.wanted == "headers") {
      headers.replace("x-replaced", "new");
      headers.remove("x-removed");
      headers.add("x-added", "2");
    } else if (this.wanted == "body") {
      headers.remove("content-length");
    } else if (this.wanted == "call") {
      return this.call();
    } else if (this.wanted == "grpc") {
      return this.grpc();
    } else if (this.wanted == "local") {
      send_local_response(
        418, "", String.UTF8.encode("short and stout"), [pair("x-local", "yes")], GrpcStatusValues.InvalidCode);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.wanted == "shared") {
      headers.add("x-shared", count("count"));
    } else if (this.wanted == "enqueue") {
      const job = String.UTF8.encode("job-1");
      raw.proxy_enqueue_shared_queue(this.root.queue, changetype<usize>(job), job.byteLength);
    } else if (this.wanted == "job") {
      headers.add("x-job", shared("job"));
      headers.add("x-ticks", shared("ticks"));
    } else if (this.wanted == "property") {
      const source = text("source\0address");
      const host = source.substring(0, source.lastIndexOf(":"));
      headers.add(
        "x-property",
        text("request\0method") + " " + text("request\0path") + " " + text("plugin_name") + " " + host);
    }
    return FilterHeadersStatusValues.Continue;
  }

  call(): FilterHeadersStatusValues {
    const headers: Headers = [
      pair(":method", "POST"), pair(":path", "/callout"), pair(":authority", "callout"), pair("x-origin", "status=201"),
    ];
    const sent = this.root.httpCall(
      "callout", headers, String.UTF8.encode("ping"), [], CALL_TIMEOUT_MS, this,
      (_: BaseContext, count: u32, size: usize, trailers: u32) => {
        const status = stream_context.headers.http_callback.get(":status");
        const body = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.HttpCallResponseBody, 0, size as u32));
        stream_context.headers.request.add("x-callout", status + " " + body);
        continue_request();
      });
    return sent == WasmResultValues.Ok
      ? FilterHeadersStatusValues.StopIteration
      : FilterHeadersStatusValues.Continue;
  }

  grpc(): FilterHeadersStatusValues {
    const cluster = String.UTF8.encode("grpc");
    const service = String.UTF8.encode("guest.Echo");
    const method = String.UTF8.encode("Say");
    const message = String.UTF8.encode("ping");
    const out = new Out();
    const sent = grpc_call(
      changetype<usize>(cluster), cluster.byteLength, changetype<usize>(service), service.byteLength,
      changetype<usize>(method), method.byteLength, 0, 0, changetype<usize>(message), message.byteLength,
      CALL_TIMEOUT_MS, at(out, offsetof<Out>("number")));
    if (sent != WasmResultValues.Ok) return FilterHeadersStatusValues.Continue;
    this.root.waiting.set(out.number, this.context_id);
    return FilterHeadersStatusValues.StopIteration;
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    return this.wrap(BufferTypeValues.HttpRequestBody, size, end, "[", "]");
  }

  onResponseHeaders(_: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.response.add("x-guest-response", this.root.getConfiguration());
    if (this.wanted == "body") stream_context.headers.response.remove("content-length");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    return this.wrap(BufferTypeValues.HttpResponseBody, size, end, "{", "}");
  }

  private wrap(buffer: BufferTypeValues, size: usize, end: bool, before: string, after: string): FilterDataStatusValues {
    if (this.wanted != "body") return FilterDataStatusValues.Continue;
    if (!end) return FilterDataStatusValues.StopIterationAndBuffer;
    const body = String.UTF8.encode(before + String.UTF8.decode(get_buffer_bytes(buffer, 0, size as u32)) + after);
    const set = proxy_set_buffer_bytes(buffer, 0, size as u32, changetype<usize>(body), body.byteLength);
    if (set != WasmResultValues.Ok) log(LogLevelValues.error, "guest: the body cannot be set");
    return FilterDataStatusValues.Continue;
  }
}

function exchange(buffer: BufferTypeValues, size: u32, data: string): u32 {
  const bytes = String.UTF8.encode(data);
  const set = proxy_set_buffer_bytes(buffer, 0, size, changetype<usize>(bytes), bytes.byteLength);
  if (set != WasmResultValues.Ok) log(LogLevelValues.error, "guest: the data cannot be set");
  return 0;
}

export function proxy_on_new_connection(_: u32): u32 {
  return 0;
}

export function proxy_on_downstream_data(_: u32, size: u32, end: u32): u32 {
  if (size == 0) return 0;
  const data = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.NetworkDownstreamData, 0, size));
  return exchange(BufferTypeValues.NetworkDownstreamData, size, data.toUpperCase());
}

export function proxy_on_upstream_data(_: u32, size: u32, end: u32): u32 {
  if (size == 0) return 0;
  const data = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.NetworkUpstreamData, 0, size));
  return exchange(BufferTypeValues.NetworkUpstreamData, size, "<" + data + ">");
}

registerRootContext((id: u32) => new Root(id), "guest");
