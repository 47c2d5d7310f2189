//! Which plugins and revisions statistics have labels for: those that are configured, and a few that are gone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::metrics::forget_plugin;
use crate::plugin::Plugin;
use crate::services::Services;

/// Revisions that are shown though they are gone: whoever looks into why one was taken back still finds its traps.
const GONE_KEPT: usize = 8;

type Key = (Arc<str>, String);

/// Held by everybody who may run a plugin; once nobody does, its statistics go, a few revisions later.
#[derive(Debug)]
pub struct PluginLabels {
    key: Key,
    services: Arc<Services>,
}

/// The labels of a process.
#[derive(Debug, Default)]
pub(crate) struct LabelSet {
    live: HashMap<Key, Weak<PluginLabels>>,
    gone: VecDeque<Key>,
}

impl PluginLabels {
    /// One for all plugins of a name and revision.
    #[must_use]
    pub fn new(services: &Arc<Services>, plugin: &Plugin) -> Arc<PluginLabels> {
        let key = (plugin.name.clone(), plugin.vm.revision());
        let mut set = lock(&services.labels);
        if let Some(known) = set.live.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        set.gone.retain(|gone| *gone != key);
        let labels = Arc::new(PluginLabels { key: key.clone(), services: services.clone() });
        set.live.insert(key, Arc::downgrade(&labels));
        labels
    }
}

impl Drop for PluginLabels {
    fn drop(&mut self) {
        let mut set = lock(&self.services.labels);
        // Another may have been made since the count fell.
        if set.live.get(&self.key).is_none_or(|known| known.strong_count() > 0) {
            return;
        }
        set.live.remove(&self.key);
        set.gone.push_back(self.key.clone());
        while set.gone.len() > GONE_KEPT {
            let Some((name, revision)) = set.gone.pop_front() else { break };
            forget_plugin(&self.services.registry, &name, &revision);
        }
    }
}

fn lock(set: &Mutex<LabelSet>) -> std::sync::MutexGuard<'_, LabelSet> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
