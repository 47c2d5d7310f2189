//! Wasm plugins: Envoy's `Wasm` and our own, in a listener or as an ECDS resource.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    Backoff, CodeSource, ExtensionConfig, FailurePolicy, Guardrails, Isolation, Limits, ModuleCode, Resource, Rollout,
    RolloutShare, WasmOverride, WasmPlugin, WasmVm,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::wasm::v3 as wasm;
use pb::google::protobuf::{self, Any, value::Kind};
use pb::outrigger::filters::http::wasm::v1 as own;
use prost::Message;
use sha2::{Digest, Sha256};

use super::access_log::{json_number, message};
use super::common::{duration, flag, name, origin, variant};
use super::{Rejection, XdsResource};
use crate::Diagnostics;

/// What a fetch of code may take where `http_uri.timeout` is too long or unset.
const FETCH_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A fetch is tried again this often at most.
const FETCH_RETRIES_MAX: u32 = 10;

/// Shared queues and what waits in each lie in the proxy's memory, not in the guest's.
const SHARED_QUEUES_MAX: u64 = 4096;
const SHARED_QUEUE_BYTES_MAX: u64 = 1 << 30;
const SHARED_QUEUE_MESSAGES_MAX: u64 = 1_000_000;

/// Names of revisions and tries.
const REVISION_BYTES_MAX: usize = 64;
/// The share that is all streams.
const ALL: u32 = 10_000;

impl XdsResource for ExtensionConfig {
    type Proto = core::TypedExtensionConfig;
    const TYPE_URL: &'static str = type_url::TYPED_EXTENSION_CONFIG;

    fn name(proto: &Self::Proto) -> &str {
        &proto.name
    }

    fn validate(proto: Self::Proto, diagnostics: &mut Diagnostics) -> Result<ExtensionConfig, Rejection> {
        let name = name(&proto.name, "name", diagnostics);
        let Some(config) = &proto.typed_config else {
            diagnostics.at("typed_config", |d| d.error("is required"));
            return Err(Rejection);
        };
        let decoded = diagnostics.at("typed_config", |d| match filter(&name, config, d) {
            Some(decoded) => decoded,
            None => {
                let kind = type_url::message_name(&config.type_url);
                d.error(format!("type {kind} is not supported by extension discovery, only Wasm filters"));
                None
            }
        });
        let origin = origin(&name, None, diagnostics);
        let (plugin, rollout) = decoded.ok_or(Rejection)?;
        let plugin = Arc::new(plugin);
        Ok(ExtensionConfig { name, origin, type_url: config.type_url.clone(), plugin, rollout: rollout.map(Arc::new) })
    }

    fn into_resource(self) -> Resource {
        Resource::Extension(Arc::new(self))
    }
}

/// The plugin of a Wasm filter's configuration, and a new revision beside it; the outer `None` where the type is another.
fn filter(filter: &Arc<str>, config: &Any, d: &mut Diagnostics) -> Option<Option<(WasmPlugin, Option<Rollout>)>> {
    if type_url::message_name(&config.type_url) != type_url::message_name(type_url::OUTRIGGER_WASM) {
        let found = network_plugin(filter, config, d).or_else(|| plugin(filter, config, d));
        return Some(found?.map(|plugin| (plugin, None)));
    }
    let config: Option<own::Wasm> = message(config, d);
    Some(config.and_then(|config| {
        let plugin = revision(filter, &config, d);
        let rollout = match &config.rollout {
            Some(proto) => Some(d.at("rollout", |d| rollout(filter, proto, d))?),
            None => None,
        };
        Some((plugin?, rollout))
    }))
}

/// The plugin of a Wasm filter's configuration in a listener; the outer `None` where the type is another.
pub(crate) fn plugin(filter: &Arc<str>, config: &Any, d: &mut Diagnostics) -> Option<Option<WasmPlugin>> {
    let name = type_url::message_name(&config.type_url);
    if name == type_url::message_name(type_url::HTTP_WASM) {
        let config: Option<pb::envoy::extensions::filters::http::wasm::v3::Wasm> = message(config, d);
        return Some(config.and_then(|config| plugin_config(filter, config.config.as_ref(), Default::default(), d)));
    }
    if name == type_url::message_name(type_url::OUTRIGGER_WASM) {
        let config: Option<own::Wasm> = message(config, d);
        return Some(config.and_then(|config| {
            if config.rollout.is_some() {
                d.at("rollout", |d| d.error("is only supported in extension discovery (config_discovery)"));
            }
            revision(filter, &config, d)
        }));
    }
    None
}

/// The plugin of a Wasm network filter; the outer `None` where the type is another.
pub(super) fn network_plugin(filter: &Arc<str>, config: &Any, d: &mut Diagnostics) -> Option<Option<WasmPlugin>> {
    if type_url::message_name(&config.type_url) != type_url::message_name(type_url::NETWORK_WASM) {
        return None;
    }
    let config: Option<pb::envoy::extensions::filters::network::wasm::v3::Wasm> = message(config, d);
    Some(config.and_then(|config| plugin_of(filter, config.config.as_ref(), d)))
}

/// One revision of our own message.
fn revision(filter: &Arc<str>, config: &own::Wasm, d: &mut Diagnostics) -> Option<WasmPlugin> {
    let isolation = isolation(config, d)?;
    let limits = d.at("limits", |d| limits(config.limits.as_ref(), isolation, d));
    let mut plugin = plugin_config(filter, config.config.as_ref(), (limits, isolation), d)?;
    let vm = Arc::make_mut(&mut plugin.vm);
    if config.revision.len() > REVISION_BYTES_MAX {
        d.at("revision", |d| d.error(format!("is longer than {REVISION_BYTES_MAX} bytes")));
    }
    vm.revision = Arc::from(config.revision.as_str());
    if !config.machine_code_uri.is_empty() {
        d.at("machine_code_uri", |d| match &mut vm.code.source {
            CodeSource::Remote { machine_code, .. } if is_fetchable(&config.machine_code_uri) => {
                *machine_code = Some(config.machine_code_uri.clone());
            }
            CodeSource::Remote { .. } => d.error("is not an http:// address"),
            CodeSource::File(_) | CodeSource::Inline(_) => {
                d.error("needs remote code, whose cluster it is fetched from")
            }
        });
    }
    Some(plugin)
}

fn rollout(filter: &Arc<str>, proto: &own::Rollout, d: &mut Diagnostics) -> Option<Rollout> {
    if proto.id.len() > REVISION_BYTES_MAX || (proto.id.is_empty() && !proto.shadow_only) {
        d.at("id", |d| d.error(format!("is not a name of 1 to {REVISION_BYTES_MAX} bytes")));
    }
    let candidate = d.at("candidate", |d| {
        let Some(candidate) = &proto.candidate else {
            d.error("is required");
            return None;
        };
        if candidate.rollout.is_some() {
            d.at("rollout", |d| d.error("a rollout has no rollout of its own"));
        }
        revision(filter, candidate, d)
    });
    if proto.share > ALL {
        d.at("share", |d| d.error(format!("is more than {ALL} hundredths of a percent")));
    }
    if proto.shadow_only && !proto.shadow {
        d.at("shadow_only", |d| d.error("is set without shadow"));
    }
    let share = match (proto.shadow, proto.shadow_only) {
        (true, true) => RolloutShare::ShadowOnly,
        (true, false) => RolloutShare::Shadow,
        (false, _) => RolloutShare::Of10k(proto.share),
    };
    let guardrails = d.at("guardrails", |d| guardrails(proto.guardrails.as_ref(), d));
    let mut candidate = candidate?;
    Arc::make_mut(&mut candidate.vm).shadow = proto.shadow;
    Some(Rollout { id: Arc::from(proto.id.as_str()), candidate: Arc::new(candidate), share, guardrails })
}

fn guardrails(proto: Option<&own::Guardrails>, d: &mut Diagnostics) -> Guardrails {
    const MILLION: f64 = 1_000_000.0;
    let Some(proto) = proto else { return Guardrails::default() };
    let rate = |rate: Option<f64>, field: &'static str, d: &mut Diagnostics| {
        let rate = rate?;
        if !(0.0..=1.0).contains(&rate) {
            d.at(field, |d| d.error("is not a share from 0 to 1"));
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
        Some((rate * MILLION).round() as u32)
    };
    Guardrails {
        trap_rate: rate(proto.trap_rate, "trap_rate", d),
        error_rate: rate(proto.error_rate, "error_rate", d),
        added_latency: duration(proto.added_latency.as_ref(), "added_latency", d),
    }
}

fn is_fetchable(uri: &str) -> bool {
    (uri.starts_with("http://") || uri.starts_with("https://")) && uri.len() <= 8192
}

/// The plugin of Envoy's own configuration, which has neither limits nor isolation.
pub(super) fn plugin_of(
    filter: &Arc<str>,
    config: Option<&wasm::PluginConfig>,
    d: &mut Diagnostics,
) -> Option<WasmPlugin> {
    plugin_config(filter, config, Default::default(), d)
}

fn limits(proto: Option<&own::Limits>, isolation: Isolation, d: &mut Diagnostics) -> Limits {
    /// Linear memory of a 32-bit guest.
    const MEMORY_BYTES_MAX: u64 = 4 << 30;
    const CALLBACK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
    let mut limits = Limits::default();
    let Some(proto) = proto else { return limits };
    let time = |value: Option<&protobuf::Duration>, default: Duration, field: &'static str, d: &mut Diagnostics| {
        let value = duration(value, field, d).unwrap_or(default);
        if value.is_zero() || value > CALLBACK_TIMEOUT_MAX {
            d.at(field, |d| d.error("is not above 0 s and up to 60 s"));
        }
        value
    };
    limits.callback_timeout = time(proto.callback_timeout.as_ref(), limits.callback_timeout, "callback_timeout", d);
    limits.start_timeout = time(proto.start_timeout.as_ref(), limits.start_timeout, "start_timeout", d);
    match isolation {
        Isolation::Stream if proto.memory_bytes > Isolation::STREAM_MEMORY_BYTES_MAX => {
            let most = Isolation::STREAM_MEMORY_BYTES_MAX;
            d.at("memory_bytes", |d| d.error(format!("is more than {most}, which a stream's own instance can have")));
        }
        _ if proto.memory_bytes > MEMORY_BYTES_MAX => {
            d.at("memory_bytes", |d| d.error(format!("is more than {MEMORY_BYTES_MAX}")));
        }
        _ => {}
    }
    // Zero is unset.
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    limits.memory_bytes = or(proto.memory_bytes, limits.memory_bytes);
    limits.body_buffer_bytes = or(proto.body_buffer_bytes, limits.body_buffer_bytes);
    limits.log_bytes_per_second = or(proto.log_bytes_per_second, limits.log_bytes_per_second);
    let hostcalls = or(proto.hostcalls_per_callback, u64::from(limits.hostcalls_per_callback));
    limits.hostcalls_per_callback = u32::try_from(hostcalls).unwrap_or(u32::MAX);
    limits.shared_data_bytes = or(proto.shared_data_bytes, limits.shared_data_bytes);
    for (value, most, limit, field) in [
        (proto.shared_queues, SHARED_QUEUES_MAX, &mut limits.shared_queues, "shared_queues"),
        (proto.shared_queue_bytes, SHARED_QUEUE_BYTES_MAX, &mut limits.shared_queue_bytes, "shared_queue_bytes"),
        (
            proto.shared_queue_messages,
            SHARED_QUEUE_MESSAGES_MAX,
            &mut limits.shared_queue_messages,
            "shared_queue_messages",
        ),
    ] {
        if value > most {
            d.at(field, |d| d.error(format!("is more than {most}")));
        }
        *limit = or(value, *limit);
    }
    limits.http_calls_pending = or(proto.http_calls_pending, limits.http_calls_pending);
    limits.recycle_memory_bytes = or(proto.recycle_memory_bytes, limits.memory_bytes / 4 * 3);
    limits.recycle_streams = Some(proto.recycle_streams).filter(|streams| *streams > 0);
    limits
}

fn plugin_config(
    filter: &Arc<str>,
    proto: Option<&wasm::PluginConfig>,
    (limits, isolation): (Limits, Isolation),
    d: &mut Diagnostics,
) -> Option<WasmPlugin> {
    d.at("config", |d| {
        let Some(proto) = proto else {
            d.error("is required");
            return None;
        };
        let Some(wasm::plugin_config::Vm::VmConfig(vm)) = &proto.vm else {
            d.at("vm_config", |d| d.error("is required"));
            return None;
        };
        let failure_policy = failure_policy(proto, d);
        let configuration = any_bytes(proto.configuration.as_ref(), "configuration", d);
        let vm = vm_config(proto, vm, limits, isolation, d);
        let name = if proto.name.is_empty() { Arc::clone(filter) } else { Arc::from(proto.name.as_str()) };
        Some(WasmPlugin {
            name,
            root_id: proto.root_id.clone(),
            configuration,
            failure_policy: failure_policy?,
            allow_on_headers_stop_iteration: flag(proto.allow_on_headers_stop_iteration, false),
            vm: vm?,
        })
    })
}

fn vm_config(
    proto: &wasm::PluginConfig,
    vm: &wasm::VmConfig,
    limits: Limits,
    isolation: Isolation,
    d: &mut Diagnostics,
) -> Option<Arc<WasmVm>> {
    let (code, configuration, environment) = d.at("vm_config", |d| {
        if vm.runtime == "envoy.wasm.runtime.null" {
            d.at("runtime", |d| d.error("runs C++ that is linked into Envoy, which is not supported"));
        }
        let code = d.at("code", |d| code(vm.code.as_ref(), d));
        let configuration = any_bytes(vm.configuration.as_ref(), "configuration", d);
        let environment = d.at("environment_variables", |d| environment(vm.environment_variables.as_ref(), d));
        (code, configuration, environment)
    });
    Some(Arc::new(WasmVm {
        vm_id: vm.vm_id.clone(),
        code: code?,
        configuration,
        environment,
        limits,
        capabilities: capabilities(proto, vm),
        isolation,
        revision: Arc::default(),
        shadow: false,
    }))
}

/// A Wasm filter's configuration for a scope of routes; the outer `None` where the type is another. Without a `vm_config`
/// it is another configuration in the filter's own VM; with one it is a plugin of its own.
pub(crate) fn per_route(config: &Any, d: &mut Diagnostics) -> Option<Option<WasmOverride>> {
    if type_url::message_name(&config.type_url) != type_url::message_name(type_url::OUTRIGGER_WASM) {
        return None;
    }
    let config: Option<own::Wasm> = message(config, d);
    Some(config.and_then(|config| {
        let Some(proto) = &config.config else {
            d.at("config", |d| d.error("is required"));
            return None;
        };
        if config.rollout.is_some() {
            d.at("rollout", |d| d.error("is only supported in extension discovery (config_discovery)"));
        }
        let vm = match &proto.vm {
            Some(wasm::plugin_config::Vm::VmConfig(_)) => Some(revision(&Arc::default(), &config, d)?.vm),
            None => {
                for (is_set, field) in [
                    (!config.revision.is_empty(), "revision"),
                    (!config.machine_code_uri.is_empty(), "machine_code_uri"),
                    (config.limits.is_some(), "limits"),
                    (config.isolation != own::Isolation::Shared as i32, "isolation"),
                ] {
                    if is_set {
                        d.at(field, |d| d.error("is the VM's: only with config.vm_config, or at the filter itself"));
                    }
                }
                None
            }
        };
        d.at("config", |d| override_of(proto, vm, d))
    }))
}

#[expect(deprecated, reason = "fail_open is still in use")]
fn override_of(proto: &wasm::PluginConfig, vm: Option<Arc<WasmVm>>, d: &mut Diagnostics) -> Option<WasmOverride> {
    let says_policy = proto.fail_open || proto.failure_policy != wasm::FailurePolicy::Unspecified as i32;
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    Some(WasmOverride {
        name: given(&proto.name).map(Arc::from),
        root_id: given(&proto.root_id),
        configuration: proto
            .configuration
            .as_ref()
            .map(|_| any_bytes(proto.configuration.as_ref(), "configuration", d)),
        failure_policy: if says_policy { Some(failure_policy(proto, d)?) } else { None },
        allow_on_headers_stop_iteration: proto.allow_on_headers_stop_iteration.map(|flag| flag.value),
        vm,
    })
}

fn isolation(config: &own::Wasm, d: &mut Diagnostics) -> Option<Isolation> {
    Some(match variant::<own::Isolation>(config.isolation, "isolation", d)? {
        own::Isolation::Shared => Isolation::Shared,
        own::Isolation::Plugin => Isolation::Plugin,
        own::Isolation::Stream => Isolation::Stream,
    })
}

#[expect(deprecated, reason = "fail_open is still in use")]
fn failure_policy(proto: &wasm::PluginConfig, d: &mut Diagnostics) -> Option<FailurePolicy> {
    use wasm::FailurePolicy as Policy;
    let policy = variant::<Policy>(proto.failure_policy, "failure_policy", d)?;
    if proto.fail_open && policy != Policy::Unspecified {
        d.at("fail_open", |d| d.error("is set together with failure_policy"));
    }
    Some(match policy {
        Policy::Unspecified if proto.fail_open => FailurePolicy::Open,
        Policy::Unspecified | Policy::FailClosed => FailurePolicy::Closed,
        Policy::FailOpen => FailurePolicy::Open,
        Policy::FailReload => FailurePolicy::Reload(reload_backoff(proto, d)),
    })
}

/// `reload_config.backoff`, with Envoy's defaults.
fn reload_backoff(proto: &wasm::PluginConfig, d: &mut Diagnostics) -> Backoff {
    const INTERVAL_MAX: Duration = Duration::from_secs(3600);
    let backoff = proto.reload_config.as_ref().and_then(|reload| reload.backoff.as_ref());
    let (base, max) = d.at("reload_config", |d| {
        d.at("backoff", |d| {
            let base = backoff.and_then(|backoff| duration(backoff.base_interval.as_ref(), "base_interval", d));
            (base, backoff.and_then(|backoff| duration(backoff.max_interval.as_ref(), "max_interval", d)))
        })
    });
    let base = base.unwrap_or(Duration::from_secs(1)).clamp(Duration::from_millis(1), INTERVAL_MAX);
    Backoff { base, max: max.unwrap_or(base * 10).clamp(base, INTERVAL_MAX) }
}

/// No restriction where the list is empty, as in Envoy.
#[expect(deprecated, reason = "the plugin's own list is still in use")]
fn capabilities(proto: &wasm::PluginConfig, vm: &wasm::VmConfig) -> Option<BTreeSet<String>> {
    let lists = [&vm.capability_restriction_config, &proto.capability_restriction_config];
    let list = lists.into_iter().flatten().find(|list| !list.allowed_capabilities.is_empty())?;
    Some(list.allowed_capabilities.keys().cloned().collect())
}

fn code(proto: Option<&core::AsyncDataSource>, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::async_data_source::Specifier;
    match proto.and_then(|proto| proto.specifier.as_ref()) {
        Some(Specifier::Local(local)) => d.at("local", |d| local_code(local, d)),
        Some(Specifier::Remote(remote)) => d.at("remote", |d| remote_code(remote, d)),
        None => {
            d.error("is required: local or remote");
            None
        }
    }
}

fn local_code(proto: &core::DataSource, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::data_source::Specifier;
    let inline = |bytes: Bytes| {
        let sha256 = Some(Sha256::digest(&bytes).into());
        Some(ModuleCode { source: CodeSource::Inline(bytes), sha256 })
    };
    match &proto.specifier {
        Some(Specifier::Filename(path)) if path.is_empty() => {
            d.at("filename", |d| d.error("is required"));
            None
        }
        Some(Specifier::Filename(path)) => {
            Some(ModuleCode { source: CodeSource::File(PathBuf::from(path)), sha256: None })
        }
        Some(Specifier::InlineBytes(bytes)) => inline(Bytes::copy_from_slice(bytes)),
        Some(Specifier::InlineString(text)) => inline(Bytes::copy_from_slice(text.as_bytes())),
        Some(Specifier::EnvironmentVariable(_)) => {
            d.at("environment_variable", |d| d.error("holds no module: filename or inline_bytes"));
            None
        }
        None => {
            d.error("names no source");
            None
        }
    }
}

fn remote_code(proto: &core::RemoteDataSource, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::http_uri::HttpUpstreamType;
    let Some(uri) = &proto.http_uri else {
        d.at("http_uri", |d| d.error("is required"));
        return None;
    };
    let sha256 = hex(&proto.sha256);
    if sha256.is_none() {
        d.at("sha256", |d| d.error("is not a SHA-256 digest of 64 hexadecimal digits"));
    }
    let retries = proto.retry_policy.as_ref().and_then(|policy| policy.num_retries).map_or(1, |retries| retries.value);
    let (cluster, timeout) = d.at("http_uri", |d| {
        if !is_fetchable(&uri.uri) {
            d.at("uri", |d| d.error("is not an http:// address"));
        }
        let cluster = uri.http_upstream_type.as_ref().map(|HttpUpstreamType::Cluster(cluster)| cluster.as_str());
        let cluster = cluster.unwrap_or_default();
        let timeout = duration(uri.timeout.as_ref(), "timeout", d);
        if timeout.is_none_or(|timeout| timeout.is_zero() || timeout > FETCH_TIMEOUT_MAX) {
            d.at("timeout", |d| d.error("is required, above 0 s and up to 600 s"));
        }
        (name(cluster, "cluster", d), timeout.unwrap_or_default())
    });
    let retries = retries.min(FETCH_RETRIES_MAX);
    let source = CodeSource::Remote { uri: uri.uri.clone(), cluster, timeout, retries, machine_code: None };
    Some(ModuleCode { source, sha256: Some(sha256?) })
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

fn environment(proto: Option<&wasm::EnvironmentVariables>, d: &mut Diagnostics) -> Vec<(String, String)> {
    let Some(proto) = proto else { return Vec::new() };
    let mut variables: Vec<(String, String)> =
        proto.key_values.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut keys: BTreeSet<&String> = proto.key_values.keys().collect();
    for (index, key) in proto.host_env_keys.iter().enumerate() {
        if !keys.insert(key) {
            d.at_index("host_env_keys", index, |d| d.error(format!("{key} stands here twice")));
        }
        // One that isn't set is left out, as in Envoy.
        if let Ok(value) = std::env::var(key) {
            variables.push((key.clone(), value));
        }
    }
    variables.sort();
    variables
}

/// The bytes that a guest sees of a configuration: text and bytes as they are, a struct as JSON, else the message.
fn any_bytes(config: Option<&Any>, field: &'static str, d: &mut Diagnostics) -> Bytes {
    let Some(config) = config else { return Bytes::new() };
    d.at(field, |d| {
        let name = type_url::message_name(&config.type_url);
        let bytes = if name == type_url::message_name(type_url::STRING_VALUE) {
            String::decode(&config.value[..]).map(Bytes::from)
        } else if name == type_url::message_name(type_url::BYTES_VALUE) {
            Vec::<u8>::decode(&config.value[..]).map(Bytes::from)
        } else if name == type_url::message_name(type_url::STRUCT) {
            protobuf::Struct::decode(&config.value[..]).map(|fields| {
                let mut out = String::new();
                json_object(&fields, &mut out);
                Bytes::from(out)
            })
        } else {
            Ok(Bytes::copy_from_slice(&config.value))
        };
        bytes.unwrap_or_else(|error| {
            d.error(format!("malformed message: {error}"));
            Bytes::new()
        })
    })
}

/// A struct as JSON, keys sorted. Its depth is what prost decodes, 100 at most.
fn json_object(fields: &protobuf::Struct, out: &mut String) {
    let mut names: Vec<(&String, &protobuf::Value)> = fields.fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    out.push('{');
    for (index, (name, value)) in names.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json_string(name, out);
        out.push(':');
        json_value(value, out);
    }
    out.push('}');
}

fn json_value(value: &protobuf::Value, out: &mut String) {
    match &value.kind {
        Some(Kind::StringValue(text)) => json_string(text, out),
        Some(Kind::NumberValue(number)) => out.push_str(&json_number(*number)),
        Some(Kind::BoolValue(value)) => out.push_str(if *value { "true" } else { "false" }),
        Some(Kind::NullValue(_)) | None => out.push_str("null"),
        Some(Kind::StructValue(fields)) => json_object(fields, out),
        Some(Kind::ListValue(list)) => {
            out.push('[');
            for (index, value) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json_value(value, out);
            }
            out.push(']');
        }
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' | '\x7f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
