//! The hash of a request by its route's policies, for balancers that keep alike requests together.

use bytes::Bytes;
use outrigger_config::{HashCookie, HashFrom, RouteForward, cookie};
use outrigger_http::{StreamInfo, StreamState};
use xxhash_rust::xxh64::xxh64;

use super::Exchange;

impl Exchange<'_> {
    /// `None`: no policy found anything, or there is none.
    pub(super) fn hash_request(&mut self, forward: &RouteForward) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for policy in &forward.hash {
            let found = self.hash_of(&policy.from);
            if let Some(found) = found {
                // As Envoy combines them: the earlier ones are rotated, so that order counts.
                hash = Some(hash.map_or(found, |hash| hash.rotate_left(1) ^ found));
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }

    fn hash_of(&mut self, from: &HashFrom) -> Option<u64> {
        let state = self.stream.borrow();
        match from {
            HashFrom::Header { name, rewrite } => {
                let mut values: Vec<Bytes> = state.request.headers.get_all(name).cloned().collect();
                if values.is_empty() {
                    return None;
                }
                if let Some((regex, substitution)) = rewrite {
                    values.iter_mut().for_each(|value| *value = regex.replace_all(value, substitution));
                }
                // Their order on the wire means nothing.
                values.sort();
                Some(values.iter().fold(0, |hash, value| xxh64(value, hash)))
            }
            HashFrom::Cookie(wanted) => {
                if let Some(found) = cookie(&state.request.headers, &wanted.name) {
                    return Some(xxh64(found, 0));
                }
                wanted.ttl?;
                let value = made_value(&state.info);
                let header = set_cookie(wanted, &value);
                drop(state);
                self.cookie = Some(header);
                Some(xxh64(value.as_bytes(), 0))
            }
            HashFrom::SourceIp => {
                let ip = state.info.remote()?.ip().to_string();
                Some(xxh64(ip.as_bytes(), 0))
            }
            HashFrom::Query(name) => query(&state, name).map(|value| xxh64(value, 0)),
            HashFrom::FilterState(key) => state.info.extras().filter_state.get(key).map(|value| xxh64(value, 0)),
        }
    }
}

fn query<'s>(state: &'s StreamState, name: &[u8]) -> Option<&'s [u8]> {
    state.request.query()?.split(|byte| *byte == b'&').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..at] == name).then_some(&pair[at + 1..])
    })
}

/// The same for all requests of a connection.
fn made_value(info: &StreamInfo) -> String {
    let address =
        |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    let text = format!("{}{}", address(info.downstream.remote), address(info.downstream.local));
    format!("{:016x}", xxh64(text.as_bytes(), 0))
}

fn set_cookie(cookie: &HashCookie, value: &str) -> Bytes {
    let mut out = Vec::new();
    out.extend_from_slice(&cookie.name);
    out.extend_from_slice(format!("=\"{value}\"").as_bytes());
    if let Some(ttl) = cookie.ttl.filter(|ttl| !ttl.is_zero()) {
        out.extend_from_slice(format!("; Max-Age={}", ttl.as_secs()).as_bytes());
    }
    if !cookie.path.is_empty() {
        out.extend_from_slice(b"; Path=");
        out.extend_from_slice(&cookie.path);
    }
    out.extend_from_slice(&cookie.attributes);
    out.extend_from_slice(b"; HttpOnly");
    out.into()
}
