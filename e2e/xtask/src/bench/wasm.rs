//! `cargo xtask bench wasm`: what filters cost, in our proxy and in Envoy (V8), in the same run.
//!
//! Costs of requests are CPU time from paired rounds, as in the other suite. Everything that stalls is seen from two sides: by
//! a client at a fixed rate, and by the worker itself (`loop_duration_us`, Envoy's `enable_dispatcher_stats`).

mod deadlines;
mod dynamic;
mod load;
mod neighbour;
mod routes;
mod swap;

use std::time::Duration;

use anyhow::Result;

use super::http1::{run_rounds, wrk};
use super::peers::{Kind, Subject, start, start_origin, subject};
use super::report::Report;
use super::{Bench, Scenario};

const CONNECTIONS: u32 = 32;

pub(super) const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "headers", about: "header filters, 1, 4 and 16 in a chain", run: headers },
    Scenario { name: "body-1k", about: "a body of 1 KiB read and replaced", run: |b| bodies(b, "/bytes/1") },
    Scenario { name: "body-16k", about: "a body of 16 KiB read and replaced", run: |b| bodies(b, "/bytes/16") },
    Scenario { name: "body-256k", about: "a body of 256 KiB read and replaced", run: |b| bodies(b, "/bytes/256") },
    Scenario { name: "properties", about: "eight properties a request", run: properties },
    Scenario { name: "call", about: "one http_call a request", run: calls },
    Scenario { name: "load", about: "cold and cached load, time to a ready VM", run: load::run },
    Scenario { name: "swap", about: "another module each second, under load", run: swap::run },
    Scenario { name: "routes", about: "1,000 route configurations of one filter", run: routes::run },
    Scenario { name: "deadlines", about: "what the checks for deadlines cost a guest", run: deadlines::run },
    Scenario { name: "neighbour", about: "a guest that spins, seen by its neighbour", run: neighbour::run },
];

const fn guest(name: &'static str, kind: Kind, job: &'static str, path: &'static str) -> Subject {
    Subject { job: Some(job), filters: 1, path, ..subject(name, kind, 0) }
}

const NGINX: Subject = subject("nginx", Kind::Nginx, 0);

fn measure(bench: &Bench, subjects: &[Subject]) -> Result<Report> {
    let origin = start_origin(bench)?;
    let subjects: Vec<Subject> = subjects.iter().copied().filter(|subject| bench.wants_row(subject)).collect();
    let load = |running: &_, window: Duration| wrk(running, CONNECTIONS, window);
    let rows = run_rounds(bench, &subjects, |subject| start(bench, subject, &origin, false), load)?;
    Ok(Report::new(rows))
}

fn headers(bench: &Bench) -> Result<Report> {
    let mut report = measure(
        bench,
        &[
            NGINX,
            subject("outrigger", Kind::Outrigger, 0),
            subject("outrigger +1 filter", Kind::Outrigger, 1),
            subject("outrigger +4 filters", Kind::Outrigger, 4),
            subject("outrigger +16 filters", Kind::Outrigger, 16),
            subject("envoy", Kind::Envoy, 0),
            subject("envoy +1 filter", Kind::Envoy, 1),
            subject("envoy +4 filters", Kind::Envoy, 4),
            subject("envoy +16 filters", Kind::Envoy, 16),
        ],
    )?;
    for (name, limits) in [("outrigger", Some((1.0, 0.6))), ("envoy", None)] {
        let rows = [1, 4, 16].map(|count| format!("{name} +{count} filter{}", if count > 1 { "s" } else { "" }));
        let Some(first) = report.added(&rows[0], name) else { continue };
        let points = [(rows[0].as_str(), 1.0), (rows[1].as_str(), 4.0), (rows[2].as_str(), 16.0)];
        let Some(further) = report.slope(&points) else { continue };
        for (what, spread) in [("the first filter", first), ("one more filter", further)] {
            report.words.push(format!(
                "{name}: {what} costs {:.2} us ({:.2} to {:.2} over {} rounds)",
                spread.median, spread.min, spread.max, bench.rounds
            ));
            report.extra.insert(format!("{name} {what} us"), spread.median);
            report.extra.insert(format!("{name} {what} us, least"), spread.min);
            report.extra.insert(format!("{name} {what} us, most"), spread.max);
        }
        if let Some((one, more)) = limits {
            report.target("a header filter adds, us", Some(first.median), one);
            report.target("each further header filter adds, us (slope over 1, 4, 16)", Some(further.median), more);
        }
    }
    Ok(report)
}

/// What rows cost more than others, in words.
fn told(report: &mut Report, pairs: &[(&str, &str)]) {
    for (name, to) in pairs {
        if let Some(added) = report.added(name, to) {
            report.words.push(format!("{name}: {:+.2} us ({:+.2} to {:+.2})", added.median, added.min, added.max));
            report.extra.insert(format!("{name} adds us"), added.median);
        }
    }
}

fn bodies(bench: &Bench, path: &'static str) -> Result<Report> {
    let at = |subject: Subject| Subject { path, ..subject };
    let mut report = measure(
        bench,
        &[
            at(NGINX),
            at(subject("outrigger", Kind::Outrigger, 0)),
            guest("outrigger +read", Kind::Outrigger, "read", path),
            guest("outrigger +replace", Kind::Outrigger, "replace", path),
            at(subject("envoy", Kind::Envoy, 0)),
            guest("envoy +read", Kind::Envoy, "read", path),
            guest("envoy +replace", Kind::Envoy, "replace", path),
        ],
    )?;
    told(
        &mut report,
        &[
            ("outrigger +read", "outrigger"),
            ("outrigger +replace", "outrigger"),
            ("envoy +read", "envoy"),
            ("envoy +replace", "envoy"),
        ],
    );
    Ok(report)
}

fn properties(bench: &Bench) -> Result<Report> {
    let mut report = measure(
        bench,
        &[
            NGINX,
            guest("outrigger +nop", Kind::Outrigger, "nop", "/"),
            guest("outrigger +properties", Kind::Outrigger, "properties", "/"),
            guest("envoy +nop", Kind::Envoy, "nop", "/"),
            guest("envoy +properties", Kind::Envoy, "properties", "/"),
        ],
    )?;
    told(&mut report, &[("outrigger +properties", "outrigger +nop"), ("envoy +properties", "envoy +nop")]);
    Ok(report)
}

fn calls(bench: &Bench) -> Result<Report> {
    let mut report = measure(
        bench,
        &[
            NGINX,
            guest("outrigger +nop", Kind::Outrigger, "nop", "/"),
            guest("outrigger +call", Kind::Outrigger, "call", "/"),
            guest("envoy +nop", Kind::Envoy, "nop", "/"),
            guest("envoy +call", Kind::Envoy, "call", "/"),
        ],
    )?;
    told(&mut report, &[("outrigger +call", "outrigger +nop"), ("envoy +call", "envoy +nop")]);
    Ok(report)
}
