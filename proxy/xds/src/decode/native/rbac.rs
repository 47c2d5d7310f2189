//! RBAC: the HTTP filter's messages, and the rules, which the network filter has too.
//!
//! Whatever of a rule isn't understood rejects the resource: dropping it could widen what is allowed.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{
    MetadataMatcher, NetworkRbac, OverrideConfig, Permission, Principal, RbacAction, RbacEngine, RbacFilter, RbacMatch,
    RbacMatcher, RbacPolicy, RbacRules, StringMatcher, UriTemplate,
};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::rbac::v3 as rbac;
use pb::envoy::extensions::filters::http::rbac::v3 as proto;
use pb::envoy::extensions::filters::network::rbac::v3 as network;
use pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use pb::envoy::r#type::matcher::v3 as matcher;
use pb::xds::core::v3::TypedExtensionConfig;
use pb::xds::r#type::matcher::v3 as xds;

use super::super::common::{cidr, duration, list, name, variant};
use super::super::expression::expression;
use super::super::matcher::{extension, header, match_tree, metadata, string};
use crate::Diagnostics;

/// Rules within rules.
const DEPTH_MAX: usize = 32;
const POLICIES_MAX: usize = 10_000;

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Whether there is a request that it may look at.
    http: bool,
    depth: usize,
}

impl Place {
    fn within(self) -> Place {
        Place { depth: self.depth + 1, ..self }
    }

    /// Whether a rule may stand here that looks at a request.
    fn has_request(self, field: &'static str, d: &mut Diagnostics) -> bool {
        if !self.http {
            d.at(field, |d| d.error("looks at a request, and a network filter sees none"));
        }
        self.http
    }
}

pub(crate) fn network_filter(proto: &network::Rbac, d: &mut Diagnostics) -> Option<NetworkRbac> {
    use network::rbac::EnforcementType;
    let rules = engine(("rules", proto.rules.as_ref()), ("matcher", proto.matcher.as_ref()), false, d);
    let shadow_matcher = ("shadow_matcher", proto.shadow_matcher.as_ref());
    let shadow = engine(("shadow_rules", proto.shadow_rules.as_ref()), shadow_matcher, false, d);
    let enforcement = variant::<EnforcementType>(proto.enforcement_type, "enforcement_type", d);
    let filter = RbacFilter {
        rules: rules?,
        shadow: shadow?,
        stat_prefix: name(&proto.stat_prefix, "stat_prefix", d),
        shadow_stat_prefix: Arc::from(proto.shadow_rules_stat_prefix.as_str()),
    };
    Some(NetworkRbac {
        filter,
        continuous: enforcement? == EnforcementType::Continuous,
        delay_deny: duration(proto.delay_deny.as_ref(), "delay_deny", d).filter(|delay| !delay.is_zero()),
    })
}

pub(super) fn filter(proto: &proto::Rbac, d: &mut Diagnostics) -> Option<Arc<RbacFilter>> {
    let rules = engine(("rules", proto.rules.as_ref()), ("matcher", proto.matcher.as_ref()), true, d);
    let shadow_matcher = ("shadow_matcher", proto.shadow_matcher.as_ref());
    let shadow = engine(("shadow_rules", proto.shadow_rules.as_ref()), shadow_matcher, true, d);
    Some(Arc::new(RbacFilter {
        rules: rules?,
        shadow: shadow?,
        stat_prefix: Arc::from(proto.rules_stat_prefix.as_str()),
        shadow_stat_prefix: Arc::from(proto.shadow_rules_stat_prefix.as_str()),
    }))
}

/// Without rules of its own a scope has no RBAC.
pub(super) fn per_route(proto: &proto::RbacPerRoute, d: &mut Diagnostics) -> Option<OverrideConfig> {
    let found = match &proto.rbac {
        Some(proto) => Some(d.at("rbac", |d| filter(proto, d))?),
        None => None,
    };
    Some(OverrideConfig::Rbac(found))
}

/// What decides, by name of its field; a matcher goes before rules. The outer `None`: not valid.
fn engine(
    (rules_field, rules_proto): (&'static str, Option<&rbac::Rbac>),
    (matcher_field, matcher_proto): (&'static str, Option<&xds::Matcher>),
    http: bool,
    d: &mut Diagnostics,
) -> Option<Option<RbacEngine>> {
    if rules_proto.is_some() && matcher_proto.is_some() {
        d.at(rules_field, |d| d.warn(format!("is not looked at, since {matcher_field} is set")));
    }
    match (rules_proto, matcher_proto) {
        (_, Some(proto)) => {
            let tree = d.at(matcher_field, |d| match_tree(proto, http, action, d))?;
            Some(Some(RbacEngine::Matcher(RbacMatcher::new(tree))))
        }
        (Some(proto), None) => d.at(rules_field, |d| rules(proto, http, d)).map(|rules| Some(RbacEngine::Rules(rules))),
        (None, None) => Some(None),
    }
}

/// A leaf of a matcher.
fn action(proto: &TypedExtensionConfig, d: &mut Diagnostics) -> Option<RbacMatch> {
    d.at("typed_config", |d| {
        let proto: rbac::Action = extension(proto.typed_config.as_ref(), d)?;
        Some(RbacMatch { name: name(&proto.name, "name", d), action: verb(proto.action, d)? })
    })
}

fn verb(action: i32, d: &mut Diagnostics) -> Option<RbacAction> {
    Some(match variant::<rbac::rbac::Action>(action, "action", d)? {
        rbac::rbac::Action::Allow => RbacAction::Allow,
        rbac::rbac::Action::Deny => RbacAction::Deny,
        rbac::rbac::Action::Log => RbacAction::Log,
    })
}

fn rules(proto: &rbac::Rbac, http: bool, d: &mut Diagnostics) -> Option<RbacRules> {
    let place = Place { http, depth: 0 };
    let action = verb(proto.action, d)?;
    if proto.policies.len() > POLICIES_MAX {
        d.at("policies", |d| d.error(format!("are more than {POLICIES_MAX}")));
        return None;
    }
    let mut names: Vec<&String> = proto.policies.keys().collect();
    names.sort();
    let mut policies = Vec::with_capacity(names.len());
    for name in names {
        let Some(proto) = proto.policies.get(name) else { continue };
        policies.push(d.at_key("policies", name, |d| policy(name, proto, place, d)));
    }
    Some(RbacRules { action, policies: policies.into_iter().collect::<Option<_>>()? })
}

fn policy(name: &str, proto: &rbac::Policy, place: Place, d: &mut Diagnostics) -> Option<RbacPolicy> {
    let permissions = list(&proto.permissions, "permissions", d, |proto, d| permission(proto, place, d));
    let principals = list(&proto.principals, "principals", d, |proto, d| principal(proto, place, d));
    let condition = match &proto.condition {
        Some(condition) => Some(d.at("condition", |d| expression(condition, d))?),
        None => None,
    };
    Some(RbacPolicy { name: Arc::from(name), permissions: permissions?, principals: principals?, condition })
}

fn too_deep<T>(d: &mut Diagnostics) -> Option<T> {
    d.error(format!("is nested more than {DEPTH_MAX} deep"));
    None
}

#[expect(deprecated, reason = "the older forms are still in use")]
fn permission(proto: &rbac::Permission, place: Place, d: &mut Diagnostics) -> Option<Permission> {
    use rbac::permission::Rule;
    if place.depth > DEPTH_MAX {
        return too_deep(d);
    }
    let mut set = |set: &rbac::permission::Set, field: &'static str| {
        d.at(field, |d| list(&set.rules, "rules", d, |proto, d| permission(proto, place.within(), d)))
    };
    match &proto.rule {
        Some(Rule::AndRules(rules)) => set(rules, "and_rules").map(Permission::And),
        Some(Rule::OrRules(rules)) => set(rules, "or_rules").map(Permission::Or),
        Some(Rule::NotRule(not)) => {
            d.at("not_rule", |d| permission(not, place.within(), d)).map(|not| Permission::Not(Box::new(not)))
        }
        Some(Rule::Any(true)) => Some(Permission::Any),
        Some(Rule::Header(matcher)) if place.has_request("header", d) => {
            d.at("header", |d| header(matcher, d)).map(Permission::Header)
        }
        Some(Rule::UrlPath(path)) if place.has_request("url_path", d) => {
            d.at("url_path", |d| url_path(path, d)).map(Permission::UrlPath)
        }
        Some(Rule::UriTemplate(policy)) if place.has_request("uri_template", d) => {
            d.at("uri_template", |d| template(policy, d)).map(Permission::UriTemplate)
        }
        Some(Rule::DestinationIp(range)) => d.at("destination_ip", |d| cidr(range, d)).map(Permission::DestinationIp),
        Some(Rule::DestinationPort(port)) => {
            let port = u16::try_from(*port).map_err(|_| d.at("destination_port", |d| d.error("is no port number")));
            port.ok().map(Permission::DestinationPort)
        }
        Some(Rule::DestinationPortRange(range)) => {
            let bounds = u32::try_from(range.start).ok().zip(u32::try_from(range.end).ok());
            let bounds = bounds.filter(|(start, end)| start < end && *end <= 65_536);
            if bounds.is_none() {
                d.at("destination_port_range", |d| d.error("is no range of ports"));
            }
            bounds.map(|(start, end)| Permission::DestinationPorts(start, end))
        }
        Some(Rule::RequestedServerName(name)) => {
            d.at("requested_server_name", |d| string(name, d)).map(Permission::ServerName)
        }
        Some(Rule::Metadata(proto)) => d.at("metadata", |d| metadata(proto, d)).map(Permission::Metadata),
        Some(Rule::SourcedMetadata(proto)) => {
            let (source, matcher) = d.at("sourced_metadata", |d| sourced(proto, place, d))?;
            Some(match source {
                rbac::MetadataSource::Dynamic => Permission::Metadata(matcher),
                rbac::MetadataSource::Route => Permission::RouteMetadata(matcher),
            })
        }
        Some(Rule::Header(_) | Rule::UrlPath(_) | Rule::UriTemplate(_)) => None,
        Some(Rule::Any(false) | Rule::Matcher(_)) | None => {
            d.error("is no rule that is supported");
            None
        }
    }
}

#[expect(deprecated, reason = "the older forms are still in use")]
fn principal(proto: &rbac::Principal, place: Place, d: &mut Diagnostics) -> Option<Principal> {
    use rbac::principal::Identifier;
    if place.depth > DEPTH_MAX {
        return too_deep(d);
    }
    let mut set = |set: &rbac::principal::Set, field: &'static str| {
        d.at(field, |d| list(&set.ids, "ids", d, |proto, d| principal(proto, place.within(), d)))
    };
    match &proto.identifier {
        Some(Identifier::AndIds(ids)) => set(ids, "and_ids").map(Principal::And),
        Some(Identifier::OrIds(ids)) => set(ids, "or_ids").map(Principal::Or),
        Some(Identifier::NotId(not)) => {
            d.at("not_id", |d| principal(not, place.within(), d)).map(|not| Principal::Not(Box::new(not)))
        }
        Some(Identifier::Any(true)) => Some(Principal::Any),
        Some(Identifier::Authenticated(authenticated)) => {
            let name = match &authenticated.principal_name {
                Some(name) => Some(d.at("authenticated", |d| d.at("principal_name", |d| string(name, d)))?),
                None => None,
            };
            Some(Principal::Authenticated(name))
        }
        Some(Identifier::SourceIp(range)) => d.at("source_ip", |d| cidr(range, d)).map(Principal::SourceIp),
        Some(Identifier::DirectRemoteIp(range)) => {
            d.at("direct_remote_ip", |d| cidr(range, d)).map(Principal::DirectRemoteIp)
        }
        Some(Identifier::RemoteIp(range)) => d.at("remote_ip", |d| cidr(range, d)).map(Principal::RemoteIp),
        Some(Identifier::Header(matcher)) if place.has_request("header", d) => {
            d.at("header", |d| header(matcher, d)).map(Principal::Header)
        }
        Some(Identifier::UrlPath(path)) if place.has_request("url_path", d) => {
            d.at("url_path", |d| url_path(path, d)).map(Principal::UrlPath)
        }
        Some(Identifier::Metadata(proto)) => d.at("metadata", |d| metadata(proto, d)).map(Principal::Metadata),
        Some(Identifier::SourcedMetadata(proto)) => {
            let (source, matcher) = d.at("sourced_metadata", |d| sourced(proto, place, d))?;
            Some(match source {
                rbac::MetadataSource::Dynamic => Principal::Metadata(matcher),
                rbac::MetadataSource::Route => Principal::RouteMetadata(matcher),
            })
        }
        Some(Identifier::Header(_) | Identifier::UrlPath(_)) => None,
        Some(Identifier::Any(false) | Identifier::FilterState(_) | Identifier::Custom(_)) | None => {
            d.error("is no principal that is supported");
            None
        }
    }
}

fn url_path(proto: &matcher::PathMatcher, d: &mut Diagnostics) -> Option<StringMatcher> {
    match &proto.rule {
        Some(matcher::path_matcher::Rule::Path(path)) => d.at("path", |d| string(path, d)),
        None => {
            d.at("path", |d| d.error("is required"));
            None
        }
    }
}

fn template(policy: &core::TypedExtensionConfig, d: &mut Diagnostics) -> Option<UriTemplate> {
    d.at("typed_config", |d| {
        let config: UriTemplateMatchConfig = extension(policy.typed_config.as_ref(), d)?;
        d.at("path_template", |d| UriTemplate::new(&config.path_template).map_err(|problem| d.error(problem)).ok())
    })
}

fn sourced(
    proto: &rbac::SourcedMetadata,
    place: Place,
    d: &mut Diagnostics,
) -> Option<(rbac::MetadataSource, MetadataMatcher)> {
    let source = variant::<rbac::MetadataSource>(proto.metadata_source, "metadata_source", d)?;
    if source == rbac::MetadataSource::Route && !place.has_request("metadata_source", d) {
        return None;
    }
    let Some(matcher) = &proto.metadata_matcher else {
        d.at("metadata_matcher", |d| d.error("is required"));
        return None;
    };
    Some((source, d.at("metadata_matcher", |d| metadata(matcher, d))?))
}

/// A text that goes into a header.
pub(super) fn header_text(text: &str, field: &'static str, d: &mut Diagnostics) -> Bytes {
    if !outrigger_http::valid_value(text.as_bytes()) {
        d.at(field, |d| d.error("holds a line break or NUL"));
    }
    Bytes::copy_from_slice(text.as_bytes())
}
