//! Wasm filters, as ECDS resources: our own type with the module by digest for our proxies, Envoy's type with the module
//! inside for Envoy, which serves unfiltered after an update to remote code.

use std::time::Duration;

use outrigger_model::{FailurePolicy, Guardrails, Isolation, Limits, ObjectId, Revision, WasmFilter};
use outrigger_proto::pb::envoy::config::core::v3::async_data_source;
use outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier;
use outrigger_proto::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use outrigger_proto::pb::envoy::config::core::v3::{
    AsyncDataSource, DataSource, HttpUri, RemoteDataSource, RetryPolicy, TypedExtensionConfig,
};
use outrigger_proto::pb::envoy::extensions::filters::http::wasm::v3 as envoy;
use outrigger_proto::pb::envoy::extensions::wasm::v3::plugin_config::Vm;
use outrigger_proto::pb::envoy::extensions::wasm::v3::{
    EnvironmentVariables, FailurePolicy as PbFailurePolicy, PluginConfig, VmConfig,
};
use outrigger_proto::pb::google::protobuf::{Any, BytesValue, StringValue};
use outrigger_proto::pb::outrigger::filters::http::wasm::v1 as ours;
use outrigger_proto::type_url;

use super::cluster::MODULES_CLUSTER;
use super::proto::{any, any_of, duration, uint32};
use super::{Context, Profile};
use crate::canonical;
use crate::resource::{Limitation, Resource, ResourceType};

const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_RETRIES: u32 = 3;

/// The type URL of the filters that a client of this profile gets.
pub(super) fn type_url(profile: Profile) -> &'static str {
    match profile {
        Profile::Outrigger => type_url::OUTRIGGER_WASM,
        Profile::Envoy | Profile::Grpc => type_url::HTTP_WASM,
    }
}

/// Whether a client of this profile runs the filter at all: a shadow that stands beside nothing only our proxies can run.
pub(super) fn runs(filter: &WasmFilter, profile: Profile) -> bool {
    profile == Profile::Outrigger || !filter.trial.as_ref().is_some_and(|trial| trial.alone)
}

pub(super) fn resource(filter: &WasmFilter, context: Context) -> Resource {
    let name = filter.id.to_string();
    let revision = &filter.revision;
    let typed_config = match context.profile {
        Profile::Outrigger => any_of(&outrigger(filter, context), &canonical::WASM),
        Profile::Envoy | Profile::Grpc => {
            let code = async_data_source::Specifier::Local(DataSource {
                specifier: Some(Specifier::InlineBytes(revision.module.bytes().to_vec())),
                ..DataSource::default()
            });
            let config = plugin(revision, &filter.id, "envoy.wasm.runtime.v8", code);
            any_of(&envoy::Wasm { config: Some(config) }, &canonical::WASM)
        }
    };
    let message = TypedExtensionConfig { name: name.clone(), typed_config: Some(typed_config) };
    let body = canonical::encode(&message, &canonical::PLAIN);
    let resource = Resource::new(ResourceType::ExtensionConfig, &name, body);
    let resource = resource.with_module(&revision.module.sha256().to_string());
    match context.profile {
        Profile::Outrigger => {
            resource.with_stage(&filter.trial.as_ref().map_or_else(String::new, |trial| trial.stage()))
        }
        Profile::Envoy | Profile::Grpc => resource,
    }
}

fn outrigger(filter: &WasmFilter, context: Context) -> ours::Wasm {
    let trial = filter.trial.as_ref();
    // Revisions have a name where there may be two of them at once.
    let named = filter.is_staged();
    let rollout = trial.map(|trial| {
        Box::new(ours::Rollout {
            id: trial.id.clone(),
            candidate: Some(Box::new(one_revision(&trial.revision, &filter.id, named, context))),
            share: u32::from(trial.percent) * 100,
            guardrails: Some(guardrails(&trial.guardrails)),
            shadow: trial.shadow,
            shadow_only: trial.alone,
        })
    });
    ours::Wasm { rollout, ..one_revision(&filter.revision, &filter.id, named, context) }
}

fn guardrails(guardrails: &Guardrails) -> ours::Guardrails {
    let rate = |rate: Option<u32>| rate.map(|millionths| f64::from(millionths) / 1_000_000.0);
    ours::Guardrails {
        trap_rate: rate(guardrails.trap_rate),
        error_rate: rate(guardrails.error_rate),
        added_latency: guardrails.added_latency.map(duration),
    }
}

fn one_revision(revision: &Revision, id: &ObjectId, named: bool, context: Context) -> ours::Wasm {
    let digest = revision.module.sha256();
    let address = context.modules;
    let code = async_data_source::Specifier::Remote(RemoteDataSource {
        http_uri: Some(HttpUri {
            uri: format!("http://{address}/modules/sha256:{digest}"),
            timeout: Some(duration(FETCH_TIMEOUT)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(MODULES_CLUSTER.to_owned())),
        }),
        sha256: digest.to_string(),
        retry_policy: Some(RetryPolicy { num_retries: Some(uint32(FETCH_RETRIES)), ..RetryPolicy::default() }),
    });
    let isolation = match revision.isolation {
        Isolation::Shared => ours::Isolation::Shared,
        Isolation::Plugin => ours::Isolation::Plugin,
        Isolation::Stream => ours::Isolation::Stream,
    };
    let machine_code = format!("http://{address}/machine-code/sha256:{digest}");
    ours::Wasm {
        config: Some(plugin(revision, id, "envoy.wasm.runtime.wasmtime", code)),
        limits: limits(&revision.limits),
        isolation: isolation.into(),
        revision: if named { revision.name() } else { String::new() },
        rollout: None,
        machine_code_uri: if context.machine_code { machine_code } else { String::new() },
    }
}

fn limits(limits: &Limits) -> Option<ours::Limits> {
    if *limits == Limits::default() {
        return None;
    }
    Some(ours::Limits {
        callback_timeout: limits.callback_timeout.map(duration),
        start_timeout: limits.start_timeout.map(duration),
        memory_bytes: limits.memory_bytes.unwrap_or_default(),
        body_buffer_bytes: limits.body_buffer_bytes.unwrap_or_default(),
        log_bytes_per_second: limits.log_bytes_per_second.unwrap_or_default(),
        hostcalls_per_callback: limits.hostcalls_per_callback.unwrap_or_default().into(),
        shared_data_bytes: limits.shared_data_bytes.unwrap_or_default(),
        shared_queues: limits.shared_queues.unwrap_or_default().into(),
        shared_queue_bytes: limits.shared_queue_bytes.unwrap_or_default(),
        shared_queue_messages: limits.shared_queue_messages.unwrap_or_default().into(),
        http_calls_pending: limits.http_calls_pending.unwrap_or_default().into(),
        recycle_memory_bytes: limits.recycle_memory_bytes.unwrap_or_default(),
        recycle_streams: limits.recycle_streams.unwrap_or_default(),
    })
}

fn plugin(revision: &Revision, id: &ObjectId, runtime: &str, code: async_data_source::Specifier) -> PluginConfig {
    let failure_policy = match revision.failure_policy {
        FailurePolicy::Closed => PbFailurePolicy::FailClosed,
        FailurePolicy::Open => PbFailurePolicy::FailOpen,
        FailurePolicy::Reload => PbFailurePolicy::FailReload,
    };
    let key_values = revision.env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let environment = EnvironmentVariables { key_values: key_values.collect(), ..EnvironmentVariables::default() };
    PluginConfig {
        name: id.to_string(),
        configuration: configuration(&revision.config),
        failure_policy: failure_policy.into(),
        vm: Some(Vm::VmConfig(VmConfig {
            vm_id: vm_id(revision, id),
            runtime: runtime.to_owned(),
            code: Some(AsyncDataSource { specifier: Some(code) }),
            environment_variables: (!revision.env.is_empty()).then_some(environment),
            ..VmConfig::default()
        })),
        ..PluginConfig::default()
    }
}

/// Plugins with the same code and `vm_id` share a VM, and every plugin with the same `vm_id` shares data: never across
/// namespaces. It says nothing of the code, so that shared data outlives an update.
fn vm_id(revision: &Revision, id: &ObjectId) -> String {
    match revision.isolation {
        Isolation::Shared => id.namespace.to_string(),
        Isolation::Plugin | Isolation::Stream => id.to_string(),
    }
}

/// JSON or text as a string, which hosts hand to the plugin as its bytes.
fn configuration(bytes: &[u8]) -> Option<Any> {
    if bytes.is_empty() {
        return None;
    }
    Some(match std::str::from_utf8(bytes) {
        Ok(text) => any(&StringValue { value: text.to_owned() }),
        Err(_) => any(&BytesValue { value: bytes.to_vec() }),
    })
}

/// What the user asked for and Envoy has no words for.
pub(super) fn limitations(filter: &WasmFilter, profile: Profile) -> Vec<Limitation> {
    if profile == Profile::Outrigger {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut add = |field: &str, message: &str| {
        let (field, message) = (field.to_owned(), message.to_owned());
        found.push(Limitation { resource: filter.id.to_string(), field, message });
    };
    let Limits {
        callback_timeout,
        start_timeout,
        memory_bytes,
        body_buffer_bytes,
        log_bytes_per_second,
        hostcalls_per_callback,
        shared_data_bytes,
        shared_queues,
        shared_queue_bytes,
        shared_queue_messages,
        http_calls_pending,
        recycle_memory_bytes,
        recycle_streams,
    } = filter.revision.limits;
    for (set, field) in [
        (callback_timeout.is_some(), "spec.limits.callbackTimeout"),
        (start_timeout.is_some(), "spec.limits.startTimeout"),
        (memory_bytes.is_some(), "spec.limits.memory"),
        (body_buffer_bytes.is_some(), "spec.limits.bodyBuffer"),
        (log_bytes_per_second.is_some(), "spec.limits.logBytesPerSecond"),
        (hostcalls_per_callback.is_some(), "spec.limits.hostcallsPerCallback"),
        (shared_data_bytes.is_some(), "spec.limits.sharedData"),
        (shared_queues.is_some(), "spec.limits.sharedQueues"),
        (shared_queue_bytes.is_some(), "spec.limits.sharedQueueBytes"),
        (shared_queue_messages.is_some(), "spec.limits.sharedQueueMessages"),
        (http_calls_pending.is_some(), "spec.limits.httpCallsPending"),
    ] {
        if set {
            add(field, "Envoy has no such limit: it is not enforced");
        }
    }
    for (set, field) in [
        (recycle_memory_bytes.is_some(), "spec.limits.recycleMemory"),
        (recycle_streams.is_some(), "spec.limits.recycleStreams"),
    ] {
        if set {
            add(field, "Envoy recycles no VMs: one lives until it traps or is replaced");
        }
    }
    if filter.revision.isolation == Isolation::Stream {
        add("spec.isolation", "Envoy has no VM for each stream: the plugin has a VM of its own on each worker");
    }
    if filter.revision.failure_policy == FailurePolicy::Open {
        add("spec.failurePolicy", "Envoy answers 503 to the request that traps and skips the filter from the next on");
    }
    match filter.trial.as_ref() {
        Some(trial) if trial.alone => add("spec.shadow", "Envoy has no shadows: it doesn't run the filter"),
        Some(trial) if trial.shadow => add("spec.shadow", "Envoy has no shadows: it runs the old revision alone"),
        Some(_) => add("spec.rollout", "Envoy has no rollouts: it gets the new revision when it is promoted"),
        None => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_the_one_of_its_name() {
        let found = limits(&Limits {
            callback_timeout: Some(Duration::from_secs(1)),
            start_timeout: Some(Duration::from_secs(2)),
            memory_bytes: Some(3),
            body_buffer_bytes: Some(4),
            log_bytes_per_second: Some(5),
            hostcalls_per_callback: Some(6),
            shared_data_bytes: Some(7),
            shared_queues: Some(8),
            shared_queue_bytes: Some(9),
            shared_queue_messages: Some(10),
            http_calls_pending: Some(11),
            recycle_memory_bytes: Some(12),
            recycle_streams: Some(13),
        });
        let expected = ours::Limits {
            callback_timeout: Some(duration(Duration::from_secs(1))),
            start_timeout: Some(duration(Duration::from_secs(2))),
            memory_bytes: 3,
            body_buffer_bytes: 4,
            log_bytes_per_second: 5,
            hostcalls_per_callback: 6,
            shared_data_bytes: 7,
            shared_queues: 8,
            shared_queue_bytes: 9,
            shared_queue_messages: 10,
            http_calls_pending: 11,
            recycle_memory_bytes: 12,
            recycle_streams: 13,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(limits(&Limits::default()), None, "the proxy's own");
    }
}
