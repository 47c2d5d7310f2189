//! Copies of requests for other clusters (`request_mirror_policies`): sent when the request is complete, and forgotten.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger_config::{Mirror, MirrorCluster, RouteForward};
use outrigger_http::{BodyBuffer, HeaderName, Headers, RequestHead};
use tokio::time::Instant;

use super::Exchange;
use crate::cluster::{Checkout, ClusterHandle, PickKey, Picked};
use crate::error::StreamError;
use crate::texts::decimal;

/// Of a body, for its copies.
const BODY_BYTES_MAX: usize = 1 << 20;
/// A copy whose route has no timeout ends after this long all the same.
const TIME_MAX: Duration = Duration::from_secs(300);

/// The copies of one request in the making.
#[derive(Debug)]
pub(super) struct Mirrors {
    head: RequestHead,
    clusters: Vec<(Rc<ClusterHandle>, bool)>,
    body: BodyBuffer,
    timeout: Option<Duration>,
}

impl Mirrors {
    /// Keeps a part of the body; false: it is too much.
    pub(super) fn keep(&mut self, bytes: &Bytes) -> bool {
        self.body.push(bytes.clone());
        self.body.len() <= BODY_BYTES_MAX
    }

    /// The body comes again from its beginning.
    pub(super) fn clear(&mut self) {
        self.body = BodyBuffer::new();
    }

    /// The request is complete: its copies go out, on tasks of their own.
    pub(super) fn send(mut self, trailers: Option<&Headers>) {
        let mut body = BytesMut::with_capacity(self.body.len());
        while let Some(bytes) = self.body.pop() {
            body.extend_from_slice(&bytes);
        }
        let body = body.freeze();
        if !body.is_empty() && !self.head.headers.contains(&HeaderName::CONTENT_LENGTH) && trailers.is_none() {
            self.head.headers.append(HeaderName::CONTENT_LENGTH, decimal(body.len() as u64));
        }
        for (cluster, suffix) in self.clusters {
            let mut head = self.head.clone();
            if suffix {
                head.authority = shadow_host(&head.authority);
            }
            let (body, trailers) = (body.clone(), trailers.cloned());
            let deadline = Instant::now() + self.timeout.unwrap_or(TIME_MAX);
            tokio::task::spawn_local(async move {
                // The circuit breakers of the cluster bound how many there are; what comes back is read and dropped.
                _ = tokio::time::timeout_at(deadline, Box::pin(copy(&cluster, &head, body, trailers))).await;
            });
        }
    }
}

/// `host` becomes `host-shadow`, its port stays behind it.
fn shadow_host(authority: &Bytes) -> Bytes {
    let port = authority.iter().rposition(|byte| *byte == b':').filter(|at| !authority[*at..].contains(&b']'));
    let (host, port) = authority.split_at(port.unwrap_or(authority.len()));
    Bytes::from([host, b"-shadow", port].concat())
}

async fn copy(
    cluster: &Rc<ClusterHandle>,
    head: &RequestHead,
    body: Bytes,
    trailers: Option<Headers>,
) -> Result<(), StreamError> {
    let server_name = cluster.server_name(head);
    let key = PickKey { server_name: server_name.as_ref(), ..PickKey::default() };
    let mut picked = match cluster.checkout(&key, head.version) {
        Checkout::Ready(picked) => picked,
        Checkout::Connecting(connecting) => connecting.await?,
        Checkout::Failed(error) => return Err(error),
    };
    let end = trailers.is_none();
    picked.stream.send_head(head, body.is_empty() && end, None)?;
    if !body.is_empty() {
        picked.stream.send_data(body, end)?;
    }
    if let Some(trailers) = trailers {
        picked.stream.send_trailers(&trailers)?;
    }
    let status = answer(&mut picked).await?;
    picked.count_status(status);
    picked.record(status, outrigger_http::ResponseFlags::NONE);
    picked.finish(Instant::now());
    Ok(())
}

/// Reads the answer to its end; its status.
async fn answer(picked: &mut Picked) -> Result<u16, StreamError> {
    let stream = &mut picked.stream;
    let head = loop {
        let head = poll_fn(|cx| match stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => stream.poll_head(cx),
        });
        let head = head.await?;
        if head.head.status >= 200 {
            break head;
        }
    };
    let mut complete = head.end;
    while !complete {
        let event = poll_fn(|cx| match stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => stream.poll_body(cx),
        });
        complete = match event.await? {
            Some(crate::http1::BodyEvent::Data { end, .. }) => end,
            Some(crate::http1::BodyEvent::Trailers(_)) | None => true,
        };
    }
    Ok(head.head.status)
}

impl Exchange<'_> {
    /// Begins the copies of a request that is about to be forwarded.
    pub(super) fn begin_mirrors(&mut self, forward: &RouteForward) {
        if forward.mirrors.is_empty() || self.upgrade.is_some() {
            return;
        }
        let state = self.stream.borrow();
        let clusters: Vec<(Rc<ClusterHandle>, bool)> =
            forward.mirrors.iter().filter_map(|mirror| self.mirror_cluster(mirror, &state.request.headers)).collect();
        if clusters.is_empty() {
            return;
        }
        let mirrors = Mirrors {
            head: state.request.clone(),
            clusters,
            body: BodyBuffer::new(),
            timeout: forward.timeout.filter(|timeout| !timeout.is_zero()),
        };
        let complete = self.request.passed.head == Some(true);
        if complete {
            mirrors.send(None);
        } else {
            drop(state);
            self.mirrors = Some(Box::new(mirrors));
        }
    }

    fn mirror_cluster(&self, mirror: &Mirror, headers: &Headers) -> Option<(Rc<ClusterHandle>, bool)> {
        use rand::RngCore;
        if !mirror.fraction.holds(self.cx.random().next_u64()) {
            return None;
        }
        let name = match &mirror.cluster {
            MirrorCluster::Named(name) => name.clone(),
            MirrorCluster::Header(name) => std::str::from_utf8(headers.get(name)?).ok()?.into(),
        };
        Some((self.chain.live.cluster(self.cx, &name)?, mirror.host_suffix))
    }

    /// Keeps a part of the body for the copies.
    pub(super) fn keep_for_mirrors(&mut self, bytes: &Bytes) {
        if let Some(mirrors) = &mut self.mirrors
            && !mirrors.keep(bytes)
        {
            self.mirrors = None;
            if let Some(cluster) = &self.cluster {
                cluster.stats.retry_or_shadow_abandoned().inc();
            }
        }
    }

    /// The request is complete.
    pub(super) fn send_mirrors(&mut self, with_trailers: bool) {
        let Some(mirrors) = self.mirrors.take() else { return };
        let state = self.stream.borrow();
        mirrors.send(state.request_trailers.as_ref().filter(|_| with_trailers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_a_host_of_their_own() {
        let check = |from: &'static str, expected: &str| {
            assert_eq!(shadow_host(&Bytes::from_static(from.as_bytes())), expected.as_bytes());
        };
        check("a.test", "a.test-shadow");
        check("a.test:80", "a.test-shadow:80");
        check("[::1]", "[::1]-shadow");
        check("[::1]:80", "[::1]-shadow:80");
    }
}
