//! Fetching a module's bytes over HTTP, by digest.
//!
//! A GET to the endpoints of a cluster, with its transport socket and in its protocol. Time, size and the number of tries are
//! bounded, redirects are not followed, and bytes with another digest than was asked for never leave this file.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use outrigger_config::Backoff;
use outrigger_http::{EndpointAddress, hex};
use rand::Rng;

use crate::cache::{Digest, digest};
use crate::channel::Dial;
use crate::http_client::{Client, alpn};

/// The largest module that is fetched or read.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
const ATTEMPTS_MAX: u32 = 16;
/// No other attempt begins later than this after the first: an update waits for it, and others wait for the update.
const RETRIED_MAX: Duration = Duration::from_secs(60);
/// For a request that names no timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What is fetched, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) uri: String,
    /// Tried in turn from a random one on.
    pub(crate) dials: Vec<Dial>,
    /// For one attempt, answer included.
    pub(crate) timeout: Duration,
    /// Attempts after the first one.
    pub(crate) retries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) sha256: Digest,
}

/// Why an attempt, and with it perhaps the fetch, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0} is no http or https URI with a host")]
    Uri(String),
    #[error("the cluster has no endpoint")]
    NoEndpoint,
    #[error("{0} can't be connected to: {1}")]
    Connect(EndpointAddress, String),
    #[error("{0} took longer than {1} ms")]
    Timeout(EndpointAddress, u128),
    #[error("{0} answered with status {1}{more}", more = if .1.is_redirection() { ": redirects are not followed" } else { "" })]
    Status(EndpointAddress, StatusCode),
    #[error("{0} sent more than {1} bytes")]
    TooLarge(EndpointAddress, usize),
    #[error("{0} broke off: {1}")]
    Broken(EndpointAddress, String),
    /// Whoever takes the bytes doesn't want them.
    #[error("{0} sent something else: {1}")]
    Refused(EndpointAddress, String),
    #[error("{from} sent bytes with the digest {actual} instead of {expected}")]
    Digest { from: EndpointAddress, actual: String, expected: String },
}

impl FetchError {
    /// Whether another attempt may do better.
    fn is_transient(&self) -> bool {
        match self {
            FetchError::Connect(..) | FetchError::Timeout(..) | FetchError::Broken(..) => true,
            FetchError::Status(_, status) => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            FetchError::Uri(_)
            | FetchError::NoEndpoint
            | FetchError::TooLarge(..)
            | FetchError::Refused(..)
            | FetchError::Digest { .. } => false,
        }
    }
}

/// The module, or why the last attempt failed.
pub(crate) async fn fetch(wanted: &Wanted) -> Result<Bytes, FetchError> {
    let target = Target::parse(&wanted.uri)?;
    if wanted.dials.is_empty() {
        return Err(FetchError::NoEndpoint);
    }
    let first = rand::rng().random_range(0..wanted.dials.len());
    let timeout = if wanted.timeout.is_zero() { TIMEOUT_MAX } else { wanted.timeout.min(TIMEOUT_MAX) };
    let retries = wanted.retries.min(ATTEMPTS_MAX - 1);
    let begun = Instant::now();
    let mut attempt = 0u32;
    loop {
        let dial = &wanted.dials[(first + attempt as usize) % wanted.dials.len()];
        let mut bytes = BytesMut::new();
        let take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let outcome = within(dial, timeout, once(dial, &target, MODULE_BYTES_MAX, take)).await;
        let outcome = outcome.and_then(|()| check(&dial.address, bytes.freeze(), &wanted.sha256));
        match outcome {
            Err(error) if error.is_transient() && attempt < retries => {
                let pause = back_off(attempt, wanted.backoff);
                if begun.elapsed() + pause > RETRIED_MAX {
                    return Err(error);
                }
                tracing::debug!("fetching {}: {error}; trying again", wanted.uri);
                tokio::time::sleep(pause).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Hands a body of at most `bytes_max` bytes to `take`, piece by piece, which may refuse it; one attempt at one endpoint.
pub(crate) async fn fetch_into(
    uri: &str,
    dial: &Dial,
    timeout: Duration,
    bytes_max: usize,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let target = Target::parse(uri)?;
    within(dial, timeout, once(dial, &target, bytes_max, take)).await
}

async fn within(
    dial: &Dial,
    timeout: Duration,
    attempt: impl Future<Output = Result<(), FetchError>>,
) -> Result<(), FetchError> {
    let late = || FetchError::Timeout(dial.address.clone(), timeout.as_millis());
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err(late()))
}

fn check(from: &EndpointAddress, bytes: Bytes, expected: &Digest) -> Result<Bytes, FetchError> {
    let actual = digest(&bytes);
    if actual == *expected {
        Ok(bytes)
    } else {
        Err(FetchError::Digest { from: from.clone(), actual: hex(&actual), expected: hex(expected) })
    }
}

/// Half of it at least: a wait that is drawn short must still be one.
fn back_off(attempt: u32, Backoff { base, max }: Backoff) -> Duration {
    base.saturating_mul(1 << attempt.min(20)).min(max.max(base)).mul_f64(rand::rng().random_range(0.5..1.0))
}

/// What goes into the request.
#[derive(Debug)]
struct Target {
    path: String,
    authority: String,
    /// Without a port.
    host: String,
}

impl Target {
    /// How an endpoint is spoken to is its cluster's to say: the scheme is only whom it names, as in Envoy.
    fn parse(uri: &str) -> Result<Target, FetchError> {
        let wrong = || FetchError::Uri(uri.to_owned());
        let parsed: Uri = uri.parse().map_err(|_| wrong())?;
        let authority = parsed.authority().ok_or_else(wrong)?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        let host = authority.host().trim_matches(['[', ']']);
        Ok(Target { path: path.to_owned(), authority: authority.as_str().to_owned(), host: host.to_owned() })
    }

    fn request(&self, client: &Client<Empty<Bytes>>) -> http::Result<Request<Empty<Bytes>>> {
        client
            .request(Method::GET, &self.authority, &self.path)
            .header(header::USER_AGENT, concat!("outrigger-proxy/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/wasm, */*;q=0.1")
            .body(Empty::new())
    }
}

async fn once(
    dial: &Dial,
    target: &Target,
    bytes_max: usize,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let opened = Client::open(dial, alpn(dial.protocol), &target.host).await;
    let (mut client, connection) = opened.map_err(|reason| FetchError::Connect(dial.address.clone(), reason))?;
    let request = target.request(&client).map_err(|_| FetchError::Uri(target.path.clone()))?;
    let exchange = async {
        let from = &dial.address;
        let response =
            client.send(request).await.map_err(|error| FetchError::Broken(from.clone(), error.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(from.clone(), response.status()));
        }
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > bytes_max as u64) {
            return Err(FetchError::TooLarge(from.clone(), bytes_max));
        }
        pass_on(from, response.into_body(), bytes_max, take).await
    };
    let connection = async {
        connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        never = connection => never,
    }
}

async fn pass_on(
    from: &EndpointAddress,
    mut body: Incoming,
    bytes_max: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let mut passed = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Broken(from.clone(), error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            passed += data.len();
            if passed > bytes_max {
                return Err(FetchError::TooLarge(from.clone(), bytes_max));
            }
            take(&data).map_err(|reason| FetchError::Refused(from.clone(), reason))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each connection with the next of these, and then with nothing.
    async fn server(answers: Vec<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                assert!(head.starts_with("get /modules/x?y http/1.1\r\nhost: modules.test:81\r\n"), "{head}");
                _ = stream.write_all(&answer).await;
                if answer.is_empty() {
                    // A slow one: the connection stays open.
                    std::future::pending::<()>().await;
                }
            }
        });
        address
    }

    fn wanted(endpoints: Vec<SocketAddr>, retries: u32) -> Wanted {
        Wanted {
            uri: "http://modules.test:81/modules/x?y".to_owned(),
            dials: endpoints.into_iter().map(Dial::raw).collect(),
            timeout: Duration::from_secs(20),
            retries,
            backoff: Backoff { base: Duration::from_millis(1), max: Duration::from_millis(10) },
            sha256: digest(b"module"),
        }
    }

    fn ok(body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn the_right_bytes_come() {
        let whole = server(vec![ok(b"module")]).await;
        assert_eq!(fetch(&wanted(vec![whole], 0)).await.unwrap(), "module");
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nmod\r\n3\r\nule\r\n0\r\n\r\n";
        let chunked = server(vec![chunked.to_vec()]).await;
        assert_eq!(fetch(&wanted(vec![chunked], 0)).await.unwrap(), "module");
        let until_close = server(vec![b"HTTP/1.0 200 OK\r\n\r\nmodule".to_vec()]).await;
        assert_eq!(fetch(&wanted(vec![until_close], 0)).await.unwrap(), "module");
    }

    #[tokio::test]
    async fn transient_faults_are_tried_again() {
        let busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec();
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nmod".to_vec();
        let address = server(vec![busy.clone(), cut.clone(), ok(b"module")]).await;
        assert_eq!(fetch(&wanted(vec![address], 2)).await.unwrap(), "module");
        let address = server(vec![busy, cut, ok(b"module")]).await;
        assert!(matches!(fetch(&wanted(vec![address], 1)).await, Err(FetchError::Broken(..))));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_is_passed_over() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let address = server(vec![ok(b"module")]).await;
        assert_eq!(fetch(&wanted(vec![dead, address], 1)).await.unwrap(), "module");
        assert!(matches!(fetch(&wanted(vec![dead], 0)).await, Err(FetchError::Connect(..))));
    }

    #[tokio::test]
    async fn final_faults_are_not() {
        let address = server(vec![ok(b"another"), ok(b"module")]).await;
        let error = fetch(&wanted(vec![address], 5)).await.unwrap_err();
        assert!(matches!(&error, FetchError::Digest { .. }), "{error}");
        assert!(error.to_string().contains(&hex(&digest(b"another"))), "{error}");

        let address = server(vec![b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec(), ok(b"module")]).await;
        let error = fetch(&wanted(vec![address], 5)).await.unwrap_err();
        assert!(matches!(error, FetchError::Status(_, StatusCode::NOT_FOUND)));

        let address = server(vec![b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n".to_vec(), ok(b"module")]).await;
        let error = fetch(&wanted(vec![address], 5)).await.unwrap_err();
        assert!(error.to_string().ends_with("answered with status 302 Found: redirects are not followed"), "{error}");

        let large = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MODULE_BYTES_MAX + 1);
        let address = server(vec![large.into_bytes(), ok(b"module")]).await;
        assert!(matches!(fetch(&wanted(vec![address], 5)).await, Err(FetchError::TooLarge(..))));

        assert!(matches!(fetch(&wanted(Vec::new(), 5)).await, Err(FetchError::NoEndpoint)));
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_bounded() {
        let piece = vec![0u8; 1 << 20];
        let mut endless = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
        (0..=(MODULE_BYTES_MAX >> 20)).for_each(|_| endless.extend_from_slice(&piece));
        let address = server(vec![endless]).await;
        assert!(matches!(fetch(&wanted(vec![address], 0)).await, Err(FetchError::TooLarge(..))));
    }

    #[tokio::test]
    async fn a_slow_server_is_left() {
        let address = server(vec![Vec::new()]).await;
        let mut wanted = wanted(vec![address], 0);
        wanted.timeout = Duration::from_millis(50);
        assert!(matches!(fetch(&wanted).await, Err(FetchError::Timeout(_, 50))));
    }

    #[test]
    fn only_http_and_https_uris_are_taken() {
        for wrong in ["/b", "http://u@a/b", "ftp://a/b", "http://", "x y"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        let target = Target::parse("http://a:1").unwrap();
        assert_eq!((target.path.as_str(), target.authority.as_str(), target.host.as_str()), ("/", "a:1", "a"));
        let target = Target::parse("https://[::1]:1/b?c").unwrap();
        assert_eq!((target.path.as_str(), target.authority.as_str(), target.host.as_str()), ("/b?c", "[::1]:1", "::1"));
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_millis(350) };
        for (attempt, whole) in [(0, 100), (1, 200), (2, 350), (40, 350)] {
            let (wait, whole) = (back_off(attempt, backoff), Duration::from_millis(whole));
            assert!(wait >= whole / 2 && wait <= whole, "{attempt}: {wait:?}");
        }
    }
}
