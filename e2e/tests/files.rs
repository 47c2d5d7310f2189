//! Configuration from watched files (`path_config_source`): taken at start, reloaded on an atomic rename, kept when the new
//! content is bad.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::path::Path;

use outrigger_e2e::bootstrap::{HttpListener, assignment, cluster, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, Connection, Load, Neighbour, Origin, Request, eventually, workspace};
use serde_json::{Value, json};

const API: &str = "type.googleapis.com/envoy.config";

fn from_file(path: &Path) -> Value {
    json!({"path_config_source": {"path": path}, "resource_api_version": "V3"})
}

/// Writes the resources in one atomic step, as a discovery response in a file.
fn write(path: &Path, version: &str, resources: &[Value]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, to_yaml(&json!({"version_info": version, "resources": resources}))).expect("write");
    std::fs::rename(&beside, path).expect("rename");
}

fn typed(kind: &str, resource: Value) -> Value {
    with(json!({"@type": format!("{API}.{kind}")}), resource)
}

fn route_config(routes: &Value) -> Value {
    typed(
        "route.v3.RouteConfiguration",
        json!({
            "name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        }),
    )
}

fn extension(generation: &str) -> Value {
    let config = json!({"response": {"set": [{"name": "x-stamp", "value": generation}]}});
    let filter = wasm_filter("stamp", &workspace::filter("header_policy").expect("the filter"), &config);
    json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "stamp", "typed_config": filter["typed_config"],
    })
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Everything from files: listener, cluster, routes, endpoints, filter.
    fn bootstrap(&self, origin: &Origin) -> Bootstrap {
        write(
            &self.path("eds.yaml"),
            "1",
            &[typed("endpoint.v3.ClusterLoadAssignment", assignment("o", &[origin.address()]))],
        );
        let eds = json!({"name": "o", "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": {"eds_config": from_file(&self.path("eds.yaml"))}});
        write(&self.path("cds.yaml"), "1", &[typed("cluster.v3.Cluster", eds)]);
        write(&self.path("rds.yaml"), "1", &[route_config(&json!([route("/", "o")]))]);
        write(&self.path("ecds.yaml"), "1", &[extension("one")]);
        let discovered = json!({"name": "stamp", "config_discovery": {
            "config_source": from_file(&self.path("ecds.yaml")),
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
        }});
        let mut listener: Value =
            HttpListener::new("main", &json!([])).manager(json!({"access_log": []})).filter(discovered).into();
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager.as_object_mut().expect("an object").remove("route_config");
        manager["rds"] = json!({"route_config_name": "routes", "config_source": from_file(&self.path("rds.yaml"))});
        write(&self.path("lds.yaml"), "1", &[typed("listener.v3.Listener", listener)]);
        Bootstrap::new().set(
            "dynamic_resources",
            json!({
                "lds_config": from_file(&self.path("lds.yaml")), "cds_config": from_file(&self.path("cds.yaml")),
            }),
        )
    }
}

#[test]
fn every_kind_comes_from_a_file_and_follows_it() {
    for peer in Peer::all() {
        let name = peer.name();
        let (first, second) = (Origin::start("first").expect("origin"), Origin::start("second").expect("origin"));
        let files = Files { dir: tempfile::tempdir().expect("a folder") };
        let plane = DataPlane::start(peer, &files.bootstrap(&first)).expect("the proxy starts");
        let address = plane.listener("main").expect("the listener of the file");
        let becomes = |what: &str, header: &str, value: &str| {
            let seen = eventually(DEADLINE, || {
                let response = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
                if response.header(header) == Some(value) { Ok(()) } else { Err(format!("{response:?}")) }
            });
            seen.unwrap_or_else(|error| panic!("{name}: {what}: {error:#}"));
        };
        becomes("the first filter", "x-stamp", "one");
        let mut kept = Connection::open(address).expect("connect");
        let running = Load::new(address, 100.0, Request::get("/load")).start().expect("load");
        write(&files.path("ecds.yaml"), "2", &[extension("two")]);
        becomes("another filter", "x-stamp", "two");
        let answer =
            json!({"header": {"key": "x-route", "value": "two"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
        write(
            &files.path("rds.yaml"),
            "2",
            &[route_config(&json!([with(route("/", "o"), json!({"response_headers_to_add": [answer]}))]))],
        );
        becomes("another route", "x-route", "two");
        write(
            &files.path("eds.yaml"),
            "2",
            &[typed("endpoint.v3.ClusterLoadAssignment", assignment("o", &[second.address()]))],
        );
        becomes("another endpoint", "x-origin-name", "second");
        write(&files.path("cds.yaml"), "2", &[typed("cluster.v3.Cluster", cluster("o", &[first.address()]))]);
        becomes("another cluster", "x-origin-name", "first");
        assert_eq!(kept.exchange(&Request::get("/")).expect("answer").status, 200, "{name}: the kept connection");
        running.stop().expect("the load").must_be_clean().expect("nobody notices");
    }
}

#[test]
fn bad_content_is_told_and_the_old_one_stays() {
    // Ours alone: Envoy 1.40 takes such a file for an empty one, drops its clusters and answers 503.
    for peer in Peer::all().into_iter().filter(|peer| *peer == Peer::Outrigger) {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let files = Files { dir: tempfile::tempdir().expect("a folder") };
        let plane = DataPlane::start(peer, &files.bootstrap(&origin)).expect("the proxy starts");
        let mut neighbour = Neighbour::new(plane.listener("main").expect("listener"), "/").expect("the neighbour");
        let before = plane.admin.stat("cluster_manager.cds.update_rejected").expect("stats")
            + plane.admin.stat("cluster_manager.cds.update_failure").expect("stats");
        for text in [
            "resources: [{",
            "resources: [{\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: x, lb_policy: NONE_SUCH}]",
        ] {
            let beside = files.path("cds.new");
            std::fs::write(&beside, text).expect("write");
            std::fs::rename(&beside, files.path("cds.yaml")).expect("rename");
            neighbour.must_be_served().expect(name);
        }
        eventually(DEADLINE, || {
            let stats = plane.admin.stats().map_err(|error| format!("{error:#}"))?;
            let of = |rest: &str| stats.get(&format!("cluster_manager.cds.{rest}")).copied().unwrap_or_default();
            let count = of("update_rejected") + of("update_failure");
            if count > before { Ok(()) } else { Err(format!("{count} rejections")) }
        })
        .expect(name);
        neighbour.must_be_served().expect(name);
    }
}
