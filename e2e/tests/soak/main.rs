//! Everything at once: load, in cleartext and over TLS on both sides, while configuration churns, filters are swapped,
//! certificates rotate and origins die. No request is lost that a retry could save, no connection is closed, and memory and
//! descriptors stay flat. A short form in CI, 15 minutes in full.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

mod secrets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_e2e::bootstrap::{HttpListener, assignment, wasm_filter, with};
use outrigger_e2e::closing::{closing_line, scaled};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, DataPlane, Load, Origin, Peer, Request, eventually, modules, workspace};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use secrets::Secrets;

const ORIGINS: usize = 3;
const RATE: f64 = 300.0;
/// Of requests that go through TLS within the proxy.
const SECURED_RATE: f64 = 60.0;

/// The folder of watched files, and the origins behind.
struct World {
    dir: tempfile::TempDir,
    module: Vec<u8>,
    origins: Vec<Option<Origin>>,
    addresses: Vec<SocketAddr>,
    version: u64,
    random: StdRng,
    secrets: Secrets,
    counts: [u64; CHANGES.len()],
}

/// What happens next.
const CHANGES: [&str; 6] =
    ["filter swaps", "route changes", "endpoint changes", "cluster changes", "origin kills", "certificate rotations"];

impl World {
    fn start(seed: u64) -> World {
        let origins: Vec<Origin> = (0..ORIGINS).map(|i| Origin::start(&format!("o{i}")).expect("origin")).collect();
        let addresses = origins.iter().map(Origin::address).collect();
        let module = modules::read(&workspace::filter("header_policy").expect("the filter")).expect("its bytes");
        let mut world = World {
            dir: tempfile::tempdir().expect("a folder"),
            module,
            origins: origins.into_iter().map(Some).collect(),
            addresses,
            version: 0,
            random: StdRng::seed_from_u64(seed),
            secrets: Secrets::start().expect("secrets"),
            counts: [0; CHANGES.len()],
        };
        world.filter();
        world.routes();
        world.endpoints();
        world.cluster();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a watched file in one step.
    fn publish(&mut self, file: &str, resource: &Value) {
        self.version += 1;
        let text = to_yaml(&json!({"version_info": self.version.to_string(), "resources": [resource]}));
        let (path, beside) = (self.path(file), self.path(&format!("{file}.new")));
        std::fs::write(&beside, text).expect("write");
        std::fs::rename(&beside, &path).expect("rename");
    }

    /// Another module (of eight, so that the cache is used too) with another configuration.
    fn filter(&mut self) {
        let variant = self.version % 8;
        let path = self.path(&format!("variant-{variant}.wasm"));
        if !path.exists() {
            std::fs::write(&path, modules::variant(&self.module, variant)).expect("write");
        }
        let stamp = json!({"set": [{"name": "x-gen-filter", "value": self.version.to_string()}]});
        let filter = wasm_filter("stamp", &path, &json!({"request": stamp, "response": stamp}));
        let resource = json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            "name": "stamp", "typed_config": filter["typed_config"],
        });
        self.publish("ecds.yaml", &resource);
    }

    /// Another stamp by the route, which tries again what is lost.
    fn routes(&mut self) {
        let stamp = |header: &str, value: u64| json!([{"header": {"key": header, "value": value.to_string()}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
        let route = json!({
            "match": {"prefix": "/"},
            "route": {"cluster": "o", "timeout": "8s", "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset,gateway-error", "num_retries": 4,
                "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                }}],
                "host_selection_retry_max_attempts": 5,
                "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            }},
            "request_headers_to_add": stamp("x-gen-route", self.version),
            "response_headers_to_add": stamp("x-gen-route", self.version),
        });
        let config = json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
        });
        self.publish("rds.yaml", &config);
    }

    /// All origins, or all but one: whichever is left out may be alive or dead.
    fn endpoints(&mut self) {
        let without = self.random.random_range(0..ORIGINS * 2);
        let dead = self.origins.iter().position(Option::is_none);
        let kept = |index: &usize| *index != without || dead.is_some_and(|dead| dead != without);
        let addresses: Vec<SocketAddr> = (0..ORIGINS).filter(kept).map(|index| self.addresses[index]).collect();
        let base = assignment("o", &addresses);
        let typed = json!({"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"});
        self.publish("eds.yaml", &with(base, typed));
    }

    fn cluster(&mut self) {
        let timeout = format!("{}s", 2 + self.version % 3);
        let source = json!({"path_config_source": {"path": self.path("eds.yaml")}, "resource_api_version": "V3"});
        let config = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "o", "type": "EDS", "connect_timeout": timeout, "eds_cluster_config": {"eds_config": source},
            "circuit_breakers": {"thresholds": [{"max_retries": 200}]},
        });
        self.publish("cds.yaml", &config);
    }

    /// Kills an origin with what it has under way, or brings the dead one back to its address.
    fn kill_or_revive(&mut self) {
        if let Some(dead) = self.origins.iter().position(Option::is_none) {
            let (name, address) = (format!("o{dead}"), self.addresses[dead]);
            let back =
                eventually(DEADLINE, || Origin::bind(&name, address, false).map_err(|error| format!("{error:#}")));
            self.origins[dead] = Some(back.expect("the origin comes back"));
        } else {
            let victim = self.random.random_range(0..ORIGINS);
            self.origins[victim] = None;
        }
    }

    fn change(&mut self) {
        let which = self.random.random_range(0..CHANGES.len());
        self.counts[which] += 1;
        match which {
            0 => self.filter(),
            1 => self.routes(),
            2 => self.endpoints(),
            3 => self.cluster(),
            5 => self.secrets.rotate().expect("the secrets rotate"),
            _ => self.kill_or_revive(),
        }
    }

    /// A listener whose filter and routes are those of the watched files.
    fn listener(&self, name: &str) -> Value {
        let discovered = json!({"name": "stamp", "config_discovery": {
            "config_source": from(&self.path("ecds.yaml")),
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
        }});
        let mut listener: Value =
            HttpListener::new(name, &json!([])).manager(json!({"access_log": []})).filter(discovered).into();
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager.as_object_mut().expect("an object").remove("route_config");
        manager["rds"] = json!({"route_config_name": "routes", "config_source": from(&self.path("rds.yaml"))});
        listener
    }

    /// `main` goes to the origins, `inner` too, behind TLS; `outer` goes to `inner`.
    fn bootstrap(&self) -> Bootstrap {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "inner", "timeout": "10s"}});
        let outer = HttpListener::new("outer", &json!([route])).manager(json!({"access_log": []}));
        Bootstrap::new()
            .listener(self.listener("main"))
            .listener(self.secrets.secure(self.listener("inner")))
            .listener(outer)
            .cluster(self.secrets.cluster("inner"))
            .set("dynamic_resources", json!({"cds_config": from(&self.path("cds.yaml"))}))
    }
}

fn from(path: &Path) -> Value {
    json!({"path_config_source": {"path": path}, "resource_api_version": "V3"})
}

fn seed() -> u64 {
    let given = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rng().random())
}

#[test]
fn nothing_is_lost_and_nothing_grows() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let length = Duration::from_secs(scaled(60, 900));
    let seed = seed();
    eprintln!("OUTRIGGER_SEED={seed}");
    let mut world = World::start(seed);
    let mut plane = DataPlane::start(Peer::Outrigger, &world.bootstrap()).expect("the proxy starts");
    for listener in ["main", "outer"] {
        let address = plane.listener(listener).expect("its listener");
        let serves = || Request::get("/").send(address).map_err(|error| format!("{error:#}"));
        eventually(DEADLINE, || serves().and_then(|r| if r.status == 200 { Ok(()) } else { Err(r.text()) }))
            .expect("serves");
    }
    let load = |listener: &str, rate: f64| {
        let address = plane.listener(listener).expect("its listener");
        Load::new(address, rate, Request::get("/soak")).start().expect("load")
    };
    let (running, secured) = (load("main", RATE), load("outer", SECURED_RATE));
    let visitors = world.secrets.visitors().expect("clients with TLS");
    let begun = Instant::now();
    let mut settled = None;
    while begun.elapsed() < length {
        world.change();
        plane.process.must_run().expect("the proxy runs");
        if settled.is_none() && begun.elapsed() > length / 4 {
            settled = Some(plane.process.held());
        }
        let pause = world.random.random_range(20..250);
        std::thread::sleep(Duration::from_millis(pause));
    }
    let (report, secured) = (running.stop().expect("the load"), secured.stop().expect("the load"));
    let visits = visitors.stop().expect("the clients with TLS");
    let (early, late) = (settled.expect("a quarter has passed"), plane.process.held());
    let counts: Vec<String> = CHANGES.iter().zip(world.counts).map(|(name, count)| format!("{count} {name}")).collect();
    let stat = |name: &str| plane.admin.stat(name).expect("stats");
    closing_line(&format!(
        "soak (seed {seed}): {:.0} s, {} ({} of the authority); served {}, failed {}, connections closed {}, retries {}, p99 {:?}, \
         longest {:?}; over TLS within, {} handshakes: served {}, failed {}, connections closed {}; over TLS from outside, {} \
         handshakes: served {}, failed {}; {}",
        begun.elapsed().as_secs_f64(),
        counts.join(", "),
        world.secrets.authorities,
        report.served,
        report.failed,
        report.closed,
        stat("cluster.o.upstream_rq_retry"),
        report.latency.per_mille(990),
        report.latency.max(),
        stat("cluster.inner.ssl.handshake"),
        secured.served,
        secured.failed,
        secured.closed,
        visits.handshakes,
        visits.served,
        visits.failed.len(),
        early.and_late(late),
    ));
    report.must_be_clean().expect("nobody notices");
    secured.must_be_clean().expect("nobody notices over TLS");
    assert!(visits.failed.is_empty() && visits.served > 0, "{:?}", visits.failed);
    early.must_stay(late).expect("nothing grows");
}
