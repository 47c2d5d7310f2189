//! `WasmFilter`'s fields as types: what the JSON schema (and with it a CRD and editors) is made from. Loading goes
//! through the decoder of `kinds::wasm_filter`, which has better errors; a test holds the two together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// JSON schemas by kind, of the kinds of group `outrigger.dev`. Each describes `spec`.
pub fn schemas() -> BTreeMap<&'static str, serde_json::Value> {
    let generator = schemars::generate::SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    BTreeMap::from([("WasmFilter", generator.into_generator().into_root_schema_for::<WasmFilterSpec>().to_value())])
}

/// A Proxy-Wasm filter in the chain of what it targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WasmFilterSpec {
    /// What the filter runs on: a Gateway, an HTTPRoute or a Service of its namespace.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    pub source: Source,
    /// The place in the chain: phases in this order, then by priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseSpec>,
    /// Higher runs earlier within a phase; ties by namespace and name. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The plugin's configuration: any JSON, which it gets as JSON text; a string is given as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// What happens to requests when the filter is out of order. Default Closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// What shares a VM with what. Default Shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<IsolationSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Runs beside the traffic without changing it. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// `gateway.networking.k8s.io` for a Gateway or an HTTPRoute, empty for a Service.
    pub group: String,
    pub kind: String,
    pub name: String,
    /// A listener of the Gateway, or a named rule of the HTTPRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Where the module is. Exactly one is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSource {
    /// Relative to the YAML file, within the configuration folder.
    pub path: String,
    /// What the file's SHA-256 must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSource {
    pub url: String,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OciSource {
    /// `registry/name:tag@sha256:…`
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_secret_ref: Option<SecretRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PhaseSpec {
    AuthN,
    AuthZ,
    Stats,
    Unspecified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicySpec {
    /// 503.
    Closed,
    /// On without the filter.
    Open,
    /// Closed until a new instance is up.
    Reload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IsolationSpec {
    /// With every plugin of the same module.
    Shared,
    /// A VM for this plugin.
    Plugin,
    /// A VM for each request.
    Stream,
}

/// Durations like `10ms`, quantities like `64Mi`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsSpec {
    /// CPU time of one callback. Default 10ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_timeout: Option<String>,
    /// CPU time of the start. Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<String>,
    /// Linear memory of one instance. Default 64Mi, which is also the most with `isolation: Stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// What a filter holds back of one body. Default 1Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_buffer: Option<String>,
    /// Default 64Ki.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes_per_second: Option<String>,
    /// Default 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcalls_per_callback: Option<u32>,
    /// Keys and values that plugins share; beyond it the entries that were used longest ago go. Default 16Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_data: Option<String>,
    /// Shared queues that the plugin may register. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_queues: Option<u32>,
    /// What waits in one shared queue that the plugin registers, with 80 bytes for each message; a full one loses its oldest.
    /// Default 1Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_queue_bytes: Option<String>,
    /// Messages that wait in one. Default 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_queue_messages: Option<u32>,
    /// HTTP calls that may wait for their answer on one worker. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_calls_pending: Option<u32>,
    /// Memory from which an instance is recycled: a new one takes the next streams. At most `memory`, of which the
    /// default is three quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recycle_memory: Option<String>,
    /// Streams after which an instance is recycled. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recycle_streams: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

/// How a new revision spreads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Percentages of the streams, rising. Default 10, 50, 100. After the last one the new revision is the only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u8>,
    /// How long each step stays, from when every connected proxy has it. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guardrails: Option<Guardrails>,
}

/// What stops a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guardrails {
    /// Of the new revision's streams, those that met a trap. Default 0.1%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trap_rate: Option<String>,
    /// Of the new revision's streams, those answered with 5xx beyond the old revision's share. Default 1%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<String>,
    /// What the average time to the response's head may be longer than the old revision's. Default: not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_latency: Option<String>,
}
