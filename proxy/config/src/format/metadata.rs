//! `%DYNAMIC_METADATA(NAMESPACE:KEY:KEY)%` and the operators for other objects' metadata.

use outrigger_http::{Metadata, StreamInfo};

use super::value::Value;

/// A namespace of metadata, or a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetadataOperator {
    of: Owner,
    namespace: String,
    path: Vec<String>,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The stream's: what filters noted.
    Stream,
    Cluster,
    Endpoint,
    Route,
    VirtualHost,
    Listener,
    FilterChain,
}

const TYPES: &[(&str, Owner)] = &[
    ("DYNAMIC", Owner::Stream),
    ("CLUSTER", Owner::Cluster),
    ("UPSTREAM_HOST", Owner::Endpoint),
    ("ROUTE", Owner::Route),
    ("VIRTUAL_HOST", Owner::VirtualHost),
    ("LISTENER", Owner::Listener),
    ("LISTENER_FILTER_CHAIN", Owner::FilterChain),
];

impl MetadataOperator {
    /// `None`: the operator is of another kind. `Err`: its argument is wrong.
    pub(crate) fn parse(name: &str, argument: Option<&str>) -> Option<Result<MetadataOperator, &'static str>> {
        let argument = argument.unwrap_or_default();
        let (of, argument) = match name {
            "DYNAMIC_METADATA" => (Owner::Stream, argument),
            "CLUSTER_METADATA" => (Owner::Cluster, argument),
            "UPSTREAM_METADATA" => (Owner::Endpoint, argument),
            "METADATA" => {
                let (kind, rest) = argument.split_once(':').unwrap_or((argument, ""));
                match TYPES.iter().find(|(known, _)| *known == kind) {
                    Some((_, of)) => (*of, rest),
                    None => {
                        return Some(Err(
                            "is of DYNAMIC, CLUSTER, UPSTREAM_HOST, ROUTE, VIRTUAL_HOST, LISTENER or LISTENER_FILTER_CHAIN",
                        ));
                    }
                }
            }
            _ => return None,
        };
        let mut parts = argument.split(':').map(str::to_owned);
        let namespace = parts.next().unwrap_or_default();
        if namespace.is_empty() {
            return Some(Err("takes a namespace"));
        }
        Some(Ok(MetadataOperator { of, namespace, path: parts.collect() }))
    }

    pub(crate) fn value<'a>(&self, info: &'a StreamInfo) -> Value<'a> {
        let fields = self.owner(info).and_then(|metadata| metadata.namespace(&self.namespace));
        let Some(fields) = fields else { return Value::Absent };
        let Some((first, rest)) = self.path.split_first() else { return Value::Struct(fields) };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        fields.get(&**first).and_then(|value| value.walk(&rest)).map_or(Value::Absent, Value::Metadata)
    }

    fn owner<'a>(&self, info: &'a StreamInfo) -> Option<&'a Metadata> {
        let stream = info.metadata.as_deref();
        match self.of {
            Owner::Stream => stream.map(|all| &all.dynamic),
            Owner::Endpoint => stream.and_then(|all| all.upstream_host.as_deref()),
            Owner::Cluster => info.cluster_metadata.as_deref(),
            Owner::Route => info.route_metadata.as_deref(),
            Owner::VirtualHost => info.virtual_host_metadata.as_deref(),
            Owner::Listener => info.listener.metadata.as_deref(),
            Owner::FilterChain => info.listener.chain_metadata.as_deref(),
        }
    }
}
