//! `Bootstrap.overload_manager`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Action, OverloadAction, OverloadManager, OverloadTrigger, ResourceMonitor, Threshold, monitored,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::overload::v3 as overload;
use pb::envoy::extensions::resource_monitors::{
    cgroup_memory::v3 as cgroup, downstream_connections::v3 as connections, fixed_heap::v3 as heap,
};
use pb::google::protobuf::Any;
use pb::outrigger::resource_monitors::pending_requests::v1 as pending;

use crate::Diagnostics;
use crate::decode::{duration, message};

const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// What a monitor's `typed_config` says.
enum Monitor {
    Pressure(monitored::Resource),
    Connections(u64),
}

pub(super) fn decode(proto: &overload::OverloadManager, d: &mut Diagnostics) -> OverloadManager {
    let refresh_interval = duration(proto.refresh_interval.as_ref(), "refresh_interval", d).unwrap_or(REFRESH_INTERVAL);
    let mut manager = OverloadManager {
        refresh_interval: refresh_interval.max(REFRESH_INTERVAL_MIN),
        monitors: Vec::new(),
        actions: Vec::new(),
        max_downstream_connections: None,
        max_listener_connections: BTreeMap::new(),
    };
    for (index, proto) in proto.resource_monitors.iter().enumerate() {
        d.at_index("resource_monitors", index, |d| match monitor(proto, d) {
            Some(Monitor::Connections(max)) => manager.max_downstream_connections = Some(max),
            Some(Monitor::Pressure(_)) if manager.monitors.iter().any(|known| *known.name == *proto.name) => {
                d.at("name", |d| d.error(format!("{:?} stands here twice", proto.name)));
            }
            Some(Monitor::Pressure(resource)) => {
                manager.monitors.push(ResourceMonitor { name: Arc::from(proto.name.as_str()), resource });
            }
            None => {}
        });
    }
    for (index, proto) in proto.actions.iter().enumerate() {
        let action = d.at_index("actions", index, |d| action(proto, &manager.monitors, d));
        manager.actions.extend(action);
    }
    manager
}

fn monitor(proto: &overload::ResourceMonitor, d: &mut Diagnostics) -> Option<Monitor> {
    let Some(overload::resource_monitor::ConfigType::TypedConfig(config)) = &proto.config_type else {
        d.at("typed_config", |d| d.error("is required"));
        return None;
    };
    d.at("typed_config", |d| resource(config, d))
}

fn resource(config: &Any, d: &mut Diagnostics) -> Option<Monitor> {
    use monitored::Resource;
    let positive = |value: u64, field: &'static str, d: &mut Diagnostics| {
        if value == 0 {
            d.at(field, |d| d.error("must be above zero"));
        }
        (value > 0).then_some(value)
    };
    match type_url::message_name(&config.type_url) {
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig" => {
            let config: heap::FixedHeapConfig = message(config, d)?;
            let bytes_max = positive(config.max_heap_size_bytes, "max_heap_size_bytes", d)?;
            Some(Monitor::Pressure(Resource::FixedHeap { bytes_max }))
        }
        "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig" => {
            let config: cgroup::CgroupMemoryConfig = message(config, d)?;
            let bytes_max = Some(config.max_memory_bytes).filter(|max| *max > 0);
            Some(Monitor::Pressure(Resource::CgroupMemory { bytes_max }))
        }
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig" => {
            let config: connections::DownstreamConnectionsConfig = message(config, d)?;
            let max = u64::try_from(config.max_active_downstream_connections).unwrap_or(0);
            Some(Monitor::Connections(positive(max, "max_active_downstream_connections", d)?))
        }
        "outrigger.resource_monitors.pending_requests.v1.PendingRequestsConfig" => {
            let config: pending::PendingRequestsConfig = message(config, d)?;
            let max = positive(config.max_pending_requests, "max_pending_requests", d)?;
            Some(Monitor::Pressure(Resource::PendingRequests { max }))
        }
        name => {
            d.error(format!("type {name} is not supported"));
            None
        }
    }
}

fn action(
    proto: &overload::OverloadAction,
    monitors: &[ResourceMonitor],
    d: &mut Diagnostics,
) -> Option<OverloadAction> {
    let Some(action) = Action::from_name(&proto.name) else {
        d.at("name", |d| {
            let known = Action::ALL.map(Action::name).join(", ");
            d.error(format!("{:?} is not supported; there are {known}", proto.name));
        });
        return None;
    };
    let triggers = proto.triggers.iter().enumerate();
    let triggers = triggers.filter_map(|(index, proto)| d.at_index("triggers", index, |d| trigger(proto, monitors, d)));
    Some(OverloadAction { action, triggers: triggers.collect() })
}

fn trigger(proto: &overload::Trigger, monitors: &[ResourceMonitor], d: &mut Diagnostics) -> Option<OverloadTrigger> {
    use overload::trigger::TriggerOneof;
    let Some(monitor) = monitors.iter().position(|monitor| *monitor.name == *proto.name) else {
        d.at("name", |d| d.error(format!("{:?} is no resource monitor", proto.name)));
        return None;
    };
    let is_share = |value: f64| (0.0..=1.0).contains(&value);
    let threshold = match proto.trigger_oneof {
        Some(TriggerOneof::Threshold(fixed)) if is_share(fixed.value) => Threshold::Fixed(fixed.value),
        Some(TriggerOneof::Scaled(scaled))
            if is_share(scaled.scaling_threshold)
                && is_share(scaled.saturation_threshold)
                && scaled.scaling_threshold < scaled.saturation_threshold =>
        {
            Threshold::Scaled { scaling: scaled.scaling_threshold, saturation: scaled.saturation_threshold }
        }
        Some(TriggerOneof::Threshold(_)) => {
            d.at("threshold", |d| d.at("value", |d| d.error("is not between 0 and 1")));
            return None;
        }
        Some(TriggerOneof::Scaled(_)) => {
            d.at("scaled", |d| d.error("needs 0 <= scaling_threshold < saturation_threshold <= 1"));
            return None;
        }
        None => {
            d.error("needs threshold or scaled");
            return None;
        }
    };
    Some(OverloadTrigger { monitor, threshold })
}
