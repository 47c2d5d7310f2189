//! What is remembered of modules: those that were used lately, and those that were fetched in vain.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_config::ModuleCode;
use outrigger_wasm::CompiledModule;
use tokio::time::Instant;

use crate::cache::Digest;

/// Modules that are kept though nobody may use them any more, so that a change back costs nothing.
const KEPT_MAX: usize = 32;
/// Who pushes the same again meanwhile gets the same answer, and no other update waits for it. As in Envoy.
const FAILED_TIME: Duration = Duration::from_secs(10);

/// Modules by digest, with when they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Kept {
    modules: HashMap<Digest, (CompiledModule, u64)>,
    clock: u64,
}

impl Kept {
    pub(super) fn len(&self) -> usize {
        self.modules.len()
    }

    pub(super) fn get(&mut self, sha256: &Digest) -> Option<CompiledModule> {
        self.clock += 1;
        let (module, used) = self.modules.get_mut(sha256)?;
        *used = self.clock;
        Some(module.clone())
    }

    pub(super) fn insert(&mut self, sha256: Digest, module: CompiledModule) {
        self.clock += 1;
        self.modules.insert(sha256, (module, self.clock));
        while self.modules.len() > KEPT_MAX {
            let oldest = self.modules.iter().min_by_key(|(_, (_, used))| *used).map(|(sha256, _)| *sha256);
            match oldest {
                Some(oldest) => self.modules.remove(&oldest),
                None => break,
            };
        }
    }
}

/// Why code could not be fetched, by all that is said of it: another place for the same digest is another try.
#[derive(Debug, Default)]
pub(super) struct Failed(HashMap<ModuleCode, (Instant, String)>);

impl Failed {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&mut self, code: &ModuleCode, now: Instant) -> Option<String> {
        self.0.retain(|_, (at, _)| now.duration_since(*at) < FAILED_TIME);
        self.0.get(code).map(|(_, reason)| reason.clone())
    }

    pub(super) fn insert(&mut self, code: &ModuleCode, reason: &str, now: Instant) {
        if self.0.len() >= KEPT_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(code, _)| code.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(code.clone(), (now, reason.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_config::{Backoff, CodeSource, RemoteCode};

    use super::*;

    fn code(uri: &str) -> ModuleCode {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(1) };
        let remote = RemoteCode {
            uri: uri.to_owned(),
            cluster: Arc::from("c"),
            timeout: Duration::from_secs(1),
            retries: 0,
            backoff,
            machine_code: None,
        };
        ModuleCode { source: CodeSource::Remote(remote), sha256: Some([7; 32]) }
    }

    #[test]
    fn what_failed_is_remembered_for_a_while() {
        let (mut failed, start) = (Failed::default(), Instant::now());
        failed.insert(&code("http://a/1"), "no", start);
        let just_before = start + FAILED_TIME - Duration::from_millis(1);
        assert_eq!(failed.get(&code("http://a/1"), just_before).as_deref(), Some("no"));
        assert_eq!(failed.get(&code("http://a/2"), start), None, "the same module elsewhere");
        assert_eq!((failed.get(&code("http://a/1"), start + FAILED_TIME), failed.len()), (None, 0));
        for at in 0..2 * KEPT_MAX {
            failed.insert(&code(&at.to_string()), "no", start + Duration::from_millis(at as u64));
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(failed.len(), KEPT_MAX);
        assert!(failed.get(&code("0"), now).is_none());
        assert!(failed.get(&code(&(2 * KEPT_MAX - 1).to_string()), now).is_some());
    }
}
