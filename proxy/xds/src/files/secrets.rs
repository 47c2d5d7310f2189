//! Certificates, keys and bundles in files that secrets name: read again when something moves in their folders.
//!
//! What can't be used (a key that is written before its certificate, say) leaves what was read before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_config::{Needed, ResourceKind, Source, Update};
use sha2::{Digest, Sha256};
use tokio::sync::watch as channel;

use super::read;
use super::watch::Folders;
use crate::decode::decode;
use crate::status::FiledSecret;
use crate::{ConfigSink, Rejected, Status};

/// What was read last for a secret: a digest of its message and files.
type Seen = BTreeMap<(Source, Arc<str>), [u8; 32]>;

/// Watches the files of all accepted secrets, until the sender of `needed` is gone.
pub async fn run_secret_files(sink: &impl ConfigSink, mut needed: channel::Receiver<Needed>, status: &Status) {
    let mut folders = Folders::new();
    let mut seen = Seen::new();
    loop {
        let (secrets, others) = status.secret_files();
        folders
            .watch(secrets.iter().flat_map(|secret| secret.files.iter().map(|(_, folder)| folder.clone())).collect());
        let known: BTreeSet<_> = secrets.iter().map(|secret| (secret.source.clone(), secret.name.clone())).collect();
        seen.retain(|key, _| known.contains(key));
        for secret in &secrets {
            check(secret, &mut seen, sink, status).await;
        }
        tokio::select! {
            changed = needed.changed() => if changed.is_err() { return },
            () = others.notified() => {}
            () = folders.changed(), if !secrets.is_empty() => {}
        }
    }
}

async fn check(secret: &FiledSecret, seen: &mut Seen, sink: &impl ConfigSink, status: &Status) {
    let mut digest = Sha256::new();
    digest.update(&secret.held.bytes);
    for (path, _) in &secret.files {
        match read(path) {
            Ok(bytes) => digest.update(Sha256::digest(bytes)),
            Err(reason) => digest.update(reason),
        }
    }
    let digest: [u8; 32] = digest.finalize().into();
    let key = (secret.source.clone(), Arc::clone(&secret.name));
    if seen.insert(key, digest) == Some(digest) {
        return;
    }
    let FiledSecret { source, name, held, .. } = secret;
    let reason = match decode(ResourceKind::Secret, &held.bytes, source, &held.version) {
        Err(invalid) => invalid.reason(),
        Ok(accepted) => {
            let update = Update {
                source: source.clone(),
                kind: ResourceKind::Secret,
                upserts: vec![(Arc::clone(name), accepted.resource)],
                removed: Vec::new(),
                missing: Vec::new(),
                refused: Vec::new(),
            };
            match sink.submit(update).await.rejected.pop() {
                Some(rejected) => rejected.reason,
                None => return status.update(ResourceKind::Secret, |status| drop(status.rejected.remove(name))),
            }
        }
    };
    tracing::warn!(%name, reason, "the files of this secret can't be used; what was read before stays");
    let rejected = Rejected { name: Arc::clone(name), reason };
    status.update(ResourceKind::Secret, |status| {
        status.update_failure += 1;
        status.reject(source, &held.version, &rejected);
    });
}
