//! Which virtual host and which route take a request, and what its filters and its action are.

use std::sync::Arc;

use super::{Candidate, Question, Stage, Verdict, cluster, source_of, text};
use crate::{FilterConfig, HttpConnectionManager, HttpFilter, Route, RouteAction, RouteConfig, Snapshot, VirtualHost};

pub(super) fn follow(
    snapshot: &Snapshot,
    manager: &HttpConnectionManager,
    routes: &RouteConfig,
    question: &Question,
    stages: &mut Vec<Stage>,
) -> String {
    let (head, ignore_port) = (&question.head, routes.ignore_port_in_host_matching);
    let (host, route) = routes.table.select(&routes.virtual_hosts, head, ignore_port, question.random);
    stages.push(Stage::of("virtual host", virtual_hosts(routes, host, &head.authority)));
    let Some(host) = host else {
        return format!("404: no virtual host has the domain {:?}", text::of(&head.authority));
    };
    stages.push(Stage::of("route", candidates(host, route, question)));
    let Some(route) = route else {
        return format!("404: no route of virtual host {:?} matches", host.name);
    };
    stages.push(Stage::of("HTTP filters", filters(snapshot, manager, routes, route)));
    match &route.action {
        RouteAction::Forward(forward) => cluster::forward(snapshot, forward, question, stages),
        RouteAction::Redirect(redirect) => format!("{}: a redirect", redirect.status),
        RouteAction::DirectResponse(direct) => format!("{}: a direct response", direct.status),
    }
}

fn virtual_hosts(routes: &RouteConfig, winner: Option<&Arc<VirtualHost>>, authority: &[u8]) -> Vec<Candidate> {
    let authority = text::of(authority);
    let all = routes.virtual_hosts.iter().map(|host| {
        let domains = text::list(&host.domains);
        let candidate = if winner.is_some_and(|winner| Arc::ptr_eq(winner, host)) {
            Candidate::won(&*host.name, format!("{domains} has the best match for {authority:?}"))
        } else {
            Candidate::lost(&*host.name, format!("{domains} has none, or a less specific one, for {authority:?}"))
        };
        candidate.from(source_of(&routes.origin))
    });
    all.collect()
}

fn candidates(host: &VirtualHost, winner: Option<&Arc<Route>>, question: &Question) -> Vec<Candidate> {
    let mut reached = true;
    let all = host.routes.iter().enumerate().map(|(index, route)| {
        let name = if route.name.is_empty() { format!("#{index}") } else { route.name.to_string() };
        let is_winner = winner.is_some_and(|winner| Arc::ptr_eq(winner, route));
        let candidate = if is_winner {
            reached = false;
            Candidate::won(name, text::path(&route.path))
        } else if reached {
            Candidate::lost(name, failed(route, question))
        } else {
            Candidate::new(name, Verdict::NotReached, text::path(&route.path))
        };
        candidate.from(&*route.object)
    });
    all.collect()
}

/// The first matcher of a route that a request fails.
fn failed(route: &Route, question: &Question) -> String {
    let head = &question.head;
    if !route.path_matches(head, head.path_only()) {
        return format!("{} doesn't match {:?}", text::path(&route.path), text::of(head.path_only()));
    }
    if let Some(matcher) = route.headers.iter().find(|matcher| !matcher.matches(head)) {
        return format!("header {} doesn't match", text::header(matcher));
    }
    if let Some(matcher) = route.query.iter().find(|matcher| !matcher.matches(head.query())) {
        return format!("query parameter {:?} doesn't match", text::of(&matcher.name));
    }
    if let Some(matcher) = route.cookies.iter().find(|matcher| !matcher.matches(&head.headers)) {
        return format!("cookie {:?} doesn't match", text::of(&matcher.name));
    }
    if route.grpc_only && !crate::select::is_grpc(head) {
        return "takes only gRPC requests".to_owned();
    }
    "runtime_fraction leaves this request out".to_owned()
}

fn filters(
    snapshot: &Snapshot,
    manager: &HttpConnectionManager,
    routes: &RouteConfig,
    route: &Route,
) -> Vec<Candidate> {
    let state = |filter: &HttpFilter| {
        let position = routes.override_names.position(&filter.name);
        let found = position.and_then(|position| route.overrides.get(position));
        let (disabled, own) = found.map_or((filter.disabled, false), |o| (o.disabled, o.config.is_some()));
        if disabled {
            let by = if found.is_some() { "disabled for this route" } else { "disabled" };
            return Candidate::lost(&*filter.name, by);
        }
        let kind = match snapshot.filter_config(filter) {
            FilterConfig::Missing => return Candidate::lost(&*filter.name, "its configuration doesn't exist: 500"),
            FilterConfig::Plugin(plugin) => format!("Wasm plugin {}", plugin.name),
            _ => "built in".to_owned(),
        };
        Candidate::won(&*filter.name, if own { format!("{kind}, configured by the route") } else { kind })
    };
    manager.filters.iter().map(state).collect()
}
