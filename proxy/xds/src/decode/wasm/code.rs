//! Where a module's bytes come from.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{Backoff, CodeSource, ModuleCode, RemoteCode};
use outrigger_proto::pb::envoy::config::core::v3 as core;
use sha2::{Digest, Sha256};

use super::super::common::{duration, name};
use crate::Diagnostics;

/// What a fetch of code may take where `http_uri.timeout` is too long or unset.
const FETCH_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A fetch is tried again this often at most.
const FETCH_RETRIES_MAX: u32 = 10;
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

pub(super) fn code(proto: Option<&core::AsyncDataSource>, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::async_data_source::Specifier;
    match proto.and_then(|proto| proto.specifier.as_ref()) {
        Some(Specifier::Local(local)) => d.at("local", |d| local_code(local, d)),
        Some(Specifier::Remote(remote)) => d.at("remote", |d| remote_code(remote, d)),
        None => {
            d.error("is required: local or remote");
            None
        }
    }
}

fn local_code(proto: &core::DataSource, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::data_source::Specifier;
    let inline = |bytes: Bytes| {
        let sha256 = Some(Sha256::digest(&bytes).into());
        Some(ModuleCode { source: CodeSource::Inline(bytes), sha256 })
    };
    match &proto.specifier {
        Some(Specifier::Filename(path)) if path.is_empty() => {
            d.at("filename", |d| d.error("is required"));
            None
        }
        Some(Specifier::Filename(path)) => {
            Some(ModuleCode { source: CodeSource::File(PathBuf::from(path)), sha256: None })
        }
        Some(Specifier::InlineBytes(bytes)) => inline(Bytes::copy_from_slice(bytes)),
        Some(Specifier::InlineString(text)) => inline(Bytes::copy_from_slice(text.as_bytes())),
        Some(Specifier::EnvironmentVariable(_)) => {
            d.at("environment_variable", |d| d.error("holds no module: filename or inline_bytes"));
            None
        }
        None => {
            d.error("names no source");
            None
        }
    }
}

fn remote_code(proto: &core::RemoteDataSource, d: &mut Diagnostics) -> Option<ModuleCode> {
    use core::http_uri::HttpUpstreamType;
    let Some(uri) = &proto.http_uri else {
        d.at("http_uri", |d| d.error("is required"));
        return None;
    };
    let sha256 = hex(&proto.sha256);
    if sha256.is_none() {
        d.at("sha256", |d| d.error("is not a SHA-256 digest of 64 hexadecimal digits"));
    }
    let (cluster, timeout) = d.at("http_uri", |d| {
        if !is_fetchable(&uri.uri) {
            d.at("uri", |d| d.error("is no http:// or https:// address"));
        }
        let cluster = uri.http_upstream_type.as_ref().map(|HttpUpstreamType::Cluster(cluster)| cluster.as_str());
        let cluster = cluster.unwrap_or_default();
        let timeout = duration(uri.timeout.as_ref(), "timeout", d);
        if timeout.is_none_or(|timeout| timeout.is_zero() || timeout > FETCH_TIMEOUT_MAX) {
            d.at("timeout", |d| d.error("is required, above 0 s and up to 600 s"));
        }
        (name(cluster, "cluster", d), timeout.unwrap_or_default())
    });
    let (retries, backoff) = d.at("retry_policy", |d| retry(proto.retry_policy.as_ref(), d));
    let remote = RemoteCode { uri: uri.uri.clone(), cluster, timeout, retries, backoff, machine_code: None };
    Some(ModuleCode { source: CodeSource::Remote(remote), sha256: Some(sha256?) })
}

/// Where code may lie. Whether the way there is secured is the cluster's to say, as in Envoy.
pub(super) fn is_fetchable(uri: &str) -> bool {
    (uri.starts_with("http://") || uri.starts_with("https://")) && uri.len() <= 8192
}

/// How often a fetch is tried again, and the waits before, with Envoy's defaults.
fn retry(proto: Option<&core::RetryPolicy>, d: &mut Diagnostics) -> (u32, Backoff) {
    let retries = proto.and_then(|policy| policy.num_retries).map_or(1, |retries| retries.value);
    let backoff = proto.and_then(|policy| policy.retry_back_off.as_ref());
    let backoff = d.at("retry_back_off", |d| match backoff {
        None => Backoff { base: Duration::from_secs(1), max: Duration::from_secs(10) },
        Some(proto) => {
            let base = duration(proto.base_interval.as_ref(), "base_interval", d).unwrap_or_default();
            if base < Duration::from_millis(1) || base > BACKOFF_MAX {
                d.at("base_interval", |d| d.error("is required, from 1 ms to 600 s"));
            }
            let max = duration(proto.max_interval.as_ref(), "max_interval", d);
            if max.is_some_and(|max| max < base) {
                d.at("max_interval", |d| d.error("is less than base_interval"));
            }
            Backoff { base, max: max.unwrap_or(base.saturating_mul(10)).min(BACKOFF_MAX) }
        }
    });
    (retries.min(FETCH_RETRIES_MAX), backoff)
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
