//! The routes of a gateway's port.

use std::collections::HashMap;

use outrigger_model::{
    GatewayView, ListenerView, Match, ObjectId, PathMatch, RouteEntry, Timeouts, ValueMatch, VirtualHost,
};
use outrigger_proto::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::{
    self as pb, DirectResponseAction, FilterConfig, HeaderMatcher, QueryParameterMatcher, RouteConfiguration,
    RouteMatch, route,
};
use outrigger_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrigger_proto::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use outrigger_proto::pb::google::protobuf::{Any, Duration};

use super::action::{self, HeaderChanges};
use super::proto::{Place, any, duration, origin};
use super::{Profile, listener};
use crate::canonical;
use crate::resource::{Resource, ResourceType};

pub(super) fn resource(view: &ListenerView, gateway: &GatewayView, profile: Profile) -> Resource {
    let name = listener::route_name(view, profile);
    let configuration = RouteConfiguration {
        name: name.clone(),
        virtual_hosts: view.hosts.iter().map(|host| virtual_host(host, view.port)).collect(),
        // A gateway's host names have no port, whatever port its clients reach it by.
        ignore_port_in_host_matching: true,
        metadata: Some(origin(&gateway.gateway.source, Place::File)),
        ..RouteConfiguration::default()
    };
    let body = canonical::encode(&configuration, &canonical::ROUTE_CONFIGURATION);
    Resource::new(ResourceType::Route, &name, body)
}

fn virtual_host(host: &VirtualHost, port: u16) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.domain.to_string(),
        domains: vec![host.domain.to_string()],
        routes: host.routes.iter().map(|entry| route(entry, port)).collect(),
        ..pb::VirtualHost::default()
    }
}

fn route(entry: &RouteEntry, port: u16) -> pb::Route {
    let actions = &entry.rule.actions;
    let request = HeaderChanges::of(&actions.request_headers);
    let response = HeaderChanges::of(&actions.response_headers);
    let action = match &actions.redirect {
        Some(redirect) => route::Action::Redirect(action::redirect(redirect, &entry.matcher.path, port)),
        None => action::forward(entry, timeout(&entry.rule.timeouts)).unwrap_or_else(unresolved),
    };
    pb::Route {
        name: entry.name.clone(),
        r#match: Some(route_match(&entry.matcher)),
        action: Some(action),
        metadata: Some(origin(&entry.route.source, Place::Line)),
        typed_per_filter_config: switched_on(&entry.filters),
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        ..pb::Route::default()
    }
}

/// Gateway API: a rule none of whose backends can be followed answers 500.
fn unresolved() -> route::Action {
    route::Action::DirectResponse(DirectResponseAction { status: 500, ..DirectResponseAction::default() })
}

/// The filters of the chain that are off elsewhere. An empty `config` is how Envoy is told "on, as configured".
fn switched_on(filters: &[ObjectId]) -> HashMap<String, Any> {
    let on = FilterConfig { config: Some(Any::default()), ..FilterConfig::default() };
    filters.iter().map(|id| (id.to_string(), any(&on))).collect()
}

/// There are no retries, so that the request and its only attempt have one timeout, the shorter. Zero is none.
fn timeout(timeouts: &Timeouts) -> Option<Duration> {
    let both = [timeouts.request, timeouts.backend_request];
    let set = both.into_iter().flatten();
    let shortest = set.clone().filter(|timeout| !timeout.is_zero()).min();
    shortest.or_else(|| set.min()).map(duration)
}

fn route_match(matcher: &Match) -> RouteMatch {
    let mut headers: Vec<_> = matcher.method.iter().map(|method| header(":method", exact(method))).collect();
    headers.extend(matcher.headers.iter().map(|(name, value)| header(name, value_match(value))));
    let query = matcher.query.iter().map(|(name, value)| QueryParameterMatcher {
        name: name.to_string(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(value_match(value))),
    });
    RouteMatch {
        path_specifier: Some(path(&matcher.path)),
        headers,
        query_parameters: query.collect(),
        ..RouteMatch::default()
    }
}

fn path(path: &PathMatch) -> PathSpecifier {
    match path {
        PathMatch::Exact(value) => PathSpecifier::Path(value.to_string()),
        PathMatch::Prefix(value) if value.as_ref() == "/" => PathSpecifier::Prefix("/".to_owned()),
        PathMatch::Prefix(value) => PathSpecifier::PathSeparatedPrefix(value.to_string()),
        PathMatch::Regex(value) => PathSpecifier::SafeRegex(regex(value)),
    }
}

fn header(name: &str, value: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..HeaderMatcher::default()
    }
}

fn value_match(value: &ValueMatch) -> StringMatcher {
    match value {
        ValueMatch::Exact(value) => exact(value),
        ValueMatch::Regex(value) => {
            StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(value))), ..StringMatcher::default() }
        }
    }
}

fn exact(value: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_owned())), ..StringMatcher::default() }
}

fn regex(value: &str) -> RegexMatcher {
    RegexMatcher { regex: value.to_owned(), ..RegexMatcher::default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration as Time;

    use super::*;

    #[test]
    fn the_shorter_timeout_counts_and_zero_is_none() {
        let check = |request: Option<u64>, backend: Option<u64>, expected: Option<i64>| {
            let timeouts =
                Timeouts { request: request.map(Time::from_secs), backend_request: backend.map(Time::from_secs) };
            assert_eq!(timeout(&timeouts).map(|timeout| timeout.seconds), expected, "{timeouts:?}");
        };
        check(None, None, None);
        check(Some(3), None, Some(3));
        check(None, Some(2), Some(2));
        check(Some(3), Some(2), Some(2));
        check(Some(0), Some(2), Some(2));
        check(Some(0), None, Some(0));
        check(Some(0), Some(0), Some(0));
    }
}
