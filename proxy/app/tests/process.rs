//! The binary as a process: validation, the admin interface, children, signals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// A plugin that does nothing but be one.
const PLUGIN: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 1024)
    (func (export "proxy_on_context_create") (param i32 i32)))"#;
/// One that refuses its configuration.
const REFUSING: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 1024)
    (func (export "proxy_on_configure") (param i32 i32) (result i32) i32.const 0))"#;

fn proxy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
    command.stdin(Stdio::null());
    command
}

/// An admin interface, a cluster, and a listener that answers by itself; `filters` go before the router.
fn bootstrap(filters: &str) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
node: {{id: n1, cluster: shop/gateway, metadata: {{A: 1}}}}
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {HCM}
          stat_prefix: in
          http_filters: [{filters} {{name: router, typed_config: {{"@type": {ROUTER}}}}}]
          route_config:
            name: inline
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: served}}}}}}]
  clusters:
  - name: up
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9}}}}}}}}]}}]
"#
    )
}

fn plugin(file: &Path, policy: &str) -> String {
    format!(
        r#"{{name: w, typed_config: {{"@type": {WASM}, config: {{name: w, failure_policy: {policy},
           vm_config: {{runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: "{}"}}}}}}}}}}}},"#,
        file.display()
    )
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn validate(&self, config: &str, arguments: &[&str]) -> Output {
        let file = self.write("bootstrap.yaml", config);
        let mut command = proxy();
        command.arg("-c").arg(file).args(["--mode", "validate"]).args(arguments);
        command.arg("--wasm-cache-dir").arg(self.path("cache")).output().unwrap()
    }

    fn serve(&self, config: &str) -> Running {
        let (file, address) = (self.write("bootstrap.yaml", config), self.path("address"));
        let mut command = proxy();
        command.arg("-c").arg(file).arg("--admin-address-path").arg(&address).args(["--concurrency", "1"]);
        command.arg("--wasm-cache-dir").arg(self.path("cache")).args(["--drain-time-s", "5"]);
        let log = std::fs::File::create(self.path("log")).unwrap();
        let process = command.stderr(log).spawn().unwrap();
        let mut running = Running { process, admin: None };
        let admin = eventually(|| {
            assert_eq!(running.process.try_wait().unwrap(), None, "{}", self.log());
            std::fs::read_to_string(&address).ok()?.parse().ok()
        });
        running.admin = Some(admin);
        running
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Running {
    process: Child,
    admin: Option<SocketAddr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Running {
    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        ask(self.admin.unwrap(), method, path)
    }

    fn json(&self, path: &str) -> Value {
        let (status, text) = self.ask("GET", path);
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    fn live(&self) {
        eventually(|| (self.ask("GET", "/ready").0 == 200).then_some(()));
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status();
        assert!(killed.unwrap().success());
    }

    fn end(&mut self) -> Option<i32> {
        eventually(|| self.process.try_wait().unwrap()).code()
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // Close-delimited: HTTP/1.0 needs no chunk decoding here.
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, body.to_owned())
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_good_configuration_validates() {
    let folder = Folder::new();
    let output = folder.validate(&bootstrap(""), &[]);
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.starts_with("configuration '") && stdout.ends_with("bootstrap.yaml' OK\n"), "{stdout}");
}

#[test]
fn every_problem_is_printed_with_its_path() {
    let folder = Folder::new();
    let config = bootstrap("").replace("stat_prefix", "stat_prefx").replace("clusters:", "cluster:");
    let output = folder.validate(&config, &[]);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    for path in [
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefx",
        "static_resources.cluster:",
    ] {
        assert!(stderr.contains(path), "{path} in {stderr}");
    }
    assert!(stderr.contains("2 problem(s)"), "{stderr}");

    let output = folder.validate("a: [", &[]);
    assert_eq!(output.status.code(), Some(1));
    let output = proxy().args(["--mode", "validate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn unknown_static_fields_are_warnings_where_that_is_allowed() {
    let folder = Folder::new();
    let config = bootstrap("").replace("stat_prefix: in", "stat_prefix: in\n          of_tomorrow: {a: [1]}");
    let strict = folder.validate(&config, &[]);
    let (_, stderr) = texts(&strict);
    assert_eq!(strict.status.code(), Some(1));
    assert!(stderr.contains("typed_config.of_tomorrow"), "{stderr}");

    let allowed = ["--allow-unknown-static-fields"];
    let lenient = folder.validate(&config, &allowed);
    let (stdout, stderr) = texts(&lenient);
    assert_eq!(lenient.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("warning: ") && stderr.contains("typed_config.of_tomorrow"), "{stderr}");
    assert!(stdout.contains("OK"), "{stdout}");
    // Of both texts, and only unknown fields: a wrong value stays a problem.
    let both = ["--allow-unknown-static-fields", "--config-yaml", "node: {colour: red}"];
    let (_, stderr) = texts(&folder.validate(&config, &both));
    assert!(stderr.contains("--config-yaml: line 1: node.colour") && stderr.contains("of_tomorrow"), "{stderr}");
    let wrong = folder.validate(&config.replace("[{match:", "[{status: x, match:").replace("200,", "twice,"), &allowed);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(texts(&wrong).1.contains("direct_response.status"), "{}", texts(&wrong).1);

    // The same in the wire format: field 1000 of type varint.
    let node = [0x0a, 0x03, 0x0a, 0x01, b'a', 0xc0, 0x3e, 0x01];
    let file = folder.write("bootstrap.pb", node);
    let run = |arguments: &[&str]| {
        proxy().arg("-c").arg(&file).args(["--mode", "validate"]).args(arguments).output().unwrap()
    };
    let strict = run(&[]);
    assert!(texts(&strict).1.contains("unknown field 1000"), "{}", texts(&strict).1);
    let lenient = run(&allowed);
    assert_eq!(lenient.status.code(), Some(0), "{}", texts(&lenient).1);
    assert!(texts(&lenient).1.contains("warning: unknown field 1000"), "{}", texts(&lenient).1);
}

#[test]
fn the_command_line_is_laid_over_the_file() {
    let folder = Folder::new();
    let output = folder.validate(&bootstrap(""), &["--config-yaml", "static_resources: {clusters: [{name: up}]}"]);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "lists are joined, so the name stands there twice");
    assert!(stderr.contains("clusters[1]"), "{stderr}");
    let output = folder.validate(&bootstrap(""), &["--config-yaml", "node: {cluster: other}"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn modules_are_checked_too() {
    let folder = Folder::new();
    let good = folder.write("good.wasm", wat::parse_str(PLUGIN).unwrap());
    let refusing = folder.write("refusing.wasm", wat::parse_str(REFUSING).unwrap());
    let rubbish = folder.write("rubbish.wasm", b"no module");
    for (file, problem) in [
        (&good, None),
        (&refusing, Some("refused its configuration")),
        (&rubbish, Some("not a Wasm module")),
        (&folder.path("none.wasm"), Some("none.wasm: No such file")),
    ] {
        let output = folder.validate(&bootstrap(&plugin(file, "FAIL_CLOSED")), &[]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.success(), problem.is_none(), "{stderr}");
        if let Some(problem) = problem {
            assert!(stderr.contains("Listener front: plugin w: ") && stderr.contains(problem), "{stderr}");
        }
    }
    // What compiled is kept for the next start.
    assert!(std::fs::read_dir(folder.path("cache")).unwrap().count() >= 2);
}

#[test]
fn a_static_filter_that_fails_ends_the_start_unless_its_policy_is_open() {
    let folder = Folder::new();
    let rubbish = folder.write("rubbish.wasm", b"no module");
    let file = folder.write("bootstrap.yaml", bootstrap(&plugin(&rubbish, "FAIL_CLOSED")));
    let output = proxy().arg("-c").arg(file).arg("--wasm-cache-dir").arg(folder.path("cache")).output().unwrap();
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("front: plugin w: not a Wasm module"), "{stderr}");

    let running = folder.serve(&bootstrap(&plugin(&rubbish, "FAIL_OPEN")));
    running.live();
    assert!(folder.log().contains("FAIL_OPEN"), "{}", folder.log());
    assert_eq!(front(&running), (200, "served".to_owned()));
}

#[test]
fn a_filter_runs_without_a_cache_and_from_one() {
    let folder = Folder::new();
    let file = folder.write("plugin.wasm", wat::parse_str(PLUGIN).unwrap());
    let config = bootstrap(&plugin(&file, "FAIL_CLOSED"));
    // A file where the folder should be.
    let cache = folder.write("cache", "");
    let running = folder.serve(&config);
    running.live();
    assert_eq!(front(&running), (200, "served".to_owned()));
    assert!(folder.log().contains("no cache for compiled filters"), "{}", folder.log());
    drop(running);

    std::fs::remove_file(cache).unwrap();
    for (hits, misses) in [(0, 1), (1, 0)] {
        std::fs::remove_file(folder.path("address")).unwrap();
        let running = folder.serve(&config);
        running.live();
        assert_eq!(front(&running), (200, "served".to_owned()));
        let (_, stats) = running.ask("GET", "/stats?filter=^wasm.compile_cache");
        let expected = format!(
            "wasm.compile_cache_disk_hits: {hits}\nwasm.compile_cache_hits: {hits}\nwasm.compile_cache_misses: {misses}\n"
        );
        assert_eq!(stats, expected);
    }
}

fn front(running: &Running) -> (u16, String) {
    let listeners = running.json("/listeners?format=json");
    let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    let address = format!("{}:{}", address["address"].as_str().unwrap(), address["port_value"]);
    ask_http11(address.parse().unwrap())
}

/// The data plane doesn't take HTTP/1.0.
fn ask_http11(address: SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn the_admin_interface_has_envoys_shapes() {
    let folder = Folder::new();
    let running = folder.serve(&bootstrap(""));
    running.live();
    assert_eq!(running.ask("GET", "/ready"), (200, "LIVE\n".to_owned()));
    assert_eq!(front(&running), (200, "served".to_owned()));

    let info = running.json("/server_info");
    assert_eq!((&info["state"], &info["node"]["id"]), (&"LIVE".into(), &"n1".into()));
    assert_eq!(info["node"]["metadata"]["A"], 1);
    assert_eq!(info["command_line_options"]["concurrency"], 1);

    let clusters = running.json("/clusters?format=json");
    let host = &clusters["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(clusters["cluster_statuses"][0]["name"], "up");
    assert_eq!(host["address"]["socket_address"]["port_value"], 9);
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let (_, text) = running.ask("GET", "/clusters");
    assert!(text.contains("up::127.0.0.1:9::cx_active::0\n") && text.contains("up::added_via_api::false\n"), "{text}");

    let stats = running.json("/stats?format=json&filter=^server.live$");
    assert_eq!(stats["stats"][0]["value"], 1);
    assert!(running.ask("GET", "/stats/prometheus").1.contains("envoy_listener_manager_workers_started 1\n"));
    assert!(running.ask("GET", "/stats?usedonly&filter=^server.state").1.contains("server.state: 0\n"));

    assert!(running.json("/memory")["allocated"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(running.ask("POST", "/logging?level=loud").0, 400);
    assert!(running.ask("POST", "/logging?paths=wasm:debug").1.contains("wasm: debug\n"));
    for path in ["/logging", "/quitquitquit", "/drain_listeners", "/healthcheck/fail"] {
        assert_eq!(running.ask("GET", path).0, 405, "{path}");
    }
    assert_eq!(running.ask("GET", "/nothing").0, 404);
    assert_eq!(running.ask("PUT", "/stats").0, 405);
    assert!(running.ask("GET", "/help").1.contains("/config_dump"));

    assert_eq!(running.ask("POST", "/healthcheck/fail").0, 200);
    assert_eq!(running.ask("GET", "/ready"), (503, "DRAINING\n".to_owned()));
    assert_eq!(running.ask("POST", "/healthcheck/ok").0, 200);
    assert_eq!(running.ask("GET", "/ready").0, 200);
}

#[test]
fn the_configuration_is_dumped() {
    let folder = Folder::new();
    let running = folder.serve(&bootstrap(""));
    running.live();
    let dump = running.json("/config_dump?include_eds");
    let part = |name: &str| {
        let configs = dump["configs"].as_array().unwrap();
        let is = |config: &&Value| config["@type"].as_str().unwrap().ends_with(&format!(".{name}"));
        configs.iter().find(is).unwrap_or_else(|| panic!("no {name} in {dump}"))
    };
    assert_eq!(part("BootstrapConfigDump")["bootstrap"]["node"]["id"], "n1");
    assert_eq!(part("ClustersConfigDump")["static_clusters"][0]["cluster"]["name"], "up");
    assert_eq!(part("ListenersConfigDump")["static_listeners"][0]["listener"]["name"], "front");
    assert_eq!(part("RoutesConfigDump")["static_route_configs"][0]["route_config"]["name"], "inline");
    let endpoints = part("EndpointsConfigDump");
    assert_eq!(endpoints["static_endpoint_configs"][0]["endpoint_config"]["cluster_name"], "up");

    let one = running.json("/config_dump?resource=static_clusters&mask=cluster.name");
    assert_eq!(one["configs"][0]["cluster"]["name"], "up");
    assert_eq!(one["configs"][0]["cluster"].as_object().unwrap().len(), 2, "{one}");
    let none = running.json("/config_dump?resource=static_clusters&name_regex=^x$");
    assert!(none["configs"].as_array().is_none_or(Vec::is_empty), "{none}");
    assert_eq!(running.ask("GET", "/config_dump?resource=everything").0, 404);
    assert_eq!(running.ask("GET", "/config_dump?name_regex=(").0, 400);
}

#[test]
fn what_is_missing_is_named() {
    let folder = Folder::new();
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = bootstrap("").replace("port_value: 9}", &format!("port_value: {port}}}"))
        + r#"
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: up}}]}
  lds_config: {resource_api_version: V3, ads: {}}
"#;
    let config = config.replace(
        "  - name: up\n",
        "  - name: up\n    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
         {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
         explicit_http_config: {http2_protocol_options: {}}}\n",
    );
    let mut running = folder.serve(&config);
    let text = eventually(|| {
        let (status, text) = running.ask("GET", "/ready");
        assert_eq!(status, 503);
        text.starts_with("INITIALIZING\n").then_some(text)
    });
    assert!(text.contains("Listener: no answer yet"), "{text}");
    // What stands in the bootstrap serves meanwhile.
    assert_eq!(front(&running), (200, "served".to_owned()));
    assert!(running.ask("GET", "/stats?filter=control_plane").1.contains("control_plane.connected_state: 0\n"));
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
}

#[test]
fn signals_end_it_and_others_do_not() {
    let folder = Folder::new();
    let mut running = folder.serve(&bootstrap(""));
    running.live();
    running.signal("HUP");
    running.signal("USR1");
    assert_eq!(running.ask("GET", "/ready").0, 200);
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));

    let folder = Folder::new();
    let mut running = folder.serve(&bootstrap(""));
    running.live();
    assert_eq!(running.ask("POST", "/quitquitquit").0, 200);
    assert_eq!(running.end(), Some(0));
}

#[test]
fn a_port_that_is_taken_ends_the_start() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // The listener's address is the second one with port 0.
    let config = bootstrap("").replacen("port_value: 0", "port_value: 1", 1);
    let config =
        config.replace("port_value: 0", &format!("port_value: {port}")).replace("port_value: 1}", "port_value: 0}");
    let file = folder.write("bootstrap.yaml", config);
    let output = proxy().arg("-c").arg(file).output().unwrap();
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("front: cannot bind '127.0.0.1:{port}'")), "{stderr}");
}

#[test]
fn the_compiler_is_bounded() {
    let compile = |memory: &str, input: &[u8]| {
        let mut command = proxy();
        command.args(["compile", "--memory-bytes", memory]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end before it reads.
        _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let wasm = wat::parse_str(PLUGIN).unwrap();
    let output = compile("2147483648", &wasm);
    assert!(output.status.success() && output.stdout.starts_with(b"OUTRMC01"), "{}", texts(&output).1);
    let output = compile("2147483648", b"rubbish");
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("not a Wasm module"));
    // More than what is mapped already has to be mapped for it.
    let functions = "(func (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))".repeat(5000);
    let large =
        wat::parse_str(PLUGIN.replace("(func (export \"malloc\")", &format!("{functions} (func (export \"malloc\")")));
    assert!(!compile("1000000", &large.unwrap()).status.success());
}

#[test]
fn machine_code_says_what_it_is() {
    let folder = Folder::new();
    let wasm = wat::parse_str(PLUGIN).unwrap();
    let module = folder.write("a.wasm", &wasm);
    let (one, two) = (folder.path("one.code"), folder.path("two.code"));
    for target in [&one, &two] {
        let output = proxy().arg("compile").arg(&module).arg("-o").arg(target).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{}", texts(&output).1);
    }
    let bytes = std::fs::read(&one).unwrap();
    assert_eq!(bytes, std::fs::read(&two).unwrap(), "the same module and engine give the same code");
    let (envelope, header, code) = outrigger_proto::machine_code::split(&bytes).unwrap();
    assert!(envelope.signature.is_empty());
    assert_eq!(header.module_sha256[..], Sha256::digest(&wasm)[..]);
    assert_eq!(header.code_sha256[..], Sha256::digest(code)[..]);
    assert_eq!((header.code_bytes, header.engine.len()), (code.len() as u64, 32));
    assert!(code.starts_with(b"\x7fELF"));

    let output = proxy().arg("compile").arg(folder.path("none.wasm")).output().unwrap();
    assert!(!output.status.success() && texts(&output).1.contains("none.wasm"), "{}", texts(&output).1);
    let output = proxy().arg("compile").arg(&module).arg("-o").arg(folder.path("no/folder")).output().unwrap();
    assert!(!output.status.success() && texts(&output).1.contains("no/folder"), "{}", texts(&output).1);
}

#[test]
fn a_key_that_is_none_ends_the_start() {
    let folder = Folder::new();
    let (config, key) = (folder.write("bootstrap.yaml", bootstrap("")), folder.write("key.pub", "no key"));
    let output = proxy().arg("-c").arg(config).arg("--wasm-code-key").arg(key).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("key.pub: holds no public key"), "{}", texts(&output).1);
}

#[test]
fn the_version_and_the_help_are_told() {
    let output = proxy().arg("--version").output().unwrap();
    assert!(texts(&output).0.starts_with("outrigger-proxy outrigger/"), "{output:?}");
    let output = proxy().arg("--help").output().unwrap();
    let (stdout, _) = texts(&output);
    assert!(stdout.contains("Examples:") && stdout.contains("--config-path"), "{stdout}");
    assert!(stdout.contains("  compile ") && stdout.contains("--wasm-code-key"), "{stdout}");
    assert!(!stdout.contains("  render "), "children are nobody's business: {stdout}");
}
