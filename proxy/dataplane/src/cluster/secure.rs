//! TLS towards a cluster's endpoints.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{ClusterEntry, Secret, UpstreamTls, UpstreamTransport};
use outrigger_http::RequestHead;
use outrigger_stats::Registry;

use super::ClusterHandle;
use super::endpoint::EndpointHandle;
use crate::tls::{Alpn, Connector, ContextError, HandshakeError, Target, TlsStats};
use crate::transport::Transport;

type Made = Result<Rc<Connector>, ContextError>;

/// A cluster's TLS contexts as a worker uses them. Outlives updates that change neither them nor their secrets.
#[derive(Debug)]
pub(super) struct Security {
    stats: Rc<TlsStats>,
    /// Made at first use.
    connectors: RefCell<Vec<(Arc<UpstreamTls>, Made)>>,
    secrets: BTreeMap<Arc<str>, Arc<Secret>>,
}

impl Security {
    pub(super) fn build(
        entry: &ClusterEntry,
        registry: &Arc<Registry>,
        previous: Option<&ClusterHandle>,
    ) -> Option<Rc<Security>> {
        let mut contexts = entry.cluster.transports.contexts();
        contexts.next()?;
        let known = previous.filter(|previous| {
            let same = |(a, b): (&Arc<Secret>, &Arc<Secret>)| Arc::ptr_eq(a, b);
            previous.cluster().transports == entry.cluster.transports
                && previous.cluster().stat_name == entry.cluster.stat_name
                && previous.entry.secrets.len() == entry.secrets.len()
                && previous.entry.secrets.values().zip(entry.secrets.values()).all(same)
        });
        if let Some(known) = known.and_then(|known| known.security.clone()) {
            return Some(known);
        }
        Some(Rc::new(Security {
            stats: TlsStats::of_cluster(registry, &entry.cluster.stat_name),
            connectors: RefCell::default(),
            secrets: entry.secrets.clone(),
        }))
    }

    fn connector(&self, tls: &Arc<UpstreamTls>) -> Result<Rc<Connector>, HandshakeError> {
        let mut connectors = self.connectors.borrow_mut();
        let known = connectors.iter().find(|(known, _)| Arc::ptr_eq(known, tls) || known == tls);
        let found = match known {
            Some((_, connector)) => connector.clone(),
            None => {
                let resolved = tls.context.resolve(|key| self.secrets.get(key)).map_err(ContextError::from);
                let made = resolved.and_then(|resolved| Connector::new(tls, &resolved)).map(Rc::new);
                connectors.push((tls.clone(), made.clone()));
                made
            }
        };
        found.map_err(HandshakeError::Context)
    }
}

impl ClusterHandle {
    /// How connections go to an endpoint.
    pub(super) fn transport_of(&self, endpoint: &EndpointHandle) -> &UpstreamTransport {
        self.cluster().transports.of(endpoint.endpoint.metadata.as_deref())
    }

    /// Brings up what the transport socket of an endpoint has on top of a connection. The error is for logs.
    pub(super) async fn secure(
        &self,
        transport: &mut Transport,
        endpoint: &EndpointHandle,
        alpn: Alpn,
    ) -> Result<(), String> {
        let Some(security) = &self.security else { return Ok(()) };
        let Some(tls) = &self.transport_of(endpoint).tls else { return Ok(()) };
        let made_for = transport.made_for.clone();
        let asked = made_for.as_ref().and_then(|made_for| made_for.server_name.as_deref());
        let auto = self.cluster().http.auto_sni.as_ref();
        let target = Target {
            // An address is no name to be told.
            server_name: asked.filter(|name| name.parse::<IpAddr>().is_err()),
            san: asked.filter(|_| auto.is_some_and(|auto| auto.validates_san)),
            host_name: &endpoint.endpoint.hostname,
            alpn,
        };
        let shaken = match security.connector(tls) {
            Ok(connector) => transport.connect_tls(&connector, &target, &security.stats).await,
            Err(error) => {
                security.stats.failed(&error);
                Err(error)
            }
        };
        shaken.map_err(|error| {
            tracing::debug!(cluster = %self.cluster().name, "TLS: {error}");
            format!("TLS_error: {error}")
        })
    }

    /// Whom a request is for, where servers are told: a name or an address, without its port.
    pub(crate) fn server_name(&self, head: &RequestHead) -> Option<Arc<str>> {
        let auto = self.cluster().http.auto_sni.as_ref()?;
        let value = auto.header.as_ref().and_then(|name| head.headers.get(name)).unwrap_or(&head.authority);
        let text = std::str::from_utf8(value).ok()?.to_ascii_lowercase();
        let host = match text.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => text.split(':').next().unwrap_or_default(),
        };
        Some(Arc::from(host))
    }
}
