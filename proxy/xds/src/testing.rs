//! Messages for this crate's tests, from YAML.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{ResourceKind, Source};
use outrigger_proto::render::{Format, parse};
use outrigger_proto::type_url::message_name;

use crate::decode::{decode, type_url_of};
use crate::{Accepted, Invalid};

/// The binary form of a message of a type.
pub(crate) fn message(name: &str, yaml: &str) -> Bytes {
    parse(name, yaml.as_bytes(), Format::Yaml)
        .map(Bytes::from)
        .unwrap_or_else(|problems| panic!("{problems:?}\n{yaml}"))
}

/// The binary form of a resource of a kind.
pub(crate) fn resource(kind: ResourceKind, yaml: &str) -> Bytes {
    message(message_name(type_url_of(kind)), yaml)
}

pub(crate) fn decode_yaml(kind: ResourceKind, yaml: &str) -> Result<Accepted, Invalid> {
    decode(kind, &resource(kind, yaml), &Source::Ads, &Arc::from("v1"))
}

/// A cluster with one endpoint.
pub(crate) fn cluster_yaml(name: &str, port: u16) -> String {
    format!(
        "{{name: {name}, load_assignment: {{endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    )
}

/// A cluster whose endpoints come by EDS.
pub(crate) fn eds_yaml(name: &str) -> String {
    format!("{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}}}")
}
