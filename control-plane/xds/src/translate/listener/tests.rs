use std::sync::Arc;

use bytes::Bytes;
use outrigger_model::{
    FailurePolicy, Isolation, Kind, Limits, Module, ObjectId, ObjectKey, Phase, Revision, Source, WasmFilter,
};
use prost::Message as _;

use super::*;

fn entry(name: &str, scope: FilterScope) -> FilterEntry {
    let id = ObjectId::new("shop", name);
    let revision = Revision {
        module: Module::new(Bytes::from_static(b"code")),
        config: Bytes::copy_from_slice(name.as_bytes()),
        failure_policy: FailurePolicy::Closed,
        limits: Limits::default(),
        isolation: Isolation::Shared,
        env: Vec::new(),
    };
    let filter = WasmFilter {
        source: Arc::new(Source::new(&ObjectKey::new(Kind::WasmFilter, id.clone()), "a.yaml", 1)),
        id,
        targets: Vec::new(),
        phase: Phase::AuthN,
        priority: 0,
        revision: Arc::new(revision),
        rollout: None,
        shadow: false,
        trial: None,
    };
    FilterEntry { filter: Arc::new(filter), scope }
}

/// An entry of the chain in words: `name`, `name?` where it is off, or `[names]` in one.
fn shown(filter: &HttpFilter) -> String {
    match &filter.config_type {
        Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
            format!("{}{}", filter.name, if filter.disabled { "?" } else { "" })
        }
        Some(http_filter::ConfigType::TypedConfig(config)) => {
            let filters = RouteFilters::decode(config.value.as_slice()).unwrap();
            assert!(filters.discovery.is_some() && !filter.disabled);
            format!("{:?}", filters.names)
        }
        None => String::new(),
    }
}

fn chain(entries: &[FilterEntry], profile: Profile) -> Vec<String> {
    let entries: Vec<_> = entries.iter().collect();
    let filters = wasm_filters(&entries, profile);
    let names: std::collections::BTreeSet<_> = filters.iter().map(|filter| &filter.name).collect();
    assert_eq!(names.len(), filters.len(), "names are unique");
    filters.iter().map(shown).collect()
}

#[test]
fn filters_of_routes_are_one_entry_where_they_stand_together() {
    use FilterScope::{Listener, Routes};
    let entries = [("a", Routes), ("b", Routes), ("all", Listener), ("c", Routes), ("every", Listener), ("d", Routes)];
    let mut entries: Vec<_> = entries.map(|(name, scope)| entry(name, scope)).into();
    entries.extend(["e", "f"].map(|name| entry(name, Routes)));
    let ours =
        ["[\"shop/a\", \"shop/b\"]", "shop/all", "shop/c?", "shop/every", "[\"shop/d\", \"shop/e\", \"shop/f\"]"];
    assert_eq!(chain(&entries, Profile::Outrigger), ours);
    let envoys = ["shop/a?", "shop/b?", "shop/all", "shop/c?", "shop/every", "shop/d?", "shop/e?", "shop/f?"];
    assert_eq!(chain(&entries, Profile::Envoy), envoys);
    assert!(chain(&[], Profile::Outrigger).is_empty());
}

#[test]
fn routes_are_named_for_the_filters_that_they_turn_on() {
    use FilterScope::{Listener, Routes};
    let name = |filters: &[(&str, FilterScope)]| {
        let view = ListenerView {
            name: "shop/edge/80".to_owned(),
            filters: filters.iter().map(|(name, scope)| entry(name, *scope)).collect(),
            address: None,
            port: 80,
            protocol: Protocol::Http,
            hosts: Vec::new(),
            tcp: None,
        };
        let name = route_name(&view, Profile::Envoy);
        assert!(name == route_name(&view, Profile::Outrigger) && name.starts_with("shop/edge/80"));
        name
    };
    assert_eq!(name(&[]), "shop/edge/80");
    assert_eq!(name(&[("all", Listener)]), "shop/edge/80", "such a filter is not the routes' to turn on");
    let of_a = name(&[("a", Routes), ("all", Listener)]);
    assert_eq!(of_a, name(&[("a", Routes)]));
    for other in [name(&[]), name(&[("b", Routes)]), name(&[("a", Routes), ("b", Routes)]), name(&[("a", Listener)])] {
        assert_ne!(of_a, other);
    }
}

#[test]
fn a_thousand_filters_of_routes_are_one_entry() {
    let entries: Vec<_> = (0..1000).map(|index| entry(&format!("f{index}"), FilterScope::Routes)).collect();
    assert_eq!(chain(&entries, Profile::Outrigger).len(), 1);
}
