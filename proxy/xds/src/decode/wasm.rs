//! Wasm plugins: Envoy's `Wasm` and our own, in a listener or as an ECDS resource.

mod code;
mod configuration;
mod limits;
mod rollout;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Backoff, CodeSource, ExtensionConfig, FailurePolicy, Isolation, Limits, Resource, Rollout, WasmOverride,
    WasmPlugin, WasmVm,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::wasm::v3 as wasm;
use pb::google::protobuf::Any;
use pb::outrigger::filters::http::wasm::v1 as own;

use self::code::{code, is_fetchable};
use self::configuration::any_bytes;
use self::limits::limits;
use self::rollout::rollout;
use super::access_log::message;
use super::common::{duration, flag, name, origin, variant};
use super::{Rejection, XdsResource};
use crate::Diagnostics;

/// Names of revisions and tries.
const REVISION_BYTES_MAX: usize = 64;

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
            CodeSource::Remote(remote) if is_fetchable(&config.machine_code_uri) => {
                remote.machine_code = Some(config.machine_code_uri.clone());
            }
            CodeSource::Remote(_) => d.error("is no http:// or https:// address"),
            CodeSource::File(_) | CodeSource::Inline(_) => {
                d.error("needs remote code, whose cluster it is fetched from")
            }
        });
    }
    Some(plugin)
}

/// The plugin of Envoy's own configuration, which has neither limits nor isolation.
pub(super) fn plugin_of(
    filter: &Arc<str>,
    config: Option<&wasm::PluginConfig>,
    d: &mut Diagnostics,
) -> Option<WasmPlugin> {
    plugin_config(filter, config, Default::default(), d)
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
