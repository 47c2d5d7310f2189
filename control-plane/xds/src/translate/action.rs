//! What a route does: forward, redirect, rewrite, change headers.

use outrigger_model::{BackendView, HeaderMutation, PathMatch, PathRewrite, Redirect, Rewrite, RouteEntry};
use outrigger_proto::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrigger_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use outrigger_proto::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use outrigger_proto::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use outrigger_proto::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use outrigger_proto::pb::envoy::config::route::v3::{RedirectAction, RouteAction, WeightedCluster, route};
use outrigger_proto::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use outrigger_proto::pb::google::protobuf::Duration;

use super::proto::uint32;

/// Header modifiers in Envoy's form.
#[derive(Debug, Default)]
pub(super) struct HeaderChanges {
    pub(super) add: Vec<HeaderValueOption>,
    pub(super) remove: Vec<String>,
}

impl HeaderChanges {
    pub(super) fn of(mutation: &HeaderMutation) -> Self {
        let set =
            mutation.set.iter().map(|(name, value)| header(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
        let add = mutation.add.iter().map(|(name, value)| header(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
        Self { add: set.chain(add).collect(), remove: mutation.remove.iter().map(ToString::to_string).collect() }
    }
}

fn header(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            // Envoy reads values as format strings.
            value: value.replace('%', "%%"),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    }
}

/// `None`: there is no backend that gets a request.
pub(super) fn forward(entry: &RouteEntry, timeout: Option<Duration>) -> Option<route::Action> {
    let backends: Vec<_> = entry.backends.iter().filter(|backend| backend.backend.weight > 0).collect();
    if backends.iter().all(|backend| backend.cluster.is_none()) {
        return None;
    }
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(&backends)),
        timeout,
        // The share of a backend that cannot be followed.
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        ..RouteAction::default()
    };
    if let Some(rewrite) = &entry.rule.actions.rewrite {
        apply_rewrite(&mut action, rewrite, &entry.matcher.path);
    }
    Some(route::Action::Route(action))
}

fn clusters(backends: &[&BackendView]) -> ClusterSpecifier {
    if let [only] = backends
        && only.backend.request_headers.is_empty()
        && only.backend.response_headers.is_empty()
    {
        return ClusterSpecifier::Cluster(cluster_name(only));
    }
    let clusters = backends.iter().map(|backend| {
        let request = HeaderChanges::of(&backend.backend.request_headers);
        let response = HeaderChanges::of(&backend.backend.response_headers);
        ClusterWeight {
            name: cluster_name(backend),
            weight: Some(uint32(backend.backend.weight)),
            request_headers_to_add: request.add,
            request_headers_to_remove: request.remove,
            response_headers_to_add: response.add,
            response_headers_to_remove: response.remove,
            ..ClusterWeight::default()
        }
    });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect(), ..WeightedCluster::default() })
}

/// For a reference that cannot be followed: the name of a cluster that does not exist.
fn cluster_name(backend: &BackendView) -> String {
    match &backend.cluster {
        Some(key) => key.to_string(),
        None => format!("{}:{}", backend.backend.service, backend.backend.port),
    }
}

fn apply_rewrite(action: &mut RouteAction, rewrite: &Rewrite, matched: &PathMatch) {
    if let Some(host) = &rewrite.hostname {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.to_string()));
    }
    match rewrite.path.as_ref().map(|path| new_path(path, matched)) {
        Some(NewPath::Full(path)) => action.regex_rewrite = Some(substitute("^.*$", &path)),
        Some(NewPath::Prefix(prefix)) => action.prefix_rewrite = prefix,
        Some(NewPath::Regex(regex)) => action.regex_rewrite = Some(regex),
        None => {}
    }
}

#[derive(Debug, Clone, PartialEq)]
enum NewPath {
    Full(String),
    /// Replaces what the route matched, byte for byte.
    Prefix(String),
    Regex(RegexMatchAndSubstitute),
}

/// Gateway API replaces whole path segments; Envoy replaces the bytes that matched.
fn new_path(rewrite: &PathRewrite, matched: &PathMatch) -> NewPath {
    let prefix = match rewrite {
        PathRewrite::Full(path) => return NewPath::Full(path.to_string()),
        PathRewrite::Prefix(prefix) => prefix.trim_end_matches('/'),
    };
    match matched {
        // `/api` to `/`: the slash that follows what matched must not be doubled.
        PathMatch::Prefix(from) if from.as_ref() != "/" && prefix.is_empty() => {
            NewPath::Regex(substitute(&format!("^{}/*", escaped(from)), "/"))
        }
        PathMatch::Prefix(from) if from.as_ref() != "/" => NewPath::Prefix(prefix.to_owned()),
        // `/` matched: only the slash goes, so that the new prefix brings one.
        _ => NewPath::Prefix(format!("{prefix}/")),
    }
}

fn substitute(pattern: &str, replacement: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: pattern.to_owned(), ..RegexMatcher::default() }),
        // A backslash begins a group reference.
        substitution: replacement.replace('\\', "\\\\"),
    }
}

/// The text as a regular expression that matches it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '/' && c != '-' && c != '_' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(super) fn redirect(redirect: &Redirect, matched: &PathMatch, listener_port: u16) -> RedirectAction {
    let code = match redirect.status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = redirect.path.as_ref().map(|path| match new_path(path, matched) {
        NewPath::Full(path) => PathRewriteSpecifier::PathRedirect(path),
        NewPath::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
        NewPath::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
    });
    RedirectAction {
        host_redirect: redirect.hostname.as_deref().unwrap_or_default().to_owned(),
        port_redirect: redirect_port(redirect, listener_port),
        response_code: code.into(),
        scheme_rewrite_specifier: redirect
            .scheme
            .as_ref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

/// 0 leaves the port out, or the request's own where the host stays.
fn redirect_port(redirect: &Redirect, listener_port: u16) -> u32 {
    match (redirect.port, redirect.scheme.as_deref()) {
        (Some(port), _) => port.into(),
        (None, Some("https")) => 443,
        (None, Some(_)) => 80,
        (None, None) if listener_port == 80 => 0,
        (None, None) => listener_port.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_by_segments() {
        let check = |from: &str, to: &str, expected: NewPath| {
            let found = new_path(&PathRewrite::Prefix(to.into()), &PathMatch::Prefix(from.into()));
            assert_eq!(found, expected, "{from} -> {to}");
        };
        check("/api", "/v2", NewPath::Prefix("/v2".into()));
        check("/api", "/v2/", NewPath::Prefix("/v2".into()));
        check("/", "/v2", NewPath::Prefix("/v2/".into()));
        check("/", "/", NewPath::Prefix("/".into()));
        check("/a.b", "/", NewPath::Regex(substitute("^/a\\.b/*", "/")));
        check("/api", "", NewPath::Regex(substitute("^/api/*", "/")));
    }

    #[test]
    fn redirects_keep_the_right_port() {
        let check = |port: Option<u16>, scheme: Option<&str>, listener: u16, expected: u32| {
            let redirect = Redirect { scheme: scheme.map(Into::into), hostname: None, port, path: None, status: 302 };
            assert_eq!(redirect_port(&redirect, listener), expected, "{port:?} {scheme:?} {listener}");
        };
        check(Some(8443), Some("https"), 80, 8443);
        check(None, Some("https"), 8080, 443);
        check(None, Some("http"), 8080, 80);
        check(None, None, 8080, 8080);
        check(None, None, 80, 0);
        check(None, None, 0, 0);
    }

    #[test]
    fn header_values_are_literal() {
        let mutation = HeaderMutation {
            set: vec![("a".into(), "100%".into())],
            add: vec![("b".into(), "".into())],
            remove: vec!["c".into()],
        };
        let changes = HeaderChanges::of(&mutation);
        let values: Vec<_> = changes.add.iter().map(|option| option.header.as_ref().unwrap().value.as_str()).collect();
        assert_eq!(values, ["100%%", ""]);
        assert!(changes.add[1].keep_empty_value);
        assert_eq!(changes.remove, ["c"]);
    }
}
