//! `envoy.filters.network.connection_limit`: closes the connections that a filter chain has too many of.
//!
//! As in Envoy, one that is too many counts as well until it is closed, and none is taken in its place as long as it waits.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::ConnectionLimit;
use outrigger_stats::{Counter, Gauge, Name, Registry};

use super::delay::Delay;
use super::{ClosedBy, ConnectionCx, NetworkAction, NetworkFilter};

/// The filter's place in a chain, for all connections of a worker.
#[derive(Debug)]
pub(crate) struct LimitHandle {
    config: Arc<ConnectionLimit>,
    limited: Counter,
    active: Gauge,
}

impl LimitHandle {
    pub(crate) fn new(config: &Arc<ConnectionLimit>, registry: &Arc<Registry>) -> Rc<LimitHandle> {
        let name = |what: &str| Name::new("connection_limit", format!("{}.{what}", config.stat_prefix));
        Rc::new(LimitHandle {
            limited: registry.counter(&name("limited_connections")),
            active: registry.gauge(&name("active_connections")),
            config: config.clone(),
        })
    }
}

/// A connection that counts.
#[derive(Debug)]
struct Counted(Rc<LimitHandle>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.config.active.end();
        self.0.active.dec();
    }
}

#[derive(Debug)]
pub(super) struct Filter {
    handle: Rc<LimitHandle>,
    counted: Option<Counted>,
    /// It is too many, and closed when this is over.
    _delay: Option<Delay>,
}

impl Filter {
    pub(super) fn new(handle: &Rc<LimitHandle>) -> Filter {
        Filter { handle: handle.clone(), counted: None, _delay: None }
    }
}

impl NetworkFilter for Filter {
    fn on_new_connection(&mut self, cx: &ConnectionCx<'_>) -> NetworkAction {
        let limit = &self.handle.config;
        let within = limit.active.begin();
        if !within {
            limit.active.begin_beyond();
            self.handle.limited.inc();
        }
        self.handle.active.inc();
        self.counted = Some(Counted(self.handle.clone()));
        match limit.delay {
            _ if within => NetworkAction::Continue,
            Some(delay) => {
                self._delay = Some(Delay::close_after(delay, cx));
                NetworkAction::Refuse
            }
            None => NetworkAction::Close,
        }
    }

    fn on_downstream_data(&mut self, _cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        NetworkAction::Continue
    }

    fn on_upstream_data(&mut self, _cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        NetworkAction::Continue
    }

    fn on_close(&mut self, _cx: &ConnectionCx<'_>, _by: ClosedBy) {
        self.counted = None;
        self._delay = None;
    }

    fn decides_at_once(&self) -> bool {
        self.handle.config.delay.is_none()
    }
}
