//! `WasmFilter` (outrigger.dev/v1alpha1). [`crate::schema`] has the same fields as types, for the JSON schema.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_model::{
    Digest, FailurePolicy, FilterTarget, Guardrails, Isolation, Limits, Module, ObjectId, Phase, Revision, RolloutPlan,
    TargetKind, WasmFilter,
};

use super::Head;
use super::refs::GATEWAY_GROUP;
use crate::decode::{Decoder, Fields, Wanted};
use crate::module::{ModuleSource, Origin};
use crate::node::{Node, Value};
use crate::scalar;

const TARGETS_MAX: usize = 16;
const ENV_MAX: usize = 128;
const CONFIG_BYTES_MAX: usize = 1 << 20;

pub(super) fn decode<'a>(
    cx: &Decoder<'a>,
    fields: &mut Fields<'_, 'a>,
    head: &Head,
    modules: &mut dyn ModuleSource,
) -> Option<WasmFilter> {
    let mut spec = cx.object(fields.required("spec")?)?;
    let targets = spec.required("targetRefs").map(|node| targets(cx, node, head)).unwrap_or_default();
    let module = spec.required("source").and_then(|node| module(cx, node, modules));
    let phases = [
        ("AuthN", Phase::AuthN),
        ("AuthZ", Phase::AuthZ),
        ("Stats", Phase::Stats),
        ("Unspecified", Phase::Unspecified),
    ];
    let phase = spec.take("phase").and_then(|node| cx.choice(node, &phases)).unwrap_or_default();
    let priority_range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    let priority = spec.take("priority").and_then(|node| cx.integer(node, priority_range)).unwrap_or(0);
    let config = spec.take("config").map(|node| config(cx, node)).unwrap_or_default();
    let policies =
        [("Closed", FailurePolicy::Closed), ("Open", FailurePolicy::Open), ("Reload", FailurePolicy::Reload)];
    let failure_policy = spec.take("failurePolicy").and_then(|node| cx.choice(node, &policies)).unwrap_or_default();
    let isolations = [("Shared", Isolation::Shared), ("Plugin", Isolation::Plugin), ("Stream", Isolation::Stream)];
    let isolation = spec.take("isolation").and_then(|node| cx.choice(node, &isolations)).unwrap_or_default();
    let limits = spec.take("limits").map(|node| limits(cx, node, isolation)).unwrap_or_default();
    let env = spec.take("env").map(|node| env(cx, node)).unwrap_or_default();
    let rollout = spec.take("rollout").and_then(|node| rollout(cx, node));
    let shadow = spec.take("shadow").and_then(|node| cx.boolean(node)).unwrap_or(false);
    let (id, source) = (head.id(), Arc::clone(&head.source));
    let revision = Arc::new(Revision { module: module?, config, failure_policy, limits, isolation, env });
    Some(WasmFilter { id, targets, phase, priority, revision, rollout, shadow, trial: None, source })
}

fn targets<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head) -> Vec<FilterTarget> {
    let items = cx.list(node, TARGETS_MAX);
    if items.is_empty() {
        cx.error(node, "at least one target is required");
    }
    let mut targets: Vec<FilterTarget> = Vec::new();
    for item in items {
        let Some(target) = target(cx, item, head) else { continue };
        if targets.contains(&target) {
            cx.error(item, "the same target twice");
        } else {
            targets.push(target);
        }
    }
    targets
}

fn target<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head) -> Option<FilterTarget> {
    let mut fields = cx.object(node)?;
    let group_node = fields.required("group");
    let kinds =
        [("Gateway", TargetKind::Gateway), ("HTTPRoute", TargetKind::HttpRoute), ("Service", TargetKind::Service)];
    let kind = fields.required("kind").and_then(|node| cx.choice(node, &kinds));
    let name = fields.required("name").and_then(|node| cx.parsed(node, scalar::subdomain));
    let section_node = fields.take("sectionName");
    let section = section_node.map(|node| cx.parsed(node, scalar::subdomain));
    let (group_node, kind) = (group_node?, kind?);
    let group = cx.string(group_node)?;
    let expected = if kind == TargetKind::Service { "" } else { GATEWAY_GROUP };
    if group != expected {
        cx.error(group_node, format!("{} is of group `{expected}`, not `{group}`", kind.as_str()));
        return None;
    }
    let id = ObjectId::new(Arc::clone(head.namespace()), name?);
    let section = super::refs::flatten(section)?;
    match kind {
        TargetKind::Gateway => cx.refer(node, Wanted::Gateway(id.clone(), section.clone())),
        TargetKind::HttpRoute => cx.refer(node, Wanted::Route(id.clone(), section.clone())),
        TargetKind::Service => {
            if let Some(section) = section_node {
                cx.error(section, "a Service has no sections");
            }
            cx.warning(node, "sidecars are not served yet: a filter on a Service has no effect");
        }
    }
    Some(FilterTarget { kind, id, section })
}

fn module<'a>(cx: &Decoder<'a>, node: &'a Node, modules: &mut dyn ModuleSource) -> Option<Module> {
    let mut fields = cx.object(node)?;
    let (kind, node) = fields.one_of(&["file", "http", "oci"])?;
    let mut source = cx.object(node)?;
    let (origin, place) = match kind {
        "file" => {
            let path = source.required("path");
            let sha256 = source.take("sha256").map(|node| digest(cx, node));
            let path = path?;
            let text = cx.text(path, 4096)?;
            (Origin::File { path: text, sha256: super::refs::flatten(sha256)? }, path)
        }
        "http" => {
            let url = source.required("url");
            let sha256 = source.required("sha256").and_then(|node| digest(cx, node));
            let url = url?;
            let text = cx.parsed(url, http_url)?;
            (Origin::Http { url: text, sha256: sha256? }, url)
        }
        _ => {
            source.required("image");
            source.ignore(&["pullSecretRef"]);
            cx.error(node, "modules from OCI registries are not supported yet: use file or http");
            return None;
        }
    };
    match modules.module(cx.file_name(), &origin) {
        Ok(module) => Some(module),
        Err(message) => {
            cx.error(place, message);
            None
        }
    }
}

fn digest<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<Digest> {
    cx.parsed(node, |text| text.parse().map_err(|error: outrigger_model::DigestError| error.to_string()))
}

fn http_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let ok = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && text.len() <= 2048
        && text.chars().all(|c| c.is_ascii_graphic());
    if ok { Ok(text.to_owned()) } else { Err(format!("`{text}` is not an http:// or https:// URL")) }
}

/// JSON, or a text as it is.
fn config<'a>(cx: &Decoder<'a>, node: &'a Node) -> Bytes {
    let config = match &node.value {
        Value::String(text) => text.clone(),
        _ => node.to_json(),
    };
    if config.len() > CONFIG_BYTES_MAX {
        cx.error(node, format!("{} bytes, more than {CONFIG_BYTES_MAX}", config.len()));
        return Bytes::new();
    }
    Bytes::from(config)
}

fn limits<'a>(cx: &Decoder<'a>, node: &'a Node, isolation: Isolation) -> Limits {
    const HOUR: Duration = Duration::from_secs(3600);
    const MILLISECOND: Duration = Duration::from_millis(1);
    // What the proxy has where `memory` is not set.
    const MEMORY: u64 = 64 << 20;
    // What it has room for in an instance of one stream.
    const STREAM_MEMORY_MAX: u64 = 64 << 20;
    let Some(mut fields) = cx.object(node) else { return Limits::default() };
    // One page of Wasm's memory, and all that 32 bits can address.
    let memory_range = 1 << 16..=1 << 32;
    let memory_node = fields.take("memory");
    let memory_bytes = quantity(cx, memory_node, memory_range.clone());
    if let (Isolation::Stream, Some(node)) = (isolation, memory_node)
        && memory_bytes > Some(STREAM_MEMORY_MAX)
    {
        cx.error(
            node,
            format!("with isolation Stream at most {STREAM_MEMORY_MAX} bytes: the proxy's pool has no more"),
        );
    }
    let recycle_node = fields.take("recycleMemory");
    let recycle_memory_bytes = quantity(cx, recycle_node, memory_range);
    if let (Some(node), Some(mark)) = (recycle_node, recycle_memory_bytes)
        && mark > memory_bytes.unwrap_or(MEMORY)
    {
        cx.error(
            node,
            format!("is more than memory ({} bytes): no instance gets there", memory_bytes.unwrap_or(MEMORY)),
        );
    }
    let count = 1..=i64::from(u32::MAX);
    Limits {
        callback_timeout: duration(cx, fields.take("callbackTimeout"), MILLISECOND..=Duration::from_secs(60)),
        start_timeout: duration(cx, fields.take("startTimeout"), MILLISECOND..=HOUR),
        memory_bytes,
        body_buffer_bytes: quantity(cx, fields.take("bodyBuffer"), 1..=1 << 30),
        log_bytes_per_second: quantity(cx, fields.take("logBytesPerSecond"), 0..=1 << 30),
        hostcalls_per_callback: fields.take("hostcallsPerCallback").and_then(|node| cx.integer(node, count.clone())),
        shared_data_bytes: quantity(cx, fields.take("sharedData"), 1..=1 << 32),
        shared_queues: fields.take("sharedQueues").and_then(|node| cx.integer(node, 1..=4096)),
        shared_queue_bytes: quantity(cx, fields.take("sharedQueueBytes"), 1..=1 << 30),
        shared_queue_messages: fields.take("sharedQueueMessages").and_then(|node| cx.integer(node, 1..=1_000_000)),
        http_calls_pending: fields.take("httpCallsPending").and_then(|node| cx.integer(node, count)),
        recycle_memory_bytes,
        recycle_streams: fields.take("recycleStreams").and_then(|node| cx.integer(node, 1..=i64::MAX)),
    }
}

fn duration<'a>(cx: &Decoder<'a>, node: Option<&'a Node>, range: RangeInclusive<Duration>) -> Option<Duration> {
    let node = node?;
    let value = cx.parsed(node, scalar::duration)?;
    if !range.contains(&value) {
        cx.error(node, format!("must be from {:?} to {:?}", range.start(), range.end()));
        return None;
    }
    Some(value)
}

fn quantity<'a>(cx: &Decoder<'a>, node: Option<&'a Node>, range: RangeInclusive<u64>) -> Option<u64> {
    let node = node?;
    let value = match &node.value {
        // As Kubernetes: a plain number is a quantity, too.
        Value::Number(number) => number.as_u64(),
        _ => Some(cx.parsed(node, scalar::quantity)?),
    };
    let value = value.filter(|value| range.contains(value));
    if value.is_none() {
        cx.error(node, format!("must be from {} to {} bytes", range.start(), range.end()));
    }
    value
}

fn env<'a>(cx: &Decoder<'a>, node: &'a Node) -> Vec<(Arc<str>, Arc<str>)> {
    let mut env: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for item in cx.list(node, ENV_MAX) {
        let Some(mut fields) = cx.object(item) else { continue };
        fields.refuse(&["valueFrom"]);
        let name = fields.required("name").and_then(|node| cx.parsed(node, env_name));
        let value = fields.take("value").map_or(Some(""), |node| cx.parsed(node, env_value).and(node.as_str()));
        let (Some(name), Some(value)) = (name, value) else { continue };
        if env.iter().any(|(other, _)| *other == name) {
            cx.error(item, format!("`{name}` twice"));
        } else {
            env.push((name, Arc::from(value)));
        }
    }
    env.sort();
    env
}

fn env_name(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > 256 || text.contains(['=', '\0']) {
        return Err("must be a name of 1 to 256 characters without `=`".to_owned());
    }
    Ok(Arc::from(text))
}

fn env_value(text: &str) -> Result<(), String> {
    if text.len() > 32 << 10 || text.contains('\0') {
        return Err("must have at most 32 KiB and no zero byte".to_owned());
    }
    Ok(())
}

const STEPS_MAX: usize = 16;
/// What a rollout that names no steps has.
const STEPS: [u8; 3] = [10, 50, 100];
const PAUSE: Duration = Duration::from_secs(30);
/// 0.1 %.
const TRAP_RATE: u32 = 1000;
/// 1 %.
const ERROR_RATE: u32 = 10_000;

/// A rollout without a guardrail would only spread an outage slowly: traps and errors are judged unless somebody says
/// `100%`.
fn rollout<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<RolloutPlan> {
    let mut fields = cx.object(node)?;
    let mut steps: Vec<u8> = Vec::new();
    for item in fields.list("steps", STEPS_MAX) {
        let Some(step): Option<i64> = cx.integer(item, 1..=100) else { continue };
        let step = u8::try_from(step).unwrap_or(100);
        if steps.last().is_some_and(|before| step <= *before) {
            cx.error(item, "steps are percentages that rise");
        }
        steps.push(step);
    }
    if steps.is_empty() {
        steps = STEPS.to_vec();
    }
    let pause = duration(cx, fields.take("pause"), Duration::ZERO..=Duration::from_secs(86_400)).unwrap_or(PAUSE);
    let mut guardrails = Guardrails { trap_rate: Some(TRAP_RATE), error_rate: Some(ERROR_RATE), added_latency: None };
    if let Some(mut rails) = fields.take("guardrails").and_then(|node| cx.object(node)) {
        for (field, rate) in [("trapRate", &mut guardrails.trap_rate), ("errorRate", &mut guardrails.error_rate)] {
            if let Some(set) = rails.take(field).and_then(|node| cx.parsed(node, scalar::percentage)) {
                *rate = Some(set);
            }
        }
        guardrails.added_latency = duration(cx, rails.take("addedLatency"), Duration::ZERO..=Duration::from_secs(60));
    }
    Some(RolloutPlan { steps, pause, guardrails })
}
