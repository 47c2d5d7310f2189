//! Filters of HTTPRoutes from a folder, in both proxies: each route has its own configuration of the same code, and what
//! becomes of one route's filter is no business of another's.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::closing::scaled;
use outrigger_e2e::folder::{self, Folder};
use outrigger_e2e::load::Verdict;
use outrigger_e2e::rig::put_module;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Load, Peer, Request, Response, Rig, eventually};
use serde_json::{Value, json};

/// The HTTPRoute `name` for paths below `/NAME`, with one rule that is called `all`.
fn route(name: &str) -> Value {
    let mut route = folder::route_with(&[json!({
        "name": "all",
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
        "backendRefs": [{"name": "api", "port": 80}],
    })]);
    route["metadata"]["name"] = json!(name);
    route
}

/// header-policy as the filter `name` on some routes (`NAME` or `NAME#RULE`): it adds a stamp to the answer.
fn stamping(name: &str, routes: &[&str], stamp: &str) -> Value {
    let target = |route: &&str| {
        let mut target = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"});
        let (route, rule) = route.split_once('#').map_or((*route, None), |(route, rule)| (route, Some(rule)));
        target["name"] = json!(route);
        if let Some(rule) = rule {
            target["sectionName"] = json!(rule);
        }
        target
    };
    let config = json!({"response": {"add": [{"name": "x-stamp", "value": stamp}]}});
    let targets: Vec<Value> = routes.iter().map(target).collect();
    let module = "filters/header_policy.wasm";
    folder::filter(name, module, "Unspecified", &config, json!({"targetRefs": targets}))
}

/// The routes `a`, `b` and `c`: `a` and `b` have a filter of their own between two that both have, `c` has the last.
fn three_routes(folder: &Folder) -> anyhow::Result<()> {
    put_module(folder, "header_policy")?;
    folder.apply("routes.yaml", &[route("a"), route("b"), route("c")])?;
    folder.apply("first.yaml", &[stamping("filter-0", &["a", "b#all"], "first")])?;
    folder.apply("a.yaml", &[stamping("filter-1", &["a"], "a1")])?;
    folder.apply("b.yaml", &[stamping("filter-2", &["b"], "b1")])?;
    folder.apply("last.yaml", &[stamping("filter-3", &["a", "b", "c"], "last")])
}

/// The filters answer in the reverse order of the chain.
fn stamps(rig: &Rig, path: &str) -> Vec<String> {
    let response = rig.get(path).expect("an answer");
    response.header_all("x-stamp").into_iter().rev().map(str::to_owned).collect()
}

fn stamps_become(rig: &Rig, path: &str, expected: &[&str]) {
    eventually(DEADLINE, || match stamps(rig, path) {
        seen if seen == expected => Ok(()),
        seen => Err(seen),
    })
    .expect(path);
}

/// Requests of `b` that are not exactly as they were when the load began.
fn as_ever(response: &Response) -> Verdict {
    let stamps = response.header_all("x-stamp");
    let is_same = response.status == 200 && stamps == ["last", "b1", "first"];
    Verdict { failure: (!is_same).then(|| format!("{} {stamps:?}", response.status)), ..Verdict::default() }
}

/// So many VMs of the one worker run at most, whatever their plugins; spare ones that an update brought go at once. It is
/// one, and one more for each update that brought a plugin whose configuring took its canary longer than a worker may be
/// stopped for: in a debug build some do.
fn few_vms_run(rig: &Rig, at_most: u64) {
    let is_count = |name: &str| name.starts_with("wasm.") && name.ends_with(".vm_active");
    eventually(DEADLINE, || {
        let stats = rig.plane.admin.stats().map_err(|error| format!("{error:#}"))?;
        match stats.iter().filter(|(name, _)| is_count(name)).map(|(_, count)| count).sum::<u64>() {
            count if (1..=at_most).contains(&count) => Ok(()),
            count => Err(format!("{count} VMs")),
        }
    })
    .expect("VMs are shared");
}

#[test]
fn routes_have_filters_of_their_own_and_leave_each_other_alone() {
    for peer in Peer::all() {
        let name = peer.name();
        let rig = Rig::start_with(peer, "DELTA_GRPC", three_routes).expect("the mesh");
        for (path, expected) in [
            ("/a", &["first", "a1", "last"][..]),
            ("/b", &["first", "b1", "last"]),
            ("/c", &["last"]),
            ("/elsewhere", &[]),
        ] {
            stamps_become(&rig, path, expected);
        }
        let load = Load::new(rig.gateway, 200.0, Request::get("/b")).check(as_ever).start().expect("load");
        // Another configuration.
        rig.push(|folder| folder.apply("a.yaml", &[stamping("filter-1", &["a"], "a2")])).expect(name);
        stamps_become(&rig, "/a", &["first", "a2", "last"]);
        // One filter of a route goes: those around it stay, at every moment.
        rig.push(|folder| folder.remove("a.yaml")).expect(name);
        stamps_become(&rig, "/a", &["first", "last"]);
        // And comes again, for another route too.
        rig.push(|folder| folder.apply("a.yaml", &[stamping("filter-1", &["a", "c"], "a3")])).expect(name);
        stamps_become(&rig, "/a", &["first", "a3", "last"]);
        stamps_become(&rig, "/c", &["a3", "last"]);
        // Away from one target.
        rig.push(|folder| folder.apply("a.yaml", &[stamping("filter-1", &["c"], "a3")])).expect(name);
        stamps_become(&rig, "/a", &["first", "last"]);
        stamps_become(&rig, "/c", &["a3", "last"]);
        let report = load.stop().expect("the load");
        report.must_be_clean().expect(name);
    }
}

#[test]
fn a_bad_configuration_of_one_route_holds_up_nobody_else() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", three_routes).expect("the mesh");
    stamps_become(&rig, "/b", &["first", "b1", "last"]);
    let load = Load::new(rig.gateway, 200.0, Request::get("/b")).check(as_ever).start().expect("load");
    let mut bad = stamping("filter-1", &["a"], "a2");
    bad["spec"]["config"] = json!({"nonsense": true});
    rig.folder.apply("a.yaml", &[bad]).expect("the edit");
    let proxy = rig.wait_nacked().expect("the rejection");
    let rejected: Vec<&Value> =
        proxy["filters"].as_array().into_iter().flatten().filter(|filter| filter["state"] == "nacked").collect();
    assert!(rejected.len() == 1 && rejected[0]["name"] == "shop/filter-1", "{rejected:?}");
    assert_eq!(stamps(&rig, "/a"), ["first", "a1", "last"], "what was there serves on");
    // Others change as if nothing was, and where a new filter takes the place of another one, one of them always runs.
    let moved = [stamping("filter-3", &["c"], "last"), stamping("filter-4", &["a", "b"], "last")];
    rig.folder.apply("last.yaml", &moved).expect("the edit");
    rig.folder.apply("new.yaml", &[stamping("filter-5", &["a", "c"], "new")]).expect("the edit");
    stamps_become(&rig, "/c", &["last", "new"]);
    stamps_become(&rig, "/a", &["first", "a1", "last", "new"]);
    // Nor does one that never was any good: where it was wanted nothing passes without it.
    let mut bad = stamping("filter-6", &["a"], "never");
    bad["spec"]["config"] = json!({"nonsense": true});
    rig.folder.apply("never.yaml", &[bad]).expect("the edit");
    let missing = || rig.get("/a").map(|response| response.status);
    eventually(DEADLINE, || {
        missing().map_or_else(|e| Err(e.to_string()), |s| (s == 500).then_some(()).ok_or(s.to_string()))
    })
    .expect("a is closed");
    rig.folder.apply("newer.yaml", &[stamping("filter-7", &["c"], "newer")]).expect("the edit");
    stamps_become(&rig, "/c", &["last", "new", "newer"]);
    rig.folder.apply("never.yaml", &[stamping("filter-6", &["a"], "mended")]).expect("the edit");
    stamps_become(&rig, "/a", &["first", "a1", "last", "new", "mended"]);
    load.stop().expect("the load").must_be_clean().expect("nobody else notices");
}

#[test]
fn many_routes_share_vms_and_one_entry() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let count = scaled(100, 1000);
    let name = |index: usize| format!("r{index}");
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
        put_module(folder, "header_policy")?;
        let routes: Vec<Value> = (0..count).map(|index| route(&name(index))).collect();
        let filters = (0..count).map(|index| stamping(&format!("f{index}"), &[&name(index)], &name(index)));
        folder.apply("routes.yaml", &routes)?;
        folder.apply("filters.yaml", &filters.collect::<Vec<_>>())
    });
    let rig = rig.expect("the mesh");
    for index in (0..count).step_by(7) {
        stamps_become(&rig, &format!("/{}", name(index)), &[&name(index)]);
    }
    stamps_become(&rig, "/elsewhere", &[]);
    let dump = rig.plane.admin.config_dump("ListenersConfigDump").expect("listeners");
    let listener = &dump["dynamic_listeners"][0]["active_state"]["listener"];
    let chain = &listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let chain = chain.as_array().unwrap_or_else(|| panic!("no filters in {dump}"));
    let names = chain[0]["typed_config"]["names"].as_array().map(Vec::len);
    assert_eq!((chain.len(), names), (2, Some(count)), "one entry for all of them, and the router");
    few_vms_run(&rig, 3);
}

/// Requests that no filter saw, or more than one.
fn stamped_once(response: &Response) -> Verdict {
    let stamps = response.header_all("x-stamp");
    let is_one = response.status == 200 && matches!(stamps[..], ["odd" | "even"]);
    Verdict { failure: (!is_one).then(|| format!("{} {stamps:?}", response.status)), ..Verdict::default() }
}

/// One edit takes a filter away and adds another by name: at no moment does a request pass without either.
#[test]
fn a_filter_that_takes_the_place_of_another_leaves_no_gap() {
    let gateway = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    let placed = |round: usize, targets: Option<&Value>| {
        let stamp = if round.is_multiple_of(2) { "even" } else { "odd" };
        let mut filter = stamping(&format!("filter-{round}"), &["a"], stamp);
        if let Some(targets) = targets {
            filter["spec"]["targetRefs"] = targets.clone();
        }
        filter
    };
    for peer in Peer::all() {
        for (what, targets) in [("of a route", None), ("of the gateway", Some(&gateway))] {
            let name = format!("{} {what}", peer.name());
            let rig = Rig::start_with(peer, "DELTA_GRPC", |folder| {
                put_module(folder, "header_policy")?;
                folder.apply("routes.yaml", &[route("a")])?;
                folder.apply("filter.yaml", &[placed(0, targets)])
            });
            let rig = rig.expect(&name);
            stamps_become(&rig, "/a", &["even"]);
            let load = Load::new(rig.gateway, 400.0, Request::get("/a")).check(stamped_once).start().expect("load");
            for round in 1..=scaled(6, 60) {
                rig.push(|folder| folder.apply("filter.yaml", &[placed(round, targets)])).expect(&name);
                stamps_become(&rig, "/a", &[if round.is_multiple_of(2) { "even" } else { "odd" }]);
            }
            let mut report = load.stop().expect("the load");
            if peer == Peer::Envoy {
                // It drains the connections of a listener that changed.
                report.closed = 0;
            }
            report.must_be_clean().expect(&name);
        }
    }
}
