//! Independent implementations judge both sides: grpcio takes its endpoints from our control plane, go-control-plane's own
//! integration server drives our proxy. (Real Envoy on our control plane is in `main_job` and `swap`.)

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_e2e::bootstrap::{cluster, http2};
use outrigger_e2e::data_plane::Options;
use outrigger_e2e::folder;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{
    Bootstrap, ControlPlane, DataPlane, Folder, Origin, Peer, Process, eventually, ports, script, workspace,
};
use serde_json::Value;

const INTEGRATION: Duration = Duration::from_secs(120);

struct Backend {
    _process: Process,
    address: SocketAddr,
}

fn backend(name: &str, dir: &Path) -> Backend {
    let file = dir.join(format!("{name}.address"));
    let arguments = ["serve", name, file.to_str().expect("a path in UTF-8")];
    let mut process = script::start(name, "grpc_peer.py", dir, &arguments).expect("the backend starts");
    let address = script::address(&file, &mut process).expect("its address");
    Backend { _process: process, address }
}

/// Waits until a batch of calls without an error went to exactly these backends.
fn calls_reach(result: &Path, names: &[&str]) -> Value {
    let seen = eventually(DEADLINE, || {
        let text = std::fs::read_to_string(result).map_err(|error| error.to_string())?;
        let batch: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let reached: Vec<&str> =
            batch["names"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let clean = batch["errors"].as_array().is_some_and(Vec::is_empty);
        let same = reached.len() == names.len() && names.iter().all(|name| reached.contains(name));
        if clean && same { Ok(batch) } else { Err(text) }
    });
    seen.expect("the calls reach the endpoints of the folder")
}

#[test]
fn grpcio_takes_its_endpoints_from_our_control_plane() {
    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (backend("a", dir.path()), backend("b", dir.path()));
    let folder = Folder::new().expect("a folder");
    folder.apply("service.yaml", &folder::service("api", &[a.address, b.address])).expect("the service");
    let control_plane = ControlPlane::start(folder.path()).expect("the control plane");
    let xds = control_plane.xds.to_string();
    for (target, file) in [("shop/api:80", "short"), ("api.shop.svc:80", "long")] {
        let result = dir.path().join(file);
        let arguments = ["call", &xds, target, result.to_str().expect("a path in UTF-8")];
        let _client = script::start(file, "grpc_peer.py", dir.path(), &arguments).expect("the client starts");
        calls_reach(&result, &["a", "b"]);
        // An endpoint goes, and comes back: without one failed call.
        folder.apply("service.yaml", &folder::service("api", &[b.address])).expect("one endpoint less");
        calls_reach(&result, &["b"]);
        folder.apply("service.yaml", &folder::service("api", &[a.address, b.address])).expect("both");
        calls_reach(&result, &["a", "b"]);
    }
    let proxy = control_plane.proxy("grpc-client").expect("the client shows");
    assert_eq!(proxy["types"].as_array().map(Vec::is_empty), Some(false), "{proxy:#}");
}

/// go-control-plane's integration test, with our proxy (or Envoy) as the client under test.
fn go_control_plane(peer: Peer, mode: &str, api_type: &str) {
    let message = "hello from the referee";
    let origin = Origin::answering("upstream", message).expect("origin");
    let first = ports::free_range(8).expect("ports for its listeners");
    let (xds, als, gateway) =
        (ports::free_port().expect("port"), ports::free_port().expect("port"), ports::free_port().expect("port"));
    let dir = tempfile::tempdir().expect("a folder");
    let program = workspace::peer("bin/gcp-test").expect("go-control-plane's server");
    let mut server = Process::spawn("gcp-test", &program, dir.path(), |command| {
        command.arg(format!("--xds={mode}")).arg(format!("-message={message}"));
        command.args(["-scopedhttp", "0", "-runtimes", "0", "-extension", "0", "-vhdshttp", "0", "-nodeID", "test-id"]);
        for (name, port) in [("-port", xds), ("-als", als), ("-gateway", gateway), ("-base", first)] {
            command.arg(name).arg(port.to_string());
        }
        command.arg("-upstream").arg(origin.address().port().to_string());
    })
    .expect("it starts");
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let bootstrap = Bootstrap::new()
        .node("test-id", "test-cluster")
        .ads(local(xds), api_type)
        .cluster(http2(cluster("als_cluster", &[local(als)])));
    let options = Options { until_ready: false, ..Options::default() };
    let plane = DataPlane::start_with(peer, &bootstrap, &options).expect("the proxy starts");
    let status = server.wait(INTEGRATION).expect("the integration test ends");
    assert!(status.success(), "{} {mode}: {status}\n{}", peer.name(), server.log());
    assert!(server.log().contains("passed!"), "{}", server.log());
    // 3 snapshots of 4 clusters, 2 HTTP and 2 TCP listeners, and not one rejection.
    for name in ["cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected"] {
        assert_eq!(plane.admin.stat(name).expect("stats"), 0, "{} {mode}: {name}", peer.name());
    }
    assert!(!origin.seen().is_empty());
}

#[test]
fn go_control_plane_drives_the_proxy_by_state_of_the_world() {
    Peer::all().into_iter().for_each(|peer| go_control_plane(peer, "ads", "GRPC"));
}

#[test]
fn go_control_plane_drives_the_proxy_by_delta() {
    Peer::all().into_iter().for_each(|peer| go_control_plane(peer, "delta-ads", "DELTA_GRPC"));
}
