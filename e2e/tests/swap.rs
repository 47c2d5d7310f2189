//! Filters and routes change under load, and nobody notices: no request is lost, no connection closed, and no request sees
//! two generations, and the proxy holds no more for it. The filter stamps request and response, the route stamps both too, the
//! origin says what it saw.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::time::Instant;

use outrigger_e2e::closing::{closing_line, progress, scaled};
use outrigger_e2e::folder;
use outrigger_e2e::load::Verdict;
use outrigger_e2e::rig::{policy, put_module};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Load, Peer, Request, Response, Rig, eventually, modules, workspace};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Other code.
    Filter,
    /// The same code with another configuration: a new context in the same VM.
    Configuration,
    Route,
}

/// Judges one exchange: of each stamp there is one on the request (as the origin saw it) and the same on the response.
fn judge(response: &Response) -> Verdict {
    let mut verdict = Verdict::default();
    if response.status != 200 {
        verdict.failure = Some(format!("status {}: {}", response.status, response.text()));
        return verdict;
    }
    for stamp in ["filter", "route"] {
        let on_response = response.header_all(&format!("x-gen-{stamp}"));
        let on_request = response.header_all(&format!("x-seen-gen-{stamp}"));
        if on_response.len() != 1 || on_request != on_response {
            verdict.mixed = Some(format!("{stamp}: the request saw {on_request:?}, the response {on_response:?}"));
        }
        verdict.stamps.extend(on_response.iter().map(|value| format!("{stamp} {value}")));
    }
    verdict
}

fn changes(seed: u64, filters: usize, configurations: usize, routes: usize) -> Vec<Change> {
    let mut all = vec![Change::Filter; filters];
    all.resize(filters + configurations, Change::Configuration);
    all.resize(filters + configurations + routes, Change::Route);
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    all
}

fn seed() -> u64 {
    let given = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rng().random())
}

/// What served before is gone: one VM for the one worker, with the contexts of no stream, and labels of few revisions.
fn nothing_is_left(rig: &Rig, filters: usize) {
    let sum = |wanted: &str| -> (u64, usize) {
        let stats = rig.plane.admin.stats().expect("stats");
        let found = stats.iter().filter(|(name, _)| name.starts_with("wasm.") && name.ends_with(wanted));
        found.fold((0, 0), |(sum, count), (_, value)| (sum + value, count + 1))
    };
    eventually(DEADLINE, || match sum(".vm_active").0 {
        1 => Ok(()),
        active => Err(format!("{active} VMs are active")),
    })
    .expect("old VMs end with their last stream");
    let (created, revisions) = sum(".vm_created");
    assert!(revisions <= 10, "{revisions} revisions are shown");
    assert!(created >= revisions as u64 && filters >= revisions.saturating_sub(10), "{created} VMs were made");
}

#[test]
fn no_request_notices_a_swap() {
    let seed = seed();
    eprintln!("OUTRIGGER_SEED={seed}");
    for peer in Peer::all() {
        // Envoy takes half a second for each.
        let full = if peer == Peer::Outrigger { (500, 500, 50) } else { (100, 100, 50) };
        let (filters, configurations, routes) = scaled((15, 15, 10), full);
        let module = modules::read(&workspace::filter("header_policy").expect("the filter")).expect("its bytes");
        let rig = Rig::start_with(peer, "DELTA_GRPC", |folder| {
            put_module(folder, "header_policy")?;
            folder.apply("route.yaml", &[folder::route(&folder::stamp("x-gen-route", "x-gen-route", "0"))])?;
            folder.apply("policy.yaml", &[policy("header_policy", "0")])
        });
        let rig = rig.expect("the mesh");
        rig.serves_when(|response| judge(response).mixed.is_none() && response.status == 200).expect("stamps");
        let running = Load::new(rig.gateway, 300.0, Request::get("/load")).check(judge).start().expect("load");
        let begun = Instant::now();
        let mut count = [0; 2];
        let (mut code, mut early) = ("header_policy".to_owned(), None);
        let all = changes(seed, filters, configurations, routes);
        // Each change has to arrive within a deadline; the whole has none, since a busy machine takes what it takes.
        for (index, change) in all.iter().enumerate() {
            if index % 50 == 0 {
                let took = begun.elapsed().as_secs();
                progress(&format!("swap ({}): {index} of {} changes after {took} s", peer.name(), all.len()));
            }
            early = early.or_else(|| (index == all.len() / 4).then(|| rig.plane.process.held()));
            match change {
                Change::Filter => {
                    count[0] += 1;
                    code = format!("variant-{}", count[0]);
                    let bytes = modules::variant(&module, count[0]);
                    rig.push(|folder| {
                        folder.write(&format!("filters/{code}.wasm"), bytes)?;
                        folder.apply("policy.yaml", &[policy(&code, &count[0].to_string())])
                    })
                    .expect("a filter swap");
                }
                Change::Configuration => {
                    count[0] += 1;
                    rig.push(|folder| folder.apply("policy.yaml", &[policy(&code, &count[0].to_string())]))
                        .expect("a configuration swap");
                }
                Change::Route => {
                    count[1] += 1;
                    let stamps = folder::stamp("x-gen-route", "x-gen-route", &count[1].to_string());
                    rig.push(|folder| folder.apply("route.yaml", &[folder::route(&stamps)])).expect("a route change");
                }
            }
        }
        let took = begun.elapsed();
        let (last_filter, last_route) = (count[0].to_string(), count[1].to_string());
        rig.serves_when(|response| {
            response.header("x-gen-filter") == Some(&last_filter) && response.header("x-gen-route") == Some(&last_route)
        })
        .expect("the last generation serves");
        let (early, late) = (early.expect("a quarter has passed"), rig.plane.process.held());
        let report = running.stop().expect("the load");
        closing_line(&format!(
            "swap ({}, seed {seed}): {filters} filter swaps, {configurations} configurations and {routes} route changes in {:.1} s; served {}, failed {}, \
             connections closed {}, mixed generations {}, generations seen {}, p99 {:?}, longest {:?}; {}",
            peer.name(),
            took.as_secs_f64(),
            report.served,
            report.failed,
            report.closed,
            report.mixed,
            report.stamps.len(),
            report.latency.per_mille(990),
            report.latency.max(),
            early.and_late(late),
        ));
        report.must_be_clean().expect("nobody notices");
        if peer == Peer::Outrigger {
            nothing_is_left(&rig, filters);
            early.must_stay(late).expect("nothing grows");
        }
        assert!(
            report.stamps.len() > (filters + configurations + routes) / 2,
            "{} generations in traffic",
            report.stamps.len()
        );
    }
}
