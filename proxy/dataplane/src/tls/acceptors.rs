//! The acceptors of a generation: one for each context of its filter chains.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_config::{DownstreamTls, ResolvedTls, Snapshot, Unresolved};

use super::{Acceptor, ContextError};

/// Made where a generation is prepared, and shared by the workers. Those of contexts that are the same as before, secrets
/// and all, are the same objects: their sessions are found again.
#[derive(Debug, Default)]
pub(crate) struct Acceptors {
    /// By the address of the context, which the entry holds.
    by_context: HashMap<usize, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    tls: Arc<DownstreamTls>,
    resolved: Result<ResolvedTls, Unresolved>,
    acceptor: Result<Arc<Acceptor>, ContextError>,
}

fn address(tls: &Arc<DownstreamTls>) -> usize {
    Arc::as_ptr(tls).addr()
}

impl Acceptors {
    pub(crate) fn build(snapshot: &Snapshot, previous: Option<&Acceptors>) -> Acceptors {
        let mut by_context = HashMap::new();
        let chains = snapshot.listeners.values().flat_map(|listener| &listener.chains);
        for tls in chains.filter_map(|chain| chain.transport.tls()) {
            let resolved = tls.context.resolve(|key| snapshot.secret(key));
            let known = previous.and_then(|previous| previous.find(tls, &resolved));
            let entry = known.unwrap_or_else(|| Entry::new(tls, resolved));
            by_context.insert(address(tls), Entry { tls: tls.clone(), ..entry });
        }
        Acceptors { by_context }
    }

    /// What a context's clients are served with.
    pub(crate) fn get(&self, tls: &Arc<DownstreamTls>) -> Option<&Result<Arc<Acceptor>, ContextError>> {
        self.by_context.get(&address(tls)).map(|entry| &entry.acceptor)
    }

    fn find(&self, tls: &Arc<DownstreamTls>, resolved: &Result<ResolvedTls, Unresolved>) -> Option<Entry> {
        let same = |entry: &&Entry| (Arc::ptr_eq(&entry.tls, tls) || entry.tls == *tls) && entry.resolved == *resolved;
        let known = self.by_context.get(&address(tls)).filter(same);
        known.or_else(|| self.by_context.values().find(same)).cloned()
    }
}

impl Entry {
    fn new(tls: &Arc<DownstreamTls>, resolved: Result<ResolvedTls, Unresolved>) -> Entry {
        let acceptor = match &resolved {
            Ok(resolved) => Acceptor::new(tls, resolved).map(Arc::new),
            Err(error) => Err(ContextError::from(error.clone())),
        };
        if let Err(error) = &acceptor {
            tracing::warn!("TLS connections are refused: {error}");
        }
        Entry { tls: tls.clone(), resolved, acceptor }
    }
}
