//! Code that is fetched over HTTP: through the transport socket of its cluster and in its protocol, once for a digest; and
//! the words in which it isn't had.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::guest::assemble;
use outrigger_e2e::modules::sha256;
use outrigger_e2e::parser::header;
use outrigger_e2e::tls::{Authority, downstream, replace, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, Origin, Request, eventually};
use serde_json::{Value, json};

const STORE: &str = "store.test";

/// Where a module lies: behind TLS, with a certificate for [`STORE`] and another one for whoever names nobody.
struct Store {
    module: Vec<u8>,
    authority: Authority,
    origin: Origin,
    secured: DataPlane,
}

impl Store {
    fn open() -> Store {
        let script = "request_headers:\n add_header_map_value 0 'x-guest' 'here'";
        let module = wat::parse_str(assemble("stored", "0_2_1", script)).expect("a module");
        let origin = Origin::answering("store", module.clone()).expect("an origin");
        let authority = Authority::new("store").expect("an authority");
        let issue = |name: &str| authority.issue(name, "spiffe://mesh/store").expect("a leaf").config();
        let mut listener: Value = HttpListener::new("tls", &json!([route("/", "o")])).into();
        listener["filter_chains"][0]["transport_socket"] = downstream(&json!({"common_tls_context": {
            "tls_certificates": [issue("other.test"), issue(STORE)],
            "alpn_protocols": ["h2", "http/1.1"],
        }}));
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
        let secured = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the store starts");
        Store { module, authority, origin, secured }
    }

    fn address(&self) -> SocketAddr {
        self.secured.listener("tls").expect("its listener")
    }

    /// A filter whose code lies here.
    fn filter(&self, name: &str, uri: &str) -> Value {
        let code = json!({"remote": {
            "http_uri": {"uri": uri, "cluster": "store", "timeout": "10s"},
            "sha256": sha256(&self.module),
            "retry_policy": {"num_retries": 2, "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"}},
        }});
        let mut filter = wasm_filter(name, Path::new("unused"), &json!({}));
        filter["typed_config"]["config"]["vm_config"]["code"] = code;
        filter
    }
}

/// A cluster with TLS that trusts an authority, and names and checks whom it asks.
fn trusting(authority: &Authority, store: SocketAddr) -> Value {
    let validation = json!({"trusted_ca": {"inline_string": authority.pem()}});
    let mut cluster = cluster("store", &[store]);
    cluster["transport_socket"] = upstream(&json!({"common_tls_context": {"validation_context": validation}}));
    cluster
}

/// `protocol`: which one, of the HTTP options.
fn naming(cluster: Value, protocol: &Value) -> Value {
    let options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
    });
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    with(cluster, json!({"typed_extension_protocol_options": {name: with(options, protocol.clone())}}))
}

fn proxy(origin: &Origin, store: Value, filters: &[Value]) -> Bootstrap {
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).cluster(store);
    filters.iter().enumerate().fold(bootstrap, |bootstrap, (at, filter)| {
        bootstrap.listener(HttpListener::new(&format!("l{at}"), &json!([route("/", "o")])).filter(filter.clone()))
    })
}

fn start(bootstrap: &Bootstrap, own_cache: bool) -> DataPlane {
    let options = Options { own_cache, ..Options::default() };
    DataPlane::start_with(Peer::Outrigger, bootstrap, &options).expect("the proxy starts")
}

fn stat(plane: &DataPlane, name: &str) -> u64 {
    plane.admin.stat(&format!("wasm.{name}")).expect("a statistic")
}

/// How remote code was come by.
fn loads(plane: &DataPlane) -> [u64; 5] {
    let remote = ["misses", "hits", "negative_hits", "entries"].map(|name| format!("remote_load_cache_{name}"));
    let [misses, hits, negative_hits, entries] = remote.map(|name| stat(plane, &name));
    [misses, hits, negative_hits, entries, stat(plane, "compile_cache_disk_hits")]
}

/// Why a proxy with a static filter that it can't have doesn't serve.
fn refusal(bootstrap: &Bootstrap) -> String {
    let options = Options { until_ready: false, own_cache: true, ..Options::default() };
    match DataPlane::start_with(Peer::Outrigger, bootstrap, &options) {
        Err(error) => format!("{error:#}"),
        Ok(mut plane) => eventually(DEADLINE, || match plane.process.ended() {
            Some(_) => Ok(plane.process.log()),
            None => Err("it runs"),
        })
        .expect("it ends"),
    }
}

#[test]
fn code_comes_through_its_clusters_tls_and_once_for_its_digest() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    for protocol in [
        json!({"explicit_http_config": {"http_protocol_options": {}}}),
        json!({"explicit_http_config": {"http2_protocol_options": {}}}),
        // The store chooses HTTP/2.
        json!({"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}),
    ] {
        let store = Store::open();
        let cluster = naming(trusting(&store.authority, store.address()), &protocol);
        let uri = format!("https://{STORE}:8443/guest.wasm?v=1");
        let filters = [store.filter("one", &uri), store.filter("two", &uri)];
        let bootstrap = proxy(&origin, cluster, &filters);
        let plane = start(&bootstrap, true);
        for listener in ["l0", "l1"] {
            let response = Request::get("/").send(plane.listener(listener).expect("its listener")).expect("an answer");
            assert_eq!((response.status, response.seen("x-guest").as_deref()), (200, Some("here")), "{protocol}");
        }
        let asked = store.origin.seen();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(
            (asked[0].path.as_str(), header(&asked[0].headers, "host")),
            ("/guest.wasm?v=1", Some("store.test:8443"))
        );
        assert_eq!(loads(&plane), [1, 1, 0, 1, 0]);
        assert_eq!((stat(&plane, "remote_load_fetch_successes"), stat(&plane, "remote_load_fetch_failures")), (1, 0));
        let runtime = ["created", "active"].map(|name| stat(&plane, &format!("envoy.wasm.runtime.wasmtime.{name}")));
        assert_eq!(runtime, [2, 2], "a VM for each of two ids");
        // Whoever starts where it was compiled before asks nobody.
        drop((start(&bootstrap, false), plane));
        let asked = store.origin.seen().len();
        assert_eq!((loads(&start(&bootstrap, false)), store.origin.seen().len()), ([0, 2, 0, 1, 1], asked));
    }
}

#[test]
fn whoever_is_not_the_store_is_not_believed_and_the_reason_is_told() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    let store = Store::open();
    let http1 = || json!({"explicit_http_config": {"http_protocol_options": {}}});
    let strangers = Authority::new("strangers").expect("an authority");
    let ask = |cluster: Value, host: &str| {
        refusal(&proxy(&origin, cluster, &[store.filter("guest", &format!("https://{host}/guest.wasm"))]))
    };
    let untrusted = ask(naming(trusting(&strangers, store.address()), &http1()), STORE);
    assert!(untrusted.contains("fetching https://store.test/guest.wasm from cluster store"), "{untrusted}");
    assert!(untrusted.contains("UnknownIssuer"), "{untrusted}");
    let misnamed = ask(naming(trusting(&store.authority, store.address()), &http1()), "nobody.test");
    assert!(misnamed.contains("can't be connected to") && misnamed.contains("certificate"), "{misnamed}");
    assert!(store.origin.seen().is_empty(), "nobody was asked for anything");
    // TLS is spoken where the cluster has it, whatever the URI says.
    let cleartext = ask(cluster("store", &[store.address()]), STORE);
    assert!(cleartext.contains("fetching https://store.test/guest.wasm from cluster store"), "{cleartext}");
}

#[test]
fn what_was_fetched_in_vain_for_one_was_so_for_all_who_asked() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    let store = Store::open();
    let wrong = Origin::answering("wrong", b"something else".to_vec()).expect("an origin");
    // Two filters that are passed over where they can't be had.
    let open = |name: &str| {
        let open = json!({"typed_config": {"config": {"failure_policy": "FAIL_OPEN"}}});
        with(store.filter(name, "http://store.test/guest.wasm"), open)
    };
    let bootstrap = proxy(&origin, cluster("store", &[wrong.address()]), &[open("one"), open("two")]);
    let plane = start(&bootstrap, true);
    for listener in ["l0", "l1"] {
        let response = Request::get("/").send(plane.listener(listener).expect("its listener")).expect("an answer");
        assert_eq!((response.status, response.seen("x-guest")), (200, None));
    }
    assert_eq!(wrong.seen().len(), 1, "another digest is final");
    assert_eq!(loads(&plane), [1, 0, 1, 1, 0]);
}

/// A store that is closed (503) until it opens.
fn shop(goods: Vec<u8>) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, open) = (listener.local_addr().expect("its address"), Arc::new(AtomicBool::new(false)));
    let is_open = Arc::clone(&open);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                head.extend(byte);
            }
            let (status, body) = if is_open.load(Ordering::Relaxed) { (200, &goods[..]) } else { (503, &[][..]) };
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
            let _gone = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    (address, open)
}

#[test]
fn the_next_push_tries_again() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    let store = Store::open();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("lds.yaml");
    let push = |version: &str| {
        let mut listener: Value = HttpListener::new("l0", &json!([route("/", "o")]))
            .filter(store.filter("guest", "http://store.test/guest.wasm"))
            .into();
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
        replace(&file, &to_yaml(&json!({"version_info": version, "resources": [listener]}))).expect("a new version");
    };
    let (address, open) = shop(store.module.clone());
    push("1");
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    let bootstrap =
        proxy(&origin, cluster("store", &[address]), &[]).set("dynamic_resources", json!({"lds_config": source}));
    let plane = start(&bootstrap, true);
    plane.admin.stat_reaches("wasm.remote_load_fetch_failures", 1, DEADLINE).expect("it is refused");
    plane.admin.stat_reaches("listener_manager.lds.update_rejected", 1, DEADLINE).expect("the push is refused");
    open.store(true, Ordering::Relaxed);
    push("2");
    plane.admin.stat_reaches("listener_manager.lds.update_success", 1, DEADLINE).expect("the push is taken");
    let response = Request::get("/").send(plane.listener("l0").expect("its listener")).expect("an answer");
    assert_eq!((response.status, response.seen("x-guest").as_deref()), (200, Some("here")));
    assert_eq!(loads(&plane)[..3], [2, 0, 0]);
}
