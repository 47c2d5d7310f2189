//! Resources that came together, from any source: what is new is decoded, what is wrong is named.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use outrigger_config::{Resource, ResourceKind, Source};
use outrigger_proto::{pb, type_url};
use prost::Message;

use crate::decode::{certificate_files, decode, type_url_of};
use crate::{AcceptedResource, KindStatus, Rejected, Verdict};

/// A NACK's text is no longer than this.
const NACK_BYTES_MAX: usize = 16 << 10;

/// A resource as it came.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    /// What the envelope calls it, where there is one.
    pub(crate) name: Option<String>,
    pub(crate) version: Arc<str>,
    pub(crate) type_url: String,
    pub(crate) bytes: Bytes,
}

/// What is accepted of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) version: Arc<str>,
    pub(crate) bytes: Bytes,
}

/// A batch after decoding.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) upserts: Vec<(Arc<str>, Resource)>,
    /// The same names.
    pub(crate) raws: BTreeMap<Arc<str>, (Held, Arc<[String]>)>,
    /// Byte for byte what is held already.
    pub(crate) unchanged: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) rejected: Vec<(Rejected, Arc<str>)>,
    /// A resource of which not even the name could be read.
    pub(crate) has_unnamed: bool,
    pub(crate) watched: Vec<(Arc<str>, Arc<str>)>,
    /// Files that accepted secrets name.
    pub(crate) files: BTreeMap<Arc<str>, SecretFiles>,
}

/// Files, each with the folder to watch for it.
pub(crate) type SecretFiles = Vec<(Arc<str>, Arc<Path>)>;

/// Unwraps an `Any` that may hold a `Resource` with name and version (state of the world with the wrapper).
pub(crate) fn raw(any: pb::google::protobuf::Any, version: &Arc<str>) -> Option<Raw> {
    if type_url::message_name(&any.type_url) != type_url::message_name(type_url::RESOURCE) {
        let bytes = Bytes::from(any.value);
        return Some(Raw { name: None, version: Arc::clone(version), type_url: any.type_url, bytes });
    }
    match pb::envoy::service::discovery::v3::Resource::decode(&any.value[..]) {
        Ok(wrapper) => wrapped(wrapper, version),
        Err(_) => Some(Raw {
            name: None,
            version: Arc::clone(version),
            type_url: any.type_url,
            bytes: Bytes::from(any.value),
        }),
    }
}

/// `None` for a heartbeat, which has no message.
pub(crate) fn wrapped(wrapper: pb::envoy::service::discovery::v3::Resource, version: &Arc<str>) -> Option<Raw> {
    let any = wrapper.resource?;
    let name = if wrapper.name.is_empty() { wrapper.resource_name.map(|name| name.name) } else { Some(wrapper.name) };
    let version = if wrapper.version.is_empty() { Arc::clone(version) } else { Arc::from(wrapper.version) };
    Some(Raw { name, version, type_url: any.type_url, bytes: Bytes::from(any.value) })
}

/// The name that a message of any kind of resource has in its field 1.
fn peek_name(bytes: &[u8]) -> Option<String> {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(bytes).ok().map(|named| named.name)
}

/// Decodes what is wanted and new.
pub(crate) fn prepare<'a>(
    kind: ResourceKind,
    source: &Source,
    raws: Vec<Raw>,
    held: impl Fn(&str) -> Option<&'a Held>,
    wanted: impl Fn(&str) -> bool,
) -> Batch {
    let mut batch = Batch::default();
    let mut named: BTreeMap<String, Vec<Raw>> = BTreeMap::new();
    for raw in raws {
        let inner = peek_name(&raw.bytes);
        match raw.name.clone().or(inner.filter(|name| !name.is_empty())) {
            Some(name) => named.entry(name).or_default().push(raw),
            None => {
                batch.has_unnamed = true;
                let reason = match decode(kind, &raw.bytes, source, &raw.version) {
                    Err(invalid) => invalid.reason(),
                    Ok(_) => "has no name".to_owned(),
                };
                batch.rejected.push((Rejected { name: Arc::from("(unnamed)"), reason }, raw.version));
            }
        }
    }
    for (name, raws) in named {
        if !wanted(&name) {
            continue;
        }
        let Ok([raw]) = <[Raw; 1]>::try_from(raws) else {
            batch.reject(&name, "stands in the response more than once", "");
            continue;
        };
        batch.take(kind, source, &name, raw, held(&name));
    }
    batch
}

impl Batch {
    fn reject(&mut self, name: &str, reason: &str, version: &str) {
        self.rejected.push((Rejected { name: Arc::from(name), reason: reason.to_owned() }, Arc::from(version)));
    }

    fn take(&mut self, kind: ResourceKind, source: &Source, name: &str, raw: Raw, held: Option<&Held>) {
        let (url, expected) = (type_url::message_name(&raw.type_url), type_url_of(kind));
        if url != type_url::message_name(expected) {
            let reason = format!("is a {url} where a {} was asked for", type_url::message_name(expected));
            return self.reject(name, &reason, &raw.version);
        }
        if held.is_some_and(|held| held.bytes == raw.bytes) {
            return self.unchanged.push((Arc::from(name), raw.version));
        }
        match decode(kind, &raw.bytes, source, &raw.version) {
            Ok(accepted) if *accepted.name != *name => {
                self.reject(name, &format!("calls itself {:?}", accepted.name), &raw.version);
            }
            Ok(accepted) => {
                if kind == ResourceKind::Secret {
                    self.files.insert(Arc::clone(&accepted.name), certificate_files(&raw.bytes));
                }
                let held = Held { version: raw.version, bytes: raw.bytes };
                self.raws.insert(Arc::clone(&accepted.name), (held, accepted.warnings.into()));
                self.upserts.push((accepted.name, accepted.resource));
                self.watched.extend(accepted.watched);
            }
            Err(invalid) => self.reject(name, &invalid.reason(), &raw.version),
        }
    }

    /// Nothing but rejections, with their versions.
    pub(crate) fn rejections(rejected: impl Iterator<Item = (Rejected, Arc<str>)>) -> Batch {
        Batch { rejected: rejected.collect(), ..Batch::default() }
    }

    /// Notes the sink's verdict: what it rejected is rejected here too.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        for rejected in verdict.rejected {
            let version = self.raws.remove(&rejected.name).map(|(held, _)| held.version).unwrap_or_default();
            self.rejected.push((rejected, version));
        }
    }

    /// Writes what became of the batch.
    pub(crate) fn record(&self, source: &Source, status: &mut KindStatus) {
        let since = SystemTime::now();
        for (name, (held, warnings)) in &self.raws {
            let (version, bytes) = (Arc::clone(&held.version), held.bytes.clone());
            let warnings = Arc::clone(warnings);
            if let Some(files) = self.files.get(name) {
                status.note_files(source, name, held, files.clone());
            }
            let source = source.clone();
            status.accept(name, AcceptedResource { source, version, bytes, since, warnings });
        }
        for (name, version) in &self.unchanged {
            status.rejected.remove(name);
            if let Some(resource) = status.accepted.get_mut(name) {
                resource.version = Arc::clone(version);
            }
        }
        for (rejected, version) in &self.rejected {
            status.reject(source, version, rejected);
        }
        status.last_update = Some(since);
        if self.rejected.is_empty() {
            status.update_success += 1;
        } else {
            status.update_rejected += 1;
        }
    }

    pub(crate) fn log(&self, kind: ResourceKind) {
        for (rejected, _) in &self.rejected {
            tracing::warn!(kind = kind.type_name(), name = %rejected.name, reason = %rejected.reason, "rejected");
        }
        for (name, (_, warnings)) in &self.raws {
            for warning in warnings.iter() {
                tracing::warn!(kind = kind.type_name(), %name, "{warning}");
            }
        }
    }

    /// `TYPE NAME: field.path: what is wrong`, a line each; every rejected name is in it where names fit at all.
    pub(crate) fn nack_text(&self, kind: ResourceKind) -> String {
        let names: usize =
            self.rejected.iter().map(|(rejected, _)| kind.type_name().len() + rejected.name.len() + 4).sum();
        // What the names leave is shared by the reasons.
        let share = NACK_BYTES_MAX.saturating_sub(names) / self.rejected.len().max(1);
        let mut text = String::new();
        for (index, (rejected, _)) in self.rejected.iter().enumerate() {
            let start = text.len();
            for line in rejected.reason.lines() {
                let left = share.saturating_sub(text.len() - start);
                if left < 16 && text.len() > start {
                    break;
                }
                text.push_str(&format!("{kind} {}: {}\n", rejected.name, cut(line, left)));
            }
            if text.len() > NACK_BYTES_MAX {
                text.truncate(start);
                text.push_str(&format!("and {} more", self.rejected.len() - index));
                break;
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// At most `max` bytes, whole characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
