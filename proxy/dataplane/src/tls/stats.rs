//! `ssl.*` of a listener or a cluster, with Envoy's names.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_http::TlsInfo;
use outrigger_stats::{Counter, Name, Registry};

use super::server::Stapling;
use super::session::{Failure, HandshakeError, Session};

/// Cells of one scope, made when they are first written. Versions, ciphers and curves are those that we have.
#[derive(Debug)]
pub(crate) struct TlsStats {
    registry: Arc<Registry>,
    prefix: &'static str,
    tag: (&'static str, Arc<str>),
    handshake: OnceCell<Counter>,
    named: RefCell<Vec<(&'static str, &'static str, Counter)>>,
}

impl TlsStats {
    /// `listener.ADDRESS.ssl.*`.
    pub(crate) fn of_listener(registry: &Arc<Registry>, stat_prefix: &Arc<str>) -> Rc<TlsStats> {
        TlsStats::new(registry, "listener", ("envoy_listener_address", stat_prefix.clone()))
    }

    /// `cluster.NAME.ssl.*`.
    pub(crate) fn of_cluster(registry: &Arc<Registry>, stat_name: &Arc<str>) -> Rc<TlsStats> {
        TlsStats::new(registry, "cluster", ("envoy_cluster_name", stat_name.clone()))
    }

    fn new(registry: &Arc<Registry>, prefix: &'static str, tag: (&'static str, Arc<str>)) -> Rc<TlsStats> {
        let (handshake, named) = (OnceCell::new(), RefCell::default());
        Rc::new(TlsStats { registry: registry.clone(), prefix, tag, handshake, named })
    }

    fn counter(&self, rest: &str) -> Counter {
        self.registry.counter(&Name::new(self.prefix, rest).tag(self.tag.0, &*self.tag.1))
    }

    /// Few names occur: those of what we have.
    fn count(&self, group: &'static str, name: &'static str) {
        let mut named = self.named.borrow_mut();
        if let Some((.., counter)) = named.iter().find(|(a, b, _)| *a == group && *b == name) {
            return counter.inc();
        }
        let rest = if group.is_empty() { format!("ssl.{name}") } else { format!("ssl.{group}.{name}") };
        let counter = self.counter(&rest);
        counter.inc();
        named.push((group, name, counter));
    }

    pub(super) fn shaken(&self, session: &Session, info: &TlsInfo) {
        self.handshake.get_or_init(|| self.counter("ssl.handshake")).inc();
        self.count("versions", info.version);
        self.count("ciphers", info.cipher);
        if let Some(curve) = session.curve() {
            self.count("curves", curve);
        }
        if session.is_resumed() {
            self.count("", "session_reused");
        }
        if info.peer.is_none() {
            self.count("", "no_certificate");
        }
    }

    pub(crate) fn failed(&self, error: &HandshakeError) {
        let name = match error.failure() {
            Failure::NoCertificate => "fail_verify_no_cert",
            Failure::Verify => "fail_verify_error",
            Failure::San => "fail_verify_san",
            Failure::Hash => "fail_verify_cert_hash",
            Failure::Other => "connection_error",
        };
        self.count("", name);
        match error {
            // A context without its secrets, as Envoy counts it.
            HandshakeError::Context(_) => self.count("", "secrets_not_ready"),
            HandshakeError::Timeout => self.count("", "handshake_timeout"),
            _ => {}
        }
    }

    /// A client that wants an OCSP response.
    pub(super) fn stapled(&self, how: Stapling) {
        self.count("", "ocsp_staple_requests");
        let name = match how {
            Stapling::Staple => "ocsp_staple_responses",
            Stapling::Omit => "ocsp_staple_omitted",
            Stapling::Fail => "ocsp_staple_failed",
        };
        self.count("", name);
    }

    /// A handshake that had to give way to newer ones.
    pub(crate) fn overflow(&self) {
        self.count("", "handshake_overflow");
    }
}
