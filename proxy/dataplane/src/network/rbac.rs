//! `envoy.filters.network.rbac`: closes connections by rules, and watches what other rules would do.
//!
//! Envoy asks the rules when the client's first bytes have come; until then the upstream is connected already, and may say
//! what the client must not hear. What doesn't depend on other filters is decided here before anything is connected.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{NetworkRbac, RbacEngine};
use outrigger_stats::{Counter, Name, Registry};

use super::delay::Delay;
use super::{ClosedBy, ConnectionCx, NetworkAction, NetworkFilter};
use crate::filters::rbac::{hint, note};

/// Where the verdicts stand in the connection's metadata.
const NAMESPACE: &str = "envoy.filters.network.rbac";

/// The filter's place in a chain, for all connections of a worker.
#[derive(Debug)]
pub(crate) struct RbacHandle {
    config: Arc<NetworkRbac>,
    reads_metadata: bool,
    enforced: Verdicts,
    shadow: Verdicts,
}

/// Counts of what rules say.
#[derive(Debug)]
struct Verdicts {
    allowed: Counter,
    denied: Counter,
}

impl Verdicts {
    /// `STAT_PREFIX.rbac.*`, and for shadow rules with a prefix of their own.
    fn new(registry: &Arc<Registry>, stat_prefix: &str, rules: &str) -> Verdicts {
        let counter = |what: &str| {
            let stat_prefix = stat_prefix.trim_end_matches('.');
            registry.counter(&Name::new(stat_prefix, format!("rbac.{rules}{what}")))
        };
        Verdicts { allowed: counter("allowed"), denied: counter("denied") }
    }

    fn count(&self, allowed: bool) {
        if allowed { self.allowed.inc() } else { self.denied.inc() }
    }
}

impl RbacHandle {
    pub(crate) fn new(config: &Arc<NetworkRbac>, registry: &Arc<Registry>) -> Rc<RbacHandle> {
        let filter = &config.filter;
        let shadow = match filter.shadow_stat_prefix.trim_end_matches('.') {
            "" => "shadow_".to_owned(),
            prefix => format!("{prefix}.shadow_"),
        };
        Rc::new(RbacHandle {
            reads_metadata: config.reads_metadata(),
            enforced: Verdicts::new(registry, &filter.stat_prefix, ""),
            shadow: Verdicts::new(registry, &filter.stat_prefix, &shadow),
            config: config.clone(),
        })
    }
}

/// What a connection has been told.
#[derive(Debug)]
enum Told {
    Nothing,
    /// It may go on; `fresh`: no byte has come since.
    Allowed {
        fresh: bool,
    },
    /// It is closed when this is over.
    Denied {
        _delay: Option<Delay>,
    },
}

#[derive(Debug)]
pub(super) struct Filter {
    handle: Rc<RbacHandle>,
    told: Told,
}

impl Filter {
    pub(super) fn new(handle: &Rc<RbacHandle>) -> Filter {
        Filter { handle: handle.clone(), told: Told::Nothing }
    }

    fn judge(&mut self, cx: &ConnectionCx<'_>) -> NetworkAction {
        let config = &self.handle.config;
        if let Some(shadow) = &config.filter.shadow {
            let mut state = cx.state.borrow_mut();
            let verdict = shadow.judge(&state);
            self.handle.shadow.count(verdict.allowed);
            note(&mut state, NAMESPACE, &format!("{}shadow", config.filter.shadow_stat_prefix), verdict);
        }
        let allowed = config.filter.rules.as_ref().is_none_or(|rules| self.enforce(rules, cx));
        if allowed {
            self.told = Told::Allowed { fresh: true };
            return NetworkAction::Continue;
        }
        match config.delay_deny {
            Some(delay) => {
                self.told = Told::Denied { _delay: Some(Delay::close_after(delay, cx)) };
                NetworkAction::Refuse
            }
            None => {
                self.told = Told::Denied { _delay: None };
                NetworkAction::Close
            }
        }
    }

    fn enforce(&self, rules: &RbacEngine, cx: &ConnectionCx<'_>) -> bool {
        let mut state = cx.state.borrow_mut();
        let verdict = rules.judge(&state);
        self.handle.enforced.count(verdict.allowed);
        hint(&mut state, verdict);
        if !verdict.allowed {
            state.info.extras_mut().connection_termination_details = verdict.details().into();
        }
        verdict.allowed
    }
}

impl NetworkFilter for Filter {
    fn on_new_connection(&mut self, cx: &ConnectionCx<'_>) -> NetworkAction {
        if self.handle.reads_metadata {
            return NetworkAction::Continue;
        }
        self.judge(cx)
    }

    fn on_downstream_data(&mut self, cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        match &mut self.told {
            Told::Nothing => self.judge(cx),
            Told::Allowed { .. } if !self.handle.config.continuous => NetworkAction::Continue,
            Told::Allowed { fresh } => {
                // The first bytes were judged when the connection came.
                if std::mem::take(fresh) {
                    return NetworkAction::Continue;
                }
                let action = self.judge(cx);
                if let Told::Allowed { fresh } = &mut self.told {
                    *fresh = false;
                }
                action
            }
            Told::Denied { .. } => NetworkAction::Refuse,
        }
    }

    fn on_upstream_data(&mut self, _cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        match self.told {
            Told::Denied { .. } => NetworkAction::Refuse,
            Told::Nothing | Told::Allowed { .. } => NetworkAction::Continue,
        }
    }

    fn on_close(&mut self, _cx: &ConnectionCx<'_>, _by: ClosedBy) {
        self.told = Told::Denied { _delay: None };
    }

    fn decides_at_once(&self) -> bool {
        let config = &self.handle.config;
        !self.handle.reads_metadata && !config.continuous && config.delay_deny.is_none()
    }
}
