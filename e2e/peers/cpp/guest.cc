// The guest of the SDK tests in C++: what it does by path is the table of `e2e/peers/README.md`.
//
// Written against the ABI (0.2.1) itself, with Debian's clang, wasi-libc and libc++.

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

using std::string;
using std::string_view;

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) extern "C" uint32_t name
#define EXPORT(name) __attribute__((export_name(#name))) extern "C"

IMPORT(proxy_set_tick_period_milliseconds)(uint32_t);
IMPORT(proxy_get_property)(const char *, size_t, char **, size_t *);
IMPORT(proxy_send_local_response)(uint32_t, const char *, size_t, const char *, size_t, const char *, size_t, int32_t);
IMPORT(proxy_continue_stream)(uint32_t);
IMPORT(proxy_get_shared_data)(const char *, size_t, char **, size_t *, uint32_t *);
IMPORT(proxy_set_shared_data)(const char *, size_t, const char *, size_t, uint32_t);
IMPORT(proxy_register_shared_queue)(const char *, size_t, uint32_t *);
IMPORT(proxy_dequeue_shared_queue)(uint32_t, char **, size_t *);
IMPORT(proxy_enqueue_shared_queue)(uint32_t, const char *, size_t);
IMPORT(proxy_add_header_map_value)(uint32_t, const char *, size_t, const char *, size_t);
IMPORT(proxy_replace_header_map_value)(uint32_t, const char *, size_t, const char *, size_t);
IMPORT(proxy_remove_header_map_value)(uint32_t, const char *, size_t);
IMPORT(proxy_get_header_map_value)(uint32_t, const char *, size_t, char **, size_t *);
IMPORT(proxy_get_buffer_bytes)(uint32_t, uint32_t, uint32_t, char **, size_t *);
IMPORT(proxy_set_buffer_bytes)(uint32_t, uint32_t, uint32_t, const char *, size_t);
IMPORT(proxy_http_call)(const char *, size_t, const char *, size_t, const char *, size_t, const char *, size_t, uint32_t,
                        uint32_t *);
IMPORT(proxy_grpc_call)(const char *, size_t, const char *, size_t, const char *, size_t, const char *, size_t,
                        const char *, size_t, uint32_t, uint32_t *);
IMPORT(proxy_set_effective_context)(uint32_t);
IMPORT(proxy_define_metric)(uint32_t, const char *, size_t, uint32_t *);
IMPORT(proxy_increment_metric)(uint32_t, int64_t);

namespace {

constexpr uint32_t Ok = 0, CasMismatch = 8;
constexpr uint32_t Continue = 0, StopIteration = 1, StopIterationAndBuffer = 1;
constexpr uint32_t RequestHeaders = 0, ResponseHeaders = 2, CallHeaders = 6;
constexpr uint32_t RequestBody = 0, ResponseBody = 1, Downstream = 2, Upstream = 3, CallBody = 4, GrpcMessage = 5,
                   PluginConfiguration = 7;
constexpr uint32_t CallTimeoutMs = 5000;

/// What the host wrote into memory of ours, which is ours to free.
string taken(char *data, size_t size) {
  string text(data == nullptr ? "" : data, data == nullptr ? 0 : size);
  free(data);
  return text;
}

string property(std::initializer_list<string_view> path) {
  string joined;
  for (string_view part : path) joined.append(joined.empty() ? "" : string(1, '\0')).append(part);
  char *data = nullptr;
  size_t size = 0;
  if (proxy_get_property(joined.data(), joined.size(), &data, &size) != Ok) return "";
  return taken(data, size);
}

string header(uint32_t map, string_view name) {
  char *data = nullptr;
  size_t size = 0;
  if (proxy_get_header_map_value(map, name.data(), name.size(), &data, &size) != Ok) return "";
  return taken(data, size);
}

void add(uint32_t map, string_view name, string_view value) {
  proxy_add_header_map_value(map, name.data(), name.size(), value.data(), value.size());
}

void remove(uint32_t map, string_view name) { proxy_remove_header_map_value(map, name.data(), name.size()); }

string bytes(uint32_t buffer, uint32_t size) {
  char *data = nullptr;
  size_t got = 0;
  if (proxy_get_buffer_bytes(buffer, 0, size, &data, &got) != Ok) return "";
  return taken(data, got);
}

string shared(string_view key, uint32_t *cas) {
  char *data = nullptr;
  size_t size = 0;
  if (proxy_get_shared_data(key.data(), key.size(), &data, &size, cas) != Ok) return "none";
  return taken(data, size);
}

/// Adds one to a number in shared data, and tells it.
string count(string_view key) {
  for (;;) {
    uint32_t cas = 0;
    const string next = std::to_string(strtoul(shared(key, &cas).c_str(), nullptr, 10) + 1);
    if (proxy_set_shared_data(key.data(), key.size(), next.data(), next.size(), cas) != CasMismatch) return next;
  }
}

/// A header map as the ABI writes it: the count, all sizes, then each name and value with a NUL behind it.
string pairs(std::vector<std::pair<string_view, string_view>> headers) {
  string out;
  auto number = [&out](uint32_t n) { out.append(reinterpret_cast<const char *>(&n), sizeof n); };
  number(headers.size());
  for (auto &[name, value] : headers) number(name.size()), number(value.size());
  for (auto &[name, value] : headers) out.append(name).append(1, '\0').append(value).append(1, '\0');
  return out;
}

struct Root {
  string word;
  uint32_t queue = 0;
  uint32_t requests = 0;
};

std::map<uint32_t, Root> roots;
/// The root of each stream, and the path that it asked for.
std::map<uint32_t, uint32_t> parents;
std::map<uint32_t, string> paths;
/// Who waits for the answer to which call.
std::map<uint32_t, uint32_t> waiting;

string_view first_segment(string_view path) {
  path.remove_prefix(path.empty() ? 0 : 1);
  return path.substr(0, path.find_first_of("/?"));
}

uint32_t call(uint32_t stream) {
  const string_view cluster = "callout", body = "ping";
  const string headers = pairs(
      {{":method", "POST"}, {":path", "/callout"}, {":authority", "callout"}, {"x-origin", "status=201"}});
  uint32_t token = 0;
  if (proxy_http_call(cluster.data(), cluster.size(), headers.data(), headers.size(), body.data(), body.size(), nullptr,
                      0, CallTimeoutMs, &token) != Ok) {
    return Continue;
  }
  waiting[token] = stream;
  return StopIteration;
}

uint32_t grpc(uint32_t stream) {
  const string_view cluster = "grpc", service = "guest.Echo", method = "Say", message = "ping";
  uint32_t token = 0;
  if (proxy_grpc_call(cluster.data(), cluster.size(), service.data(), service.size(), method.data(), method.size(),
                      nullptr, 0, message.data(), message.size(), CallTimeoutMs, &token) != Ok) {
    return Continue;
  }
  waiting[token] = stream;
  return StopIteration;
}

/// The stream that waits for a call goes on, with the answer as a request header.
void go_on(uint32_t token, string_view name, string_view value) {
  const auto found = waiting.find(token);
  if (found == waiting.end()) return;
  const uint32_t stream = found->second;
  waiting.erase(found);
  if (proxy_set_effective_context(stream) != Ok) return;
  add(RequestHeaders, name, value);
  proxy_continue_stream(0);
}

void properties() {
  const string source = property({"source", "address"});
  const string words = property({"request", "method"}) + " " + property({"request", "path"}) + " " +
                       property({"plugin_name"}) + " " + source.substr(0, source.rfind(':'));
  add(RequestHeaders, "x-property", words);
}

void wrap(uint32_t buffer, uint32_t size, string_view before, string_view after) {
  const string body = string(before) + bytes(buffer, size) + string(after);
  proxy_set_buffer_bytes(buffer, 0, size, body.data(), body.size());
}

} // namespace

EXPORT(proxy_abi_version_0_2_1) void abi_version() {}
EXPORT(malloc) void *guest_malloc(size_t size) { return malloc(size); }

EXPORT(proxy_on_context_create) void on_context_create(uint32_t id, uint32_t parent) {
  if (parent == 0) {
    roots[id];
  } else {
    parents[id] = parent;
  }
}

EXPORT(proxy_on_vm_start) uint32_t on_vm_start(uint32_t, uint32_t) { return 1; }

EXPORT(proxy_on_configure) uint32_t on_configure(uint32_t id, uint32_t size) {
  Root &root = roots[id];
  root.word = bytes(PluginConfiguration, size);
  if (root.word != "tcp") {
    const string_view jobs = "jobs";
    if (proxy_register_shared_queue(jobs.data(), jobs.size(), &root.queue) != Ok) return 0;
    if (proxy_set_tick_period_milliseconds(50) != Ok) return 0;
  }
  const string_view name = "guest_requests";
  return proxy_define_metric(0, name.data(), name.size(), &root.requests) == Ok;
}

EXPORT(proxy_on_tick) void on_tick(uint32_t) { count("ticks"); }

EXPORT(proxy_on_queue_ready) void on_queue_ready(uint32_t, uint32_t queue) {
  char *data = nullptr;
  size_t size = 0;
  while (proxy_dequeue_shared_queue(queue, &data, &size) == Ok) {
    const string job = taken(data, size);
    const string_view key = "job";
    proxy_set_shared_data(key.data(), key.size(), job.data(), job.size(), 0);
    data = nullptr, size = 0;
  }
}

EXPORT(proxy_on_request_headers) uint32_t on_request_headers(uint32_t id, uint32_t, uint32_t) {
  const Root &root = roots[parents[id]];
  const string path = paths[id] = header(RequestHeaders, ":path");
  add(RequestHeaders, "x-guest", "cpp");
  proxy_increment_metric(root.requests, 1);
  const string_view wanted = first_segment(path);
  if (wanted == "headers") {
    const string_view name = "x-replaced", value = "new";
    proxy_replace_header_map_value(RequestHeaders, name.data(), name.size(), value.data(), value.size());
    remove(RequestHeaders, "x-removed");
    add(RequestHeaders, "x-added", "2");
  } else if (wanted == "body") {
    remove(RequestHeaders, "content-length");
  } else if (wanted == "call") {
    return call(id);
  } else if (wanted == "grpc") {
    return grpc(id);
  } else if (wanted == "local") {
    const string headers = pairs({{"x-local", "yes"}});
    const string_view body = "short and stout";
    proxy_send_local_response(418, nullptr, 0, body.data(), body.size(), headers.data(), headers.size(), -1);
    return StopIteration;
  } else if (wanted == "shared") {
    add(RequestHeaders, "x-shared", count("count"));
  } else if (wanted == "enqueue") {
    const string_view job = "job-1";
    proxy_enqueue_shared_queue(root.queue, job.data(), job.size());
  } else if (wanted == "job") {
    uint32_t cas = 0;
    add(RequestHeaders, "x-job", shared("job", &cas));
    add(RequestHeaders, "x-ticks", shared("ticks", &cas));
  } else if (wanted == "property") {
    properties();
  }
  return Continue;
}

EXPORT(proxy_on_request_body) uint32_t on_request_body(uint32_t id, uint32_t size, uint32_t end) {
  if (first_segment(paths[id]) != "body") return Continue;
  if (end == 0) return StopIterationAndBuffer;
  wrap(RequestBody, size, "[", "]");
  return Continue;
}

EXPORT(proxy_on_response_headers) uint32_t on_response_headers(uint32_t id, uint32_t, uint32_t) {
  add(ResponseHeaders, "x-guest-response", roots[parents[id]].word);
  if (first_segment(paths[id]) == "body") remove(ResponseHeaders, "content-length");
  return Continue;
}

EXPORT(proxy_on_response_body) uint32_t on_response_body(uint32_t id, uint32_t size, uint32_t end) {
  if (first_segment(paths[id]) != "body") return Continue;
  if (end == 0) return StopIterationAndBuffer;
  wrap(ResponseBody, size, "{", "}");
  return Continue;
}

EXPORT(proxy_on_http_call_response)
void on_http_call_response(uint32_t, uint32_t token, uint32_t, uint32_t size, uint32_t) {
  go_on(token, "x-callout", header(CallHeaders, ":status") + " " + bytes(CallBody, size));
}

EXPORT(proxy_on_grpc_receive) void on_grpc_receive(uint32_t, uint32_t token, uint32_t size) {
  go_on(token, "x-grpc", bytes(GrpcMessage, size));
}

EXPORT(proxy_on_grpc_close) void on_grpc_close(uint32_t, uint32_t token, uint32_t status) {
  go_on(token, "x-grpc", std::to_string(status));
}

EXPORT(proxy_on_new_connection) uint32_t on_new_connection(uint32_t) { return Continue; }

EXPORT(proxy_on_downstream_data) uint32_t on_downstream_data(uint32_t, uint32_t size, uint32_t) {
  string data = bytes(Downstream, size);
  for (char &c : data) c = 'a' <= c && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  proxy_set_buffer_bytes(Downstream, 0, size, data.data(), data.size());
  return Continue;
}

EXPORT(proxy_on_upstream_data) uint32_t on_upstream_data(uint32_t, uint32_t size, uint32_t) {
  if (size > 0) wrap(Upstream, size, "<", ">");
  return Continue;
}

EXPORT(proxy_on_done) uint32_t on_done(uint32_t) { return 1; }

EXPORT(proxy_on_delete) void on_delete(uint32_t id) {
  roots.erase(id);
  parents.erase(id);
  paths.erase(id);
}
