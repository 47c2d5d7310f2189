//! One table of requests against real Envoy and against us: what the client gets, what the access log says and what the
//! origin saw are the same, or the difference is one of those that are documented (`proxy/docs/envoy-differences.md`).
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]
#![allow(clippy::needless_pass_by_value, clippy::too_many_lines, reason = "configurations are long, and plain values")]

mod cases;
mod edges;
mod filters;
mod listeners;
mod observe;

use std::collections::BTreeMap;

use outrigger_e2e::closing::closing_line;
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Connection, Origin, Request};

use cases::{Case, different};
use observe::{Observed, access_line, seen_lines};

/// What one proxy made of the whole table, by the name of the case.
fn run(peer: Peer, cases: &[Case]) -> BTreeMap<String, Observed> {
    let origin = Origin::start("origin").expect("origin");
    let other = Origin::start("other").expect("origin");
    origin.script("garbage", "this is not HTTP\r\n\r\n");
    origin.script("half-head", "HTTP/1.1 200 OK\r\nx-half: ");
    origin.script("nothing", "");
    let plane = DataPlane::start(peer, &listeners::bootstrap(&origin, &other)).expect("the proxy starts");
    let mut addresses = BTreeMap::new();
    for listener in listeners::NAMES.iter().chain(edges::NAMES) {
        addresses.insert(*listener, plane.listener(listener).expect("its listener"));
    }
    let mut observed = BTreeMap::new();
    for case in cases {
        let request = case.request(addresses[case.listener]);
        let seen = Observed::of(addresses[case.listener], &request);
        observed.insert(case.name(), seen);
    }
    // Envoy writes its lines a moment later.
    let wanted = cases.iter().filter(|case| case.is_logged()).count();
    let records = eventually(DEADLINE, || {
        let records = plane.access_records();
        if records.len() >= wanted { Ok(records) } else { Err(format!("{} of {wanted} records", records.len())) }
    });
    for record in records.unwrap_or_else(|missing| panic!("{peer:?}: {missing}")) {
        if let Some(found) = record["test"].as_str().and_then(|test| observed.get_mut(test)) {
            found.log = access_line(&record, addresses.values());
        }
    }
    let copies = cases.iter().filter(|case| case.name().contains(" /mirror/")).count();
    let copied = eventually(DEADLINE, || {
        let seen = other.seen_at("/mirror/");
        if seen.len() >= copies { Ok(seen) } else { Err(format!("{} of {copies} copies", seen.len())) }
    });
    for seen in copied.unwrap_or_else(|missing| panic!("{peer:?}: {missing}")) {
        let test = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-test"));
        if let Some(found) = test.and_then(|(_, test)| observed.get_mut(test)) {
            found.copy = seen_lines(&seen, addresses["mirror"]);
        }
    }
    for seen in origin.seen().iter().chain(&other.seen()) {
        let test = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-test"));
        if let Some(found) = test.and_then(|(_, test)| observed.get_mut(test)) {
            found.attempts += 1;
        }
    }
    observed
}

#[test]
fn we_answer_as_envoy_does() {
    let cases = cases::all();
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| run(Peer::Envoy, &cases));
        let ours = run(Peer::Outrigger, &cases);
        (ours, theirs.join().expect("Envoy's run"))
    });
    let known = different();
    let mut failures = Vec::new();
    let mut same = 0;
    for case in &cases {
        let name = case.name();
        let differences = ours[&name].differences(&theirs[&name]);
        let documented = known.iter().find(|known| known.case == name);
        match documented {
            None if differences.is_empty() => same += 1,
            None => failures.push(format!("{name}\n  {}\n{}", case.text(), differences.join("\n"))),
            Some(known) if differences.is_empty() && known.is_by_chance() => {}
            Some(known) if differences.is_empty() => failures.push(format!("{name}: no longer {}", known.how)),
            Some(known) => {
                let expected = |difference: &String| {
                    let mut fields = known.fields.split_whitespace();
                    fields.any(|field| difference.trim_start().starts_with(&format!("{field}:")))
                };
                let other: Vec<String> = differences.into_iter().filter(|difference| !expected(difference)).collect();
                if !other.is_empty() {
                    failures.push(format!("{name}: more than {}\n{}", known.how, other.join("\n")));
                }
            }
        }
    }
    closing_line(&format!("differential: {} cases, {same} the same as Envoy, {} documented", cases.len(), known.len()));
    assert!(failures.is_empty(), "{} of {} cases differ:\n\n{}", failures.len(), cases.len(), failures.join("\n\n"));
}

/// Every name stands once, so that lines of the log belong to one case.
#[test]
fn names_are_unique() {
    let cases = cases::all();
    let mut names = std::collections::BTreeSet::new();
    for case in &cases {
        assert!(names.insert(case.name()), "{} stands here twice", case.name());
    }
    for known in different() {
        assert!(names.contains(&known.case), "{} is no case", known.case);
    }
    assert!(cases.len() >= 300, "{} cases", cases.len());
}

/// A connection of its own for each case: what one does to its connection is no business of the next.
fn send(address: std::net::SocketAddr, request: &Request) -> Result<(outrigger_e2e::Response, bool), String> {
    let mut connection = Connection::open(address).map_err(|error| format!("{error:#}"))?;
    connection.expect_answer_to(&request.method);
    connection.send(request.bytes()).map_err(|error| format!("{error:#}"))?;
    Ok(connection.partial_response())
}
