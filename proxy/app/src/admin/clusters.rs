//! `/clusters` and `/listeners`: what the workers serve and send to, as text and JSON.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::{Address, CircuitBreakers, Cluster, ClusterEntry, Health, RoutingPriority, Snapshot, Source};
use outrigger_dataplane::{BoundListener, ClusterStatus, EndpointStatus, HealthFlags, Workers};
use outrigger_http::EndpointAddress;
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Asked;
use crate::server::Server;

/// For busy workers to tell what they know.
const WORKERS_TIME_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn clusters(asked: &Asked, server: &Server) -> Reply {
    let snapshot = server.snapshot.borrow().clone();
    let asking = server.workers.borrow().as_ref().map(Workers::clusters);
    let statuses = match asking {
        Some(asking) => tokio::time::timeout(WORKERS_TIME_MAX, asking).await,
        None => Ok(Vec::new()),
    };
    let Ok(statuses) = statuses else { return Reply::text(503, "the workers don't answer\n") };
    if asked.is_json() {
        let statuses: Vec<Value> = statuses.iter().map(|status| cluster_json(status, &snapshot)).collect();
        Reply::json(&json!({ "cluster_statuses": statuses }))
    } else {
        let mut text = String::new();
        statuses.iter().for_each(|status| cluster_text(&mut text, status, &snapshot));
        Reply::text(200, text)
    }
}

pub(crate) fn listeners(asked: &Asked, server: &Server) -> Reply {
    let listeners = server.workers.borrow().as_ref().map(Workers::listeners).unwrap_or_default();
    listeners_of(asked, &listeners)
}

fn listeners_of(asked: &Asked, listeners: &[BoundListener]) -> Reply {
    if asked.is_json() {
        Reply::json(&json!({ "listener_statuses": listeners.iter().map(listener_json).collect::<Vec<_>>() }))
    } else {
        let lines = listeners
            .iter()
            .flat_map(|listener| listener.addresses.iter().map(|address| format!("{}::{address}\n", listener.name)));
        Reply::text(200, lines.collect::<String>())
    }
}

fn listener_json(listener: &BoundListener) -> Value {
    let mut addresses = listener.addresses.iter().map(|bound| match bound {
        Address::Ip { socket, .. } => address(*socket),
        Address::Pipe { .. } => pipe(&bound.to_string()),
    });
    let mut of = json!({"name": *listener.name, "local_address": addresses.next()});
    let further: Vec<Value> = addresses.collect();
    if !further.is_empty() {
        of["additional_local_addresses"] = Value::Array(further);
    }
    of
}

fn endpoint_address(of: &EndpointAddress) -> Value {
    of.socket().map_or_else(|| pipe(&of.to_string()), address)
}

fn pipe(path: &str) -> Value {
    json!({"pipe": {"path": path}})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// What the configuration says of a cluster: Envoy's defaults where it is gone meanwhile.
fn configured(snapshot: &Snapshot, name: &str) -> ([CircuitBreakers; 2], bool, String) {
    match snapshot.clusters.get(name).map(|entry: &std::sync::Arc<ClusterEntry>| &entry.cluster) {
        Some(cluster) => (breakers(cluster), cluster.origin.source != Source::Static, cluster.stat_name.to_string()),
        None => (Default::default(), true, name.to_owned()),
    }
}

fn breakers(cluster: &Cluster) -> [CircuitBreakers; 2] {
    [RoutingPriority::Default, RoutingPriority::High].map(|priority| cluster.breakers_of(priority))
}

fn thresholds(breakers: &CircuitBreakers) -> [(&'static str, u32); 4] {
    [
        ("max_connections", breakers.max_connections),
        ("max_pending_requests", breakers.max_pending_requests),
        ("max_requests", breakers.max_requests),
        ("max_retries", breakers.max_retries),
    ]
}

/// The counters and gauges of an endpoint, sorted by name.
fn numbers(endpoint: &EndpointStatus) -> [(&'static str, u64, bool); 8] {
    [
        ("cx_active", endpoint.cx_active, true),
        ("cx_connect_fail", endpoint.cx_connect_fail, false),
        ("cx_total", endpoint.cx_total, false),
        ("rq_active", endpoint.rq_active, true),
        ("rq_error", endpoint.rq_error, false),
        ("rq_success", endpoint.rq_success, false),
        ("rq_timeout", endpoint.rq_timeout, false),
        ("rq_total", endpoint.rq_total, false),
    ]
}

fn cluster_text(text: &mut String, status: &ClusterStatus, snapshot: &Snapshot) {
    let name = &status.name;
    let ([default, high], added_via_api, observability) = configured(snapshot, name);
    // Writing to a String cannot fail.
    _ = writeln!(text, "{name}::observability_name::{observability}");
    for (priority, breakers) in [("default_priority", default), ("high_priority", high)] {
        for (what, value) in thresholds(&breakers) {
            _ = writeln!(text, "{name}::{priority}::{what}::{value}");
        }
    }
    _ = writeln!(text, "{name}::added_via_api::{added_via_api}");
    for endpoint in &status.endpoints {
        let at = &endpoint.address;
        for (what, value, _) in numbers(endpoint) {
            _ = writeln!(text, "{name}::{at}::{what}::{value}");
        }
        let facts = [
            ("hostname", endpoint.hostname.to_string()),
            ("health_flags", endpoint.flags.to_string()),
            ("weight", endpoint.weight.to_string()),
            ("region", endpoint.locality.0.clone()),
            ("zone", endpoint.locality.1.clone()),
            ("sub_zone", endpoint.locality.2.clone()),
            ("canary", "false".to_owned()),
            ("priority", endpoint.priority.to_string()),
            ("success_rate", endpoint.success_rates.0.to_string()),
            ("local_origin_success_rate", endpoint.success_rates.1.to_string()),
        ];
        for (what, value) in facts {
            _ = writeln!(text, "{name}::{at}::{what}::{value}");
        }
    }
}

fn cluster_json(status: &ClusterStatus, snapshot: &Snapshot) -> Value {
    let (breakers, added_via_api, observability) = configured(snapshot, &status.name);
    let all = ["DEFAULT", "HIGH"].into_iter().zip(&breakers).map(|(priority, breakers)| {
        let mut threshold = json!({ "priority": priority });
        for (what, value) in thresholds(breakers) {
            threshold[what] = value.into();
        }
        threshold
    });
    json!({
        "name": *status.name,
        "observability_name": observability,
        "added_via_api": added_via_api,
        "circuit_breakers": {"thresholds": all.collect::<Vec<_>>()},
        "host_statuses": status.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
    })
}

/// The fields of `HostHealthStatus`.
const JSON_FLAGS: [(HealthFlags, &str); 6] = [
    (HealthFlags::FAILED_ACTIVE_HC, "failed_active_health_check"),
    (HealthFlags::FAILED_OUTLIER_CHECK, "failed_outlier_check"),
    (HealthFlags::DEGRADED_ACTIVE_HC, "failed_active_degraded_check"),
    (HealthFlags::PENDING_DYNAMIC_REMOVAL, "pending_dynamic_removal"),
    (HealthFlags::PENDING_ACTIVE_HC, "pending_active_hc"),
    (HealthFlags::ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
];

fn endpoint_json(endpoint: &EndpointStatus) -> Value {
    let stats: Vec<Value> = numbers(endpoint)
        .into_iter()
        .map(|(name, value, is_gauge)| {
            // Protobuf's JSON has 64-bit numbers as text and leaves defaults out.
            let mut stat = json!({ "name": name });
            if value > 0 {
                stat["value"] = value.to_string().into();
            }
            if is_gauge {
                stat["type"] = "GAUGE".into();
            }
            stat
        })
        .collect();
    let mut health = serde_json::Map::new();
    for (_, name) in JSON_FLAGS.iter().filter(|(flag, _)| endpoint.flags.contains(*flag)) {
        health.insert((*name).to_owned(), true.into());
    }
    let eds = match endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    };
    health.insert("eds_health_status".to_owned(), eds.into());
    let (region, zone, sub_zone) = &endpoint.locality;
    let mut status = json!({
        "address": endpoint_address(&endpoint.address),
        "stats": stats,
        "health_status": health,
        "weight": endpoint.weight,
        "hostname": *endpoint.hostname,
        "priority": endpoint.priority,
        "locality": {"region": region, "zone": zone, "sub_zone": sub_zone},
    });
    for (name, rate) in
        [("success_rate", endpoint.success_rates.0), ("local_origin_success_rate", endpoint.success_rates.1)]
    {
        if rate >= 0.0 {
            status[name] = json!({ "value": rate });
        }
    }
    status
}
