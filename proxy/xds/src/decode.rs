//! From a message's bytes to configuration, in steps: bytes to proto (what fails here has no name), the audit of fields
//! that are set and not supported, and validation, which compiles what can be compiled and names every problem.

mod access_log;
mod action;
mod balancing;
mod cluster;
mod common;
mod discovered;
mod dns;
mod endpoint;
mod expression;
mod filter_chain;
mod forward;
mod health_check;
mod http;
mod internal_redirect;
mod listener;
mod listener_filter;
mod matcher;
mod mutation;
mod native;
mod original_dst;
mod outlier;
mod proxy_protocol;
mod retry;
mod route;
mod socket;
mod tls;
mod tracing;
mod wasm;

use std::sync::Arc;

use outrigger_config::{
    Assignment, Cluster, ExtensionConfig, Listener, Resource, ResourceKind, RouteConfig, Secret, Source,
};
use outrigger_proto::audit::{Finding, Severity, audit};
use outrigger_proto::type_url;
use prost::Message;

pub(crate) use access_log::message;
pub(crate) use common::{config_source, duration, socket_address, stream_source};
pub(crate) use dns::{resolution_config, typed_resolver};
pub(crate) use tls::certificate_files;

use crate::{Diagnostics, Problem};

/// A kind of resource that xDS carries.
pub trait XdsResource: Sized {
    type Proto: Message + Default;
    const TYPE_URL: &'static str;

    /// The name of a message, whether it is valid or not.
    fn name(proto: &Self::Proto) -> &str;

    /// The configuration that a message means. The problems are in the diagnostics.
    fn validate(proto: Self::Proto, diagnostics: &mut Diagnostics) -> Result<Self, Rejection>;

    /// The same as a resource of a set.
    fn into_resource(self) -> Resource;
}

/// The diagnostics say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection;

/// A valid resource.
#[derive(Debug)]
pub struct Accepted {
    pub name: Arc<str>,
    pub resource: Resource,
    /// Fields that are set and without effect.
    pub warnings: Vec<String>,
    /// Files that it names, with the folder to watch for them.
    pub(crate) watched: Vec<(Arc<str>, Arc<str>)>,
}

/// A resource that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// `None` where not even that could be read.
    pub name: Option<Arc<str>>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    pub(crate) fn new(name: Option<&str>, message: impl Into<String>) -> Invalid {
        Invalid { name: name.map(Arc::from), problems: vec![Problem { path: String::new(), message: message.into() }] }
    }

    /// A problem a line.
    #[must_use]
    pub fn reason(&self) -> String {
        self.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// The type URL of a kind's messages.
pub(crate) fn type_url_of(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Cluster => Cluster::TYPE_URL,
        ResourceKind::Endpoints => Assignment::TYPE_URL,
        ResourceKind::Listener => Listener::TYPE_URL,
        ResourceKind::Route => RouteConfig::TYPE_URL,
        ResourceKind::Extension => ExtensionConfig::TYPE_URL,
        ResourceKind::Secret => Secret::TYPE_URL,
    }
}

/// The kind of a type URL's messages.
pub(crate) fn kind_of(url: &str) -> Option<ResourceKind> {
    ResourceKind::ALL.into_iter().find(|kind| type_url::message_name(type_url_of(*kind)) == type_url::message_name(url))
}

/// Decodes and validates a resource of a kind.
pub fn decode(kind: ResourceKind, bytes: &[u8], source: &Source, version: &Arc<str>) -> Result<Accepted, Invalid> {
    match kind {
        ResourceKind::Cluster => decode_as::<Cluster>(bytes, source, version),
        ResourceKind::Endpoints => decode_as::<Assignment>(bytes, source, version),
        ResourceKind::Listener => decode_as::<Listener>(bytes, source, version),
        ResourceKind::Route => decode_as::<RouteConfig>(bytes, source, version),
        ResourceKind::Extension => decode_as::<ExtensionConfig>(bytes, source, version),
        ResourceKind::Secret => decode_as::<Secret>(bytes, source, version),
    }
}

fn decode_as<R: XdsResource>(bytes: &[u8], source: &Source, version: &Arc<str>) -> Result<Accepted, Invalid> {
    let proto = R::Proto::decode(bytes).map_err(|error| Invalid::new(None, format!("malformed message: {error}")))?;
    let name: Arc<str> = Arc::from(R::name(&proto));
    let mut diagnostics = Diagnostics::new(source.clone(), Arc::clone(version));
    let findings = audit(type_url::message_name(R::TYPE_URL), bytes);
    let decoded = R::validate(proto, &mut diagnostics);
    judge(findings, &mut diagnostics);
    let (errors, warnings, watched) = diagnostics.take();
    match decoded {
        Ok(decoded) if errors.is_empty() => {
            let resource = decoded.into_resource();
            let warnings = warnings.iter().map(ToString::to_string).collect();
            // A listener without a name has one made up.
            Ok(Accepted { name: Arc::clone(resource.name()), resource, warnings, watched })
        }
        _ if errors.is_empty() => Err(Invalid::new(Some(&name), "is not valid")),
        _ => Err(Invalid { name: Some(name), problems: errors }),
    }
}

/// Adds what the audit found to what validation found. In a part that validation decided to ignore nothing is an error.
pub(crate) fn judge(findings: Vec<Finding>, diagnostics: &mut Diagnostics) {
    for finding in findings {
        let ignored = diagnostics.ignored.iter().any(|prefix| finding.path.starts_with(prefix.as_str()));
        let known = |problems: &[Problem]| problems.iter().any(|problem| problem.path == finding.path);
        let message = match finding.severity {
            Severity::Warn => "is not supported and has no effect".to_owned(),
            Severity::Reject => Finding { path: String::new(), ..finding.clone() }.to_string(),
        };
        match finding.severity {
            _ if ignored => {}
            Severity::Warn if known(diagnostics.warnings()) => {}
            Severity::Warn => diagnostics.warn_at(&finding.path, message),
            // Validation has said it better.
            Severity::Reject if known(diagnostics.errors()) => {}
            Severity::Reject => diagnostics.error_at(&finding.path, message),
        }
    }
}

#[cfg(test)]
mod tests;
