//! Where decoded resources go.

use std::future::Future;
use std::sync::Arc;

use outrigger_config::{ResourceKind, Source, Update};

/// Prepares, publishes, and judges. Implemented by the application.
pub trait ConfigSink {
    /// Takes an update; done when what is good of it serves (or warms), and the rest is rejected. Several may be under
    /// way, one of each kind and source.
    fn submit(&self, update: Update) -> impl Future<Output = Verdict>;

    /// The next resource of a source that was taken and is given up while it serves: the server is told as of a rejection.
    /// May be dropped and called anew at any time.
    fn given_up(&self, _source: &Source) -> impl Future<Output = (ResourceKind, Rejected)> {
        std::future::pending()
    }
}

/// What became of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rejected: Vec<Rejected>,
}

/// A resource that was not taken; its previous version serves on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub name: Arc<str>,
    /// Such as `filters[2].wasm.code: unknown import env.foo`: a field's path where there is one, and what is wrong.
    pub reason: String,
}
