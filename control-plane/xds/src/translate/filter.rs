//! Wasm filters, as ECDS resources: our own type with the module by digest for our proxies, Envoy's type with the module
//! inside for Envoy, which serves unfiltered after an update to remote code.

use std::time::Duration;

use outrigger_model::{FailurePolicy, Isolation, Limits, WasmFilter};
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

pub(super) fn resource(filter: &WasmFilter, context: Context) -> Resource {
    let name = filter.id.to_string();
    let typed_config = match context.profile {
        Profile::Outrigger => any_of(&outrigger(filter, &name, context), &canonical::WASM),
        Profile::Envoy | Profile::Grpc => {
            let code = async_data_source::Specifier::Local(DataSource {
                specifier: Some(Specifier::InlineBytes(filter.module.bytes().to_vec())),
                ..DataSource::default()
            });
            let config = plugin(filter, &name, "envoy.wasm.runtime.v8", code);
            any_of(&envoy::Wasm { config: Some(config) }, &canonical::WASM)
        }
    };
    let message = TypedExtensionConfig { name: name.clone(), typed_config: Some(typed_config) };
    let body = canonical::encode(&message, &canonical::PLAIN);
    Resource::new(ResourceType::ExtensionConfig, &name, body).with_module(&filter.module.sha256().to_string())
}

fn outrigger(filter: &WasmFilter, name: &str, context: Context) -> ours::Wasm {
    let digest = filter.module.sha256();
    let code = async_data_source::Specifier::Remote(RemoteDataSource {
        http_uri: Some(HttpUri {
            uri: format!("http://{}/modules/sha256:{digest}", context.modules),
            timeout: Some(duration(FETCH_TIMEOUT)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(MODULES_CLUSTER.to_owned())),
        }),
        sha256: digest.to_string(),
        retry_policy: Some(RetryPolicy { num_retries: Some(uint32(FETCH_RETRIES)), ..RetryPolicy::default() }),
    });
    let isolation = match filter.isolation {
        Isolation::Shared => ours::Isolation::Shared,
        Isolation::Plugin => ours::Isolation::Plugin,
        Isolation::Stream => ours::Isolation::Stream,
    };
    ours::Wasm {
        config: Some(plugin(filter, name, "envoy.wasm.runtime.wasmtime", code)),
        limits: limits(&filter.limits),
        isolation: isolation.into(),
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
        ..ours::Limits::default()
    })
}

fn plugin(filter: &WasmFilter, name: &str, runtime: &str, code: async_data_source::Specifier) -> PluginConfig {
    let failure_policy = match filter.failure_policy {
        FailurePolicy::Closed => PbFailurePolicy::FailClosed,
        FailurePolicy::Open => PbFailurePolicy::FailOpen,
        FailurePolicy::Reload => PbFailurePolicy::FailReload,
    };
    let key_values = filter.env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let environment = EnvironmentVariables { key_values: key_values.collect(), ..EnvironmentVariables::default() };
    PluginConfig {
        name: name.to_owned(),
        configuration: configuration(&filter.config),
        failure_policy: failure_policy.into(),
        vm: Some(Vm::VmConfig(VmConfig {
            vm_id: vm_id(filter),
            runtime: runtime.to_owned(),
            code: Some(AsyncDataSource { specifier: Some(code) }),
            environment_variables: (!filter.env.is_empty()).then_some(environment),
            ..VmConfig::default()
        })),
        ..PluginConfig::default()
    }
}

/// Plugins with the same code and `vm_id` share a VM, and every plugin with the same `vm_id` shares data: never across
/// namespaces. It says nothing of the code, so that shared data outlives an update.
fn vm_id(filter: &WasmFilter) -> String {
    match filter.isolation {
        Isolation::Shared => filter.id.namespace.to_string(),
        Isolation::Plugin | Isolation::Stream => filter.id.to_string(),
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
    } = filter.limits;
    for (set, field) in [
        (callback_timeout.is_some(), "spec.limits.callbackTimeout"),
        (start_timeout.is_some(), "spec.limits.startTimeout"),
        (memory_bytes.is_some(), "spec.limits.memory"),
        (body_buffer_bytes.is_some(), "spec.limits.bodyBuffer"),
        (log_bytes_per_second.is_some(), "spec.limits.logBytesPerSecond"),
        (hostcalls_per_callback.is_some(), "spec.limits.hostcallsPerCallback"),
    ] {
        if set {
            add(field, "Envoy has no such limit: it is not enforced");
        }
    }
    if filter.isolation == Isolation::Stream {
        add("spec.isolation", "Envoy has no VM for each stream: the plugin has a VM of its own on each worker");
    }
    if filter.failure_policy == FailurePolicy::Open {
        add("spec.failurePolicy", "Envoy answers 503 to the request that traps and skips the filter from the next on");
    }
    found
}
