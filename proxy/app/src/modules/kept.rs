//! What is remembered of modules: those that were used lately, and those that were fetched in vain.

use std::collections::HashMap;

use outrigger_config::ModuleCode;
use outrigger_wasm::CompiledModule;
use tokio::time::Instant;

use crate::cache::Digest;

/// Modules that are kept though nobody may use them any more, so that a change back costs nothing. Each has its machine code
/// mapped and two descriptors of the file open: the mapping's, and one for a pool that may want it later.
const KEPT_MAX: usize = 32;

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

    /// Why a fetch failed that went on when this was asked for. Whoever asks later is worth another try: nobody else would
    /// make one.
    pub(super) fn since(&self, code: &ModuleCode, asked: Instant) -> Option<String> {
        self.0.get(code).filter(|(at, _)| *at >= asked).map(|(_, reason)| reason.clone())
    }

    pub(super) fn insert(&mut self, code: &ModuleCode, reason: &str, now: Instant) {
        if self.0.len() >= KEPT_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(code, _)| code.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(code.clone(), (now, reason.to_owned()));
    }

    pub(super) fn remove(&mut self, code: &ModuleCode) {
        self.0.remove(code);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use outrigger_config::{Backoff, CodeSource, RemoteCode};
    use outrigger_wasm::{Code, Engine};

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
    fn modules_that_were_used_lately_are_kept_and_no_more() {
        let text = r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) i32.const 8))"#;
        let engine = Engine::new().expect("an engine");
        let code = engine.compile(&wat::parse_str(text).expect("a module")).expect("its code");
        let module = engine.load(Code::Bytes(code)).expect("it loads");
        let digest = |at: usize| [u8::try_from(at).expect("below 256"); 32];
        let mut kept = Kept::default();
        for at in 0..3 * KEPT_MAX {
            kept.insert(digest(at), module.clone());
            assert!(kept.get(&digest(0)).is_some(), "it is asked for again and again");
        }
        assert_eq!(kept.len(), KEPT_MAX);
        let last = 3 * KEPT_MAX - 1;
        assert!(kept.get(&digest(last)).is_some() && kept.get(&digest(KEPT_MAX)).is_none());
    }

    #[test]
    fn what_failed_is_told_to_whoever_asked_before() {
        let (mut failed, start) = (Failed::default(), Instant::now());
        let later = start + Duration::from_millis(1);
        failed.insert(&code("http://a/1"), "no", start);
        assert_eq!(failed.since(&code("http://a/1"), start).as_deref(), Some("no"));
        assert_eq!(failed.since(&code("http://a/1"), later), None);
        assert_eq!(failed.since(&code("http://a/2"), start), None, "the same module elsewhere");
        failed.remove(&code("http://a/1"));
        assert_eq!((failed.since(&code("http://a/1"), start), failed.len()), (None, 0));
        for at in 0..2 * KEPT_MAX {
            failed.insert(&code(&at.to_string()), "no", start + Duration::from_millis(at as u64));
        }
        assert_eq!(failed.len(), KEPT_MAX);
        assert!(failed.since(&code("0"), start).is_none());
        assert!(failed.since(&code(&(2 * KEPT_MAX - 1).to_string()), start).is_some());
    }
}
