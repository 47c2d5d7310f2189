//! Small constructors of Envoy's messages.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_model::Source;
use outrigger_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrigger_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use outrigger_proto::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, SocketAddress, address,
};
use outrigger_proto::pb::google::protobuf::value::Kind;
use outrigger_proto::pb::google::protobuf::{self, Any, BoolValue, Struct, UInt32Value, Value};
use prost::{Message, Name};

use crate::canonical::{self, Shape};

/// The key of the metadata that says where a resource comes from.
const METADATA_KEY: &str = "outrigger.dev";

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    any_of(message, &canonical::PLAIN)
}

/// The same for a message with maps.
pub(super) fn any_of<M: Message + Name>(message: &M, shape: &Shape) -> Any {
    Any { type_url: M::type_url(), value: canonical::encode(message, shape) }
}

/// The stream that this resource comes over.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

pub(super) fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

pub(super) fn boolean(value: bool) -> BoolValue {
    BoolValue { value }
}

pub(super) fn address(value: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: value.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(value.port().into())),
            ..SocketAddress::default()
        })),
    }
}

/// How much of an object's place goes with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// File and line: for routes, which are swapped at no cost.
    Line,
    /// Only the file: a line that moved because something was written above it must not replace a listener, whose
    /// connections Envoy then drains, or a cluster with its pools.
    File,
}

/// `filter_metadata["outrigger.dev"]`: the object that a resource is made from.
pub(super) fn origin(source: &Source, place: Place) -> Metadata {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let mut fields = std::collections::HashMap::from([
        ("kind".to_owned(), text(source.kind.as_str())),
        ("namespace".to_owned(), text(&source.namespace)),
        ("name".to_owned(), text(&source.name)),
    ]);
    if !source.file.is_empty() {
        fields.insert("file".to_owned(), text(&source.file));
        if place == Place::Line {
            fields.insert("line".to_owned(), Value { kind: Some(Kind::NumberValue(source.line.into())) });
        }
    }
    Metadata { filter_metadata: [(METADATA_KEY.to_owned(), Struct { fields })].into(), ..Metadata::default() }
}
