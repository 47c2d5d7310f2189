//! A plugin's configuration in the words of the Wasm host. The configuration knows nothing of Wasm and the host nothing of
//! xDS, so what both speak of stands in each; here alone one becomes the other.

use std::sync::Arc;

use outrigger_config::{Backoff, FailurePolicy, Isolation, Limits, WasmPlugin, WasmVm};
use outrigger_wasm::{Plugin, VmConfig};

use crate::cache::Digest;

const _: () = assert!(Isolation::STREAM_MEMORY_BYTES_MAX == outrigger_wasm::STREAM_MEMORY_BYTES_MAX as u64);

pub(super) fn to_host(plugin: &WasmPlugin, code: Digest) -> Plugin {
    Plugin {
        name: Arc::clone(&plugin.name),
        root_id: plugin.root_id.clone(),
        configuration: plugin.configuration.clone(),
        failure_policy: failure_policy(plugin.failure_policy),
        allow_on_headers_stop_iteration: plugin.allow_on_headers_stop_iteration,
        vm: Arc::new(vm(&plugin.vm, &plugin.name, code)),
    }
}

fn vm(vm: &WasmVm, plugin: &Arc<str>, code: Digest) -> VmConfig {
    let mut limits = limits(&vm.limits);
    if vm.isolation == Isolation::Stream {
        // Every stream starts one on the worker, which a start may stop no longer than a callback.
        limits.start_timeout = limits.start_timeout.min(limits.callback_timeout);
    }
    VmConfig {
        code,
        vm_id: vm.vm_id.clone(),
        configuration: vm.configuration.clone(),
        environment: vm.environment.clone(),
        limits,
        capabilities: vm.capabilities.clone(),
        isolation: match vm.isolation {
            Isolation::Shared => outrigger_wasm::Isolation::Shared,
            Isolation::Plugin => outrigger_wasm::Isolation::Plugin(Arc::clone(plugin)),
            Isolation::Stream => outrigger_wasm::Isolation::Stream,
        },
        revision_name: Arc::clone(&vm.revision),
        shadow: vm.shadow,
    }
}

fn failure_policy(policy: FailurePolicy) -> outrigger_wasm::FailurePolicy {
    match policy {
        FailurePolicy::Closed => outrigger_wasm::FailurePolicy::Closed,
        FailurePolicy::Open => outrigger_wasm::FailurePolicy::Open,
        FailurePolicy::Reload(Backoff { base, max }) => {
            outrigger_wasm::FailurePolicy::Reload(outrigger_wasm::Backoff { base, max })
        }
    }
}

fn limits(limits: &Limits) -> outrigger_wasm::Limits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    // Each by its name, so that none is forgotten.
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
    } = *limits;
    outrigger_wasm::Limits {
        callback_timeout,
        start_timeout,
        memory_bytes: size(memory_bytes),
        body_buffer_bytes: size(body_buffer_bytes),
        log_bytes_per_second: size(log_bytes_per_second),
        hostcalls_per_callback,
        shared_data_bytes: size(shared_data_bytes),
        shared_queues: size(shared_queues),
        shared_queue_bytes: size(shared_queue_bytes),
        shared_queue_messages: size(shared_queue_messages),
        calls_in_flight: size(http_calls_pending),
        recycle_memory_bytes: size(recycle_memory_bytes),
        recycle_streams,
        ..outrigger_wasm::Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_limit_is_the_one_of_its_name() {
        let found = limits(&Limits {
            callback_timeout: Duration::from_secs(1),
            start_timeout: Duration::from_secs(2),
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
            recycle_streams: Some(13),
        });
        let expected = outrigger_wasm::Limits {
            callback_timeout: Duration::from_secs(1),
            start_timeout: Duration::from_secs(2),
            memory_bytes: 3,
            body_buffer_bytes: 4,
            log_bytes_per_second: 5,
            hostcalls_per_callback: 6,
            shared_data_bytes: 7,
            shared_queues: 8,
            shared_queue_bytes: 9,
            shared_queue_messages: 10,
            calls_in_flight: 11,
            recycle_memory_bytes: 12,
            recycle_streams: Some(13),
            ..outrigger_wasm::Limits::default()
        };
        assert_eq!(found, expected);
    }

    /// What a plugin without limits gets is what the host's own tests run with.
    #[test]
    fn defaults_are_the_hosts() {
        assert_eq!(limits(&Limits::default()), outrigger_wasm::Limits::default());
        assert_eq!(failure_policy(FailurePolicy::default()), outrigger_wasm::FailurePolicy::default());
    }

    #[test]
    fn a_streams_own_instance_starts_within_a_callbacks_time() {
        let plugin = |isolation| vm(&WasmVm { isolation, ..wasm_vm() }, &Arc::from("p"), [0; 32]);
        let of_stream = plugin(Isolation::Stream);
        assert_eq!(of_stream.limits.start_timeout, of_stream.limits.callback_timeout);
        assert_eq!(plugin(Isolation::Shared).limits, outrigger_wasm::Limits::default());
        assert_eq!(plugin(Isolation::Plugin).isolation, outrigger_wasm::Isolation::Plugin(Arc::from("p")));
    }

    fn wasm_vm() -> WasmVm {
        let source = outrigger_config::CodeSource::Inline(bytes::Bytes::new());
        WasmVm {
            vm_id: String::new(),
            code: outrigger_config::ModuleCode { source, sha256: None },
            configuration: bytes::Bytes::new(),
            environment: Vec::new(),
            limits: Limits::default(),
            capabilities: None,
            isolation: Isolation::Shared,
            revision: Arc::default(),
            shadow: false,
        }
    }
}
