//! The binary: a folder that is broken, gets well, and breaks again; modules; the end by signal; exit codes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers as well")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_outrigger");
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const MODULE_SHA256: &str = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";

const GOOD: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: outrigger, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: WasmFilter
metadata: {name: keys, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  source: {file: {path: filter.wasm}}
";

fn eventually<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) if start.elapsed() > Duration::from_secs(30) => panic!("{why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

struct Serve {
    child: Child,
    http: String,
}

impl Serve {
    fn start(folder: &Path, run: &Path) -> Self {
        let file = run.join("addresses.json");
        let child = Command::new(BINARY)
            .args(["serve", "--xds-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--config-dir"])
            .arg(folder)
            .arg("--address-file")
            .arg(&file)
            .arg("--state-dir")
            .arg(run.join("state"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let text = eventually(|| fs::read_to_string(&file).map_err(|error| error.to_string()));
        let addresses: serde_json::Value = serde_json::from_str(&text).unwrap();
        Self { child, http: addresses["http"].as_str().unwrap().to_owned() }
    }

    /// Head and body.
    fn get(&self, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), bytes[end + 4..].to_vec())
    }

    fn text(&self, path: &str) -> (u16, String) {
        let (head, body) = self.get(path, "");
        (head[9..12].parse().unwrap(), String::from_utf8_lossy(&body).into_owned())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY).args(arguments).args(["--http-address", &self.http]).output().unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As editors do it.
fn replace(folder: &Path, text: &str) {
    fs::write(folder.join(".mesh.yaml.tmp"), text).unwrap();
    fs::rename(folder.join(".mesh.yaml.tmp"), folder.join("mesh.yaml")).unwrap();
}

#[test]
fn a_folder_that_is_broken_gets_well_and_breaks_again() {
    let (folder, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broken = GOOD.replace("port: 8080", "port: none");
    replace(folder.path(), &broken);
    fs::write(folder.path().join("filter.wasm"), MODULE).unwrap();
    let mut serve = Serve::start(folder.path(), run.path());
    assert_eq!(serve.text("/healthz").0, 200);
    eventually(|| match serve.text("/readyz") {
        (503, body) if body.contains("mesh.yaml:4: spec.listeners[0].port") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    replace(folder.path(), GOOD);
    eventually(|| match serve.text("/readyz") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let module = format!("/modules/sha256:{MODULE_SHA256}");
    let (head, body) = serve.get(&module, "");
    assert!(head.starts_with("http/1.1 200") && head.contains("immutable"), "{head}");
    assert_eq!(body, MODULE);
    let (head, body) = serve.get(&module, &format!("if-none-match: \"sha256:{MODULE_SHA256}\"\r\n"));
    assert!(head.starts_with("http/1.1 304") && body.is_empty(), "{head}");
    assert_eq!(serve.text(&module.replace("93", "94")).0, 404);
    assert_eq!(serve.text("/modules/x").0, 404);

    replace(folder.path(), &broken);
    eventually(|| {
        let (_, body) = serve.text("/v1/problems");
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        let first = &page["problems"][0];
        let is_told = page["ok"] == false && first["line"] == 4 && first["field"] == "spec.listeners[0].port";
        if is_told { Ok(()) } else { Err(body) }
    });
    assert_eq!(serve.text("/readyz").0, 200, "the last good state stays");
    assert_eq!(serve.get(&module, "").1, MODULE);
    assert!(serve.text("/metrics").1.contains("outrigger_config_problems{severity=\"error\"} 1"));

    let printed = serve.run(&["get", "WasmFilter"]);
    let table = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(table.contains("shop/keys") && table.contains("NoProxies"), "{table}");
    assert_eq!(String::from_utf8_lossy(&serve.run(&["proxy-status"]).stdout), "no proxy is connected\n");
    assert_eq!(serve.run(&["proxy-status", "nobody"]).status.code(), Some(2));

    assert!(Command::new("kill").args(["-TERM", &serve.child.id().to_string()]).status().unwrap().success());
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
}

#[test]
fn validate_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("filter.wasm"), MODULE).unwrap();
    let check = |text: &str, code: i32, expected: &str| {
        replace(folder.path(), text);
        let output = Command::new(BINARY).arg("validate").arg(folder.path()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{printed}");
        assert!(printed.contains(expected), "{printed}");
    };
    check(GOOD, 0, "valid: 2 objects");
    check(&GOOD.replace("filter.wasm", "missing.wasm"), 1, "mesh.yaml:11: spec.source.file.path");
    check("a: [", 1, "mesh.yaml:");
}
