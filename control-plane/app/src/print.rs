//! What `proxy-status` and `get` print.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use outrigger_xds_server::{ProxyStatus, SyncState, TypeStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Get, Output, ProxyStatus as ProxyStatusArguments, Target};
use crate::client;
use crate::rollout::ShownRollout;
use crate::status::ResourceStatus;

/// Largest page that is read.
const PAGE_BYTES_MAX: usize = 256 << 20;

pub(crate) fn proxy_status(arguments: &ProxyStatusArguments) -> Result<()> {
    let mut proxies: Vec<ProxyStatus> = page(&arguments.target, "/v1/proxies")?;
    if let Some(node) = &arguments.node {
        proxies.retain(|proxy| proxy.node == *node);
        if proxies.is_empty() {
            bail!("no proxy {node:?} is connected or was lately");
        }
    }
    show(arguments.target.output, &proxies, || proxy_table(&proxies))
}

pub(crate) fn get(arguments: &Get) -> Result<()> {
    let mut resources: Vec<ResourceStatus> = page(&arguments.target, "/v1/resources")?;
    if let Some(kind) = &arguments.kind {
        resources.retain(|resource| resource.kind.eq_ignore_ascii_case(kind));
    }
    if let Some(name) = &arguments.name {
        resources
            .retain(|resource| *name == resource.name || *name == format!("{}/{}", resource.namespace, resource.name));
        if resources.is_empty() {
            bail!("there is no {} {name}", arguments.kind.as_deref().unwrap_or("object"));
        }
    }
    show(arguments.target.output, &resources, || resource_table(&resources))
}

fn page<T: DeserializeOwned>(target: &Target, path: &str) -> Result<T> {
    let body = client::get(&target.http_address, path, PAGE_BYTES_MAX)?;
    serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path}", target.http_address))
}

fn show(output: Output, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(value)?)?,
        Output::Table => out.write_all(table().as_bytes())?,
    }
    Ok(())
}

const TYPES: [&str; 5] = ["CDS", "EDS", "ECDS", "LDS", "RDS"];

fn proxy_table(proxies: &[ProxyStatus]) -> String {
    if proxies.is_empty() {
        return "no proxy is connected\n".to_owned();
    }
    let mut rows = vec![["NODE", "SERVES", "CLIENT", "STATE"].map(str::to_owned).to_vec()];
    rows[0].extend(TYPES.map(str::to_owned));
    rows[0].push("LAST PUSH".to_owned());
    for proxy in proxies {
        let of = |kind: &str| proxy.types.iter().find(|status| status.kind == kind);
        let mut row = vec![
            proxy.node.clone(),
            proxy.serves.clone(),
            proxy.client.clone(),
            format!("{} {}", state(proxy.state), age(proxy.state_seconds)),
        ];
        row.extend(TYPES.iter().map(|kind| of(kind).map_or("-".to_owned(), type_cell)));
        let last = proxy.types.iter().filter_map(|status| status.last_push_seconds).reduce(f64::max);
        row.push(last.map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0)));
        rows.push(row);
    }
    let mut out = columns(&rows);
    for proxy in proxies {
        details(&mut out, proxy);
    }
    out
}

fn type_cell(status: &TypeStatus) -> String {
    format!("{} ({})", state(status.state), status.resources)
}

/// What does not fit into a cell: why something was rejected, and what a client cannot do.
fn details(out: &mut String, proxy: &ProxyStatus) {
    let mut lines = Vec::new();
    lines.extend(proxy.problem.iter().map(|problem| format!("gets nothing: {problem}")));
    for status in &proxy.types {
        for rejection in &status.rejections {
            let since = age(rejection.seconds);
            let reason = rejection.reason.trim().replace('\n', "\n    ");
            lines.push(format!("{} {} nacked {since} ago: {reason}", status.kind, rejection.name));
        }
    }
    let tries = proxy.filters.iter().filter_map(|filter| {
        let stage = filter.stage.as_deref().filter(|stage| !stage.is_empty())?;
        let (id, percent) = stage.split_once('@')?;
        Some(format!("WasmFilter {}: rollout {id} at {percent} %: {}", filter.name, state(filter.state)))
    });
    lines.extend(tries);
    let limits = proxy.limitations.iter();
    lines.extend(limits.map(|found| format!("WasmFilter {}: {}: {}", found.resource, found.field, found.message)));
    if !lines.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{}\n  {}\n", proxy.node, lines.join("\n  "));
    }
}

fn resource_table(resources: &[ResourceStatus]) -> String {
    if resources.is_empty() {
        return "nothing\n".to_owned();
    }
    let mut rows = vec![["KIND", "NAME", "ACCEPTED", "PROGRAMMED", "MESSAGE"].map(str::to_owned).to_vec()];
    for resource in resources {
        let bad = resource.conditions.iter().filter(|condition| !condition.status);
        let messages: Vec<_> =
            bad.map(|condition| condition.message.as_str()).filter(|text| !text.is_empty()).collect();
        rows.push(vec![
            resource.kind.clone(),
            format!("{}/{}", resource.namespace, resource.name),
            condition_cell(resource, "Accepted"),
            condition_cell(resource, "Programmed"),
            messages.join("; "),
        ]);
    }
    let mut out = columns(&rows);
    for resource in resources {
        let revisions = resource.revisions.iter().map(|revision| {
            let short = revision.sha256.get(..12).unwrap_or(&revision.sha256);
            format!("sha256:{short} runs on {} proxies ({} %)", revision.proxies, revision.percent)
        });
        let rejections = resource.rejections.iter();
        let rejections = rejections.map(|found| format!("{} rejected it: {}", found.proxy, found.reason.trim()));
        let limitations = resource.limitations.iter().map(|found| format!("{}: {}", found.field, found.message));
        let rollout = resource.rollout.iter().map(rollout_line);
        let lines: Vec<_> = revisions.chain(rollout).chain(rejections).chain(limitations).collect();
        if !lines.is_empty() {
            let (namespace, name) = (&resource.namespace, &resource.name);
            let _ = write!(out, "\n{} {namespace}/{name}\n  {}\n", resource.kind, lines.join("\n  "));
        }
    }
    out
}

fn rollout_line(rollout: &ShownRollout) -> String {
    let mut line = format!("rollout: {}", rollout.state);
    if let Some(revision) = &rollout.revision {
        // Writing to a string cannot fail.
        let _ = write!(line, ", revision {revision}");
    }
    if let Some(percent) = rollout.percent {
        let _ = write!(line, " at {percent} %");
    }
    if !rollout.steps.is_empty() {
        let steps: Vec<_> = rollout.steps.iter().map(ToString::to_string).collect();
        let _ = write!(line, " of steps {}", steps.join(", "));
    }
    match (rollout.step_seconds, &rollout.reason) {
        (Some(seconds), _) => _ = write!(line, ", for {seconds} s"),
        (None, Some(reason)) => _ = write!(line, ": {}", reason.trim()),
        (None, None) if rollout.percent.is_some() => line.push_str(", on its way to the proxies"),
        (None, None) => {}
    }
    line
}

/// The worst of the conditions of a type: a route has one for each parent.
fn condition_cell(resource: &ResourceStatus, kind: &str) -> String {
    let found: Vec<_> = resource.conditions.iter().filter(|condition| condition.kind == kind).collect();
    match found.iter().find(|condition| !condition.status) {
        Some(bad) => bad.reason.clone(),
        None if found.is_empty() => "-".to_owned(),
        None => "yes".to_owned(),
    }
}

fn state(state: SyncState) -> &'static str {
    match state {
        SyncState::Acked => "acked",
        SyncState::Pending => "pending",
        SyncState::Stale => "stale",
        SyncState::Nacked => "nacked",
        SyncState::Disconnected => "disconnected",
    }
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0}s"),
        s if s < 3600.0 => format!("{:.0}m", (s / 60.0).floor()),
        s if s < 86_400.0 => format!("{:.0}h", (s / 3600.0).floor()),
        s => format!("{:.0}d", (s / 86_400.0).floor()),
    }
}

fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in [(0.4, "0s"), (59.0, "59s"), (61.0, "1m"), (7300.0, "2h"), (200_000.0, "2d")] {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&rows), "A      B\nlong   x\n");
    }
}
