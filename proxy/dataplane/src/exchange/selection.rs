//! Which route a request takes, chosen before its filters run and again when one of them has changed the head.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{
    ClusterSpec, FilterOverride, MetadataMatch, Overrides, Route, RouteAction, RouteConfig, RouteForward, VirtualHost,
    WeightedCluster,
};
use outrigger_http::{Headers, RequestHead, StreamState};

use crate::live::HttpChain;

/// The virtual host, the route and its weighted cluster, by their places in the chain's route configuration.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// `None`: nothing can be chosen.
    chain: Option<Rc<HttpChain>>,
    host: Option<usize>,
    route: Option<usize>,
    /// The weighted cluster that was chosen, by its place.
    weighted: Option<usize>,
    /// The same for every choice of the stream, so that choosing again changes nothing by chance.
    random: u64,
    /// Chosen, and the exchange hasn't looked yet.
    changed: bool,
}

impl Selection {
    pub(super) fn new(chain: Rc<HttpChain>, random: u64) -> Selection {
        Selection { chain: Some(chain), random, ..Selection::default() }
    }

    pub(crate) fn choose(&mut self, stream: &RefCell<StreamState>) {
        let Some(routes) = routes_of(&self.chain) else { return };
        let mut state = stream.borrow_mut();
        let state = &mut *state;
        let (host, route) = routes.select(&state.request, self.random);
        if self.is_choice(host, route) {
            return;
        }
        let (host_index, route_index) = (host, route);
        let host = host.and_then(|host| routes.virtual_hosts.get(host));
        let route = host.zip(route).and_then(|(host, route)| host.routes.get(route));
        self.weighted = match route.map(|route| &route.action) {
            Some(RouteAction::Forward(forward)) => match &forward.cluster {
                ClusterSpec::Weighted { clusters, total } => {
                    let at = self.random % u64::from((*total).max(1));
                    pick(clusters, u32::try_from(at).unwrap_or_default())
                }
                _ => None,
            },
            _ => None,
        };
        state.info.virtual_host_name = host.map(|host| host.name.clone());
        state.info.virtual_host_metadata = host.and_then(|host| host.metadata.clone());
        state.info.route_metadata = route.and_then(|route| route.metadata.clone());
        state.info.routed = route.is_some();
        state.info.route_name = route.map(|route| &route.name).filter(|name| !name.is_empty()).cloned();
        state.info.cluster_name = route.and_then(|route| cluster_name(route, self.weighted, &state.request.headers));
        (self.host, self.route, self.changed) = (host_index, route_index, true);
    }

    /// The same choice, to be made anew.
    pub(super) fn again(&self) -> Selection {
        Selection { chain: self.chain.clone(), random: self.random, ..Selection::default() }
    }

    /// The route that a head would lead to.
    pub(super) fn route_of(&self, head: &RequestHead) -> Option<&Route> {
        let routes = routes_of(&self.chain)?;
        let (host, route) = routes.select(head, self.random);
        Some(routes.virtual_hosts.get(host?)?.routes.get(route?)?)
    }

    pub(crate) fn host(&self) -> Option<&VirtualHost> {
        Some(routes_of(&self.chain)?.virtual_hosts.get(self.host?)?)
    }

    pub(crate) fn route(&self) -> Option<&Route> {
        self.route_in(self.chain.as_deref()?)
    }

    /// The chosen route out of the stream's chain, so that it is no part of the stream.
    pub(super) fn route_in<'c>(&self, chain: &'c HttpChain) -> Option<&'c Route> {
        Some(chain.routes.as_ref()?.virtual_hosts.get(self.host?)?.routes.get(self.route?)?)
    }

    /// Whether this is what was chosen before, and all that follows from it with it.
    fn is_choice(&self, host: Option<usize>, route: Option<usize>) -> bool {
        // A cluster that a header names may be another one now.
        let by_header = || self.forward().is_some_and(|forward| matches!(forward.cluster, ClusterSpec::Header(_)));
        host.is_some() && route.is_some() && (host, route) == (self.host, self.route) && !by_header()
    }

    /// Whether a choice was made since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn forward(&self) -> Option<&RouteForward> {
        match &self.route()?.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    pub(crate) fn weighted_cluster(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.cluster {
            ClusterSpec::Weighted { clusters, .. } => clusters.get(self.weighted?),
            _ => None,
        }
    }

    /// What the chosen endpoint's metadata has to say.
    pub(super) fn metadata(&self) -> Option<&MetadataMatch> {
        match self.weighted_cluster() {
            Some(cluster) => cluster.metadata.as_deref(),
            None => self.forward()?.metadata.as_deref(),
        }
    }

    pub(super) fn cluster_name(&self, headers: &Headers) -> Option<Arc<str>> {
        cluster_name(self.route()?, self.weighted, headers)
    }

    /// What the scopes of the route say about the filter at a place of the configuration's names.
    pub(crate) fn filter_override(&self, position: Option<usize>) -> Option<&FilterOverride> {
        self.overrides()?.get(position?)
    }

    /// What the most specific scope of the route says about filters, the scopes around it included.
    pub(crate) fn overrides(&self) -> Option<&Overrides> {
        Some(match self.weighted_cluster() {
            Some(cluster) => &cluster.overrides,
            None => &self.route()?.overrides,
        })
    }
}

fn routes_of(chain: &Option<Rc<HttpChain>>) -> Option<&RouteConfig> {
    chain.as_ref()?.routes.as_deref()
}

fn pick(clusters: &[WeightedCluster], mut at: u32) -> Option<usize> {
    for (index, cluster) in clusters.iter().enumerate() {
        match at.checked_sub(cluster.weight) {
            Some(rest) => at = rest,
            None => return Some(index),
        }
    }
    None
}

fn cluster_name(route: &Route, weighted: Option<usize>, headers: &Headers) -> Option<Arc<str>> {
    let RouteAction::Forward(forward) = &route.action else { return None };
    match &forward.cluster {
        ClusterSpec::Single(name) => Some(name.clone()),
        ClusterSpec::Weighted { clusters, .. } => Some(clusters.get(weighted?)?.name.clone()),
        ClusterSpec::Header(name) => std::str::from_utf8(headers.get(name)?).ok().map(Arc::from),
    }
}
