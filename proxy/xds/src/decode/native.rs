//! Filters that are built into the proxy, and their configuration by scope of the routes.

mod buffer;
pub(crate) mod connection_limit;
mod cors;
mod fault;
mod header_mutation;
mod rate_limit;
pub(crate) mod rbac;

pub(crate) use rate_limit::rate_limits;

use outrigger_config::{NativeFilter, OverrideConfig};
use outrigger_proto::pb::envoy::extensions::filters::http as filters;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::type_url::message_name;
use prost::{Message, Name};

use super::access_log::message;
use crate::Diagnostics;

/// A filter's configuration; the outer `None` where the type is none of these, the inner where the diagnostics say why.
pub(crate) fn filter(config: &Any, d: &mut Diagnostics) -> Option<Option<NativeFilter>> {
    let mut found = Typed { config, d };
    found
        .decode(|proto, d| header_mutation::filter(&proto, d).map(NativeFilter::HeaderMutation))
        .or_else(|| found.decode(|proto: filters::rbac::v3::Rbac, d| rbac::filter(&proto, d).map(NativeFilter::Rbac)))
        .or_else(|| found.decode(|proto, d| rate_limit::limit(&proto, d).map(NativeFilter::LocalRateLimit)))
        .or_else(|| found.decode(|_: filters::cors::v3::Cors, _| Some(NativeFilter::Cors)))
        .or_else(|| found.decode(|proto, d| fault::fault(&proto, d).map(NativeFilter::Fault)))
        .or_else(|| found.decode(|proto, d| buffer::limit(&proto, d).map(NativeFilter::Buffer)))
}

/// A filter's configuration for a scope, with the same two kinds of `None`.
pub(crate) fn per_route(config: &Any, d: &mut Diagnostics) -> Option<Option<OverrideConfig>> {
    use filters::header_mutation::v3::HeaderMutationPerRoute;
    let mut found = Typed { config, d };
    found
        .decode(|proto: HeaderMutationPerRoute, d| header_mutation::per_route(&proto, d))
        .or_else(|| found.decode(|proto, d| rbac::per_route(&proto, d)))
        .or_else(|| found.decode(|proto, d| rate_limit::limit(&proto, d).map(OverrideConfig::LocalRateLimit)))
        .or_else(|| found.decode(|proto, d| cors::policy(&proto, d)))
        .or_else(|| found.decode(|proto, d| fault::fault(&proto, d).map(OverrideConfig::Fault)))
        .or_else(|| found.decode(|proto, d| buffer::per_route(&proto, d)))
}

/// An `Any` that is looked at by its type.
struct Typed<'a> {
    config: &'a Any,
    d: &'a mut Diagnostics,
}

impl Typed<'_> {
    /// `None` where the type is another.
    fn decode<M: Message + Default + Name, T>(
        &mut self,
        f: impl FnOnce(M, &mut Diagnostics) -> Option<T>,
    ) -> Option<Option<T>> {
        if message_name(&self.config.type_url) != M::full_name() {
            return None;
        }
        Some(message(self.config, self.d).and_then(|proto| f(proto, self.d)))
    }
}
