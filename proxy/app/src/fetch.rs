//! Fetching a module's bytes over HTTP, by digest.
//!
//! A plain HTTP/1.1 GET to the endpoints of a cluster. Time, size and the number of attempts are bounded, and bytes with
//! another digest than was asked for never leave this file.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::net::TcpStream;

use crate::cache::{Digest, digest, hex};

/// The largest module that is fetched or read.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
/// The first pause between attempts; each is twice the one before.
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: u32 = 16;
/// For a request that names no timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What is fetched, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) uri: String,
    /// Of the named cluster; tried in turn from a random one on.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// For one attempt, answer included.
    pub(crate) timeout: Duration,
    /// Attempts after the first one.
    pub(crate) retries: u32,
    pub(crate) sha256: Digest,
}

/// Why an attempt, and with it perhaps the fetch, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0} is no http URI with a host")]
    Uri(String),
    #[error("the cluster has no endpoint")]
    NoEndpoint,
    #[error("{0} doesn't answer: {1}")]
    Connect(SocketAddr, String),
    #[error("{0} took longer than {1} ms")]
    Timeout(SocketAddr, u128),
    #[error("{0} answered with status {1}")]
    Status(SocketAddr, StatusCode),
    #[error("{0} sent more than {1} bytes")]
    TooLarge(SocketAddr, usize),
    #[error("{0} broke off: {1}")]
    Broken(SocketAddr, String),
    /// Whoever takes the bytes doesn't want them.
    #[error("{0} sent something else: {1}")]
    Refused(SocketAddr, String),
    #[error("{from} sent bytes with the digest {actual} instead of {expected}")]
    Digest { from: SocketAddr, actual: String, expected: String },
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
    if wanted.endpoints.is_empty() {
        return Err(FetchError::NoEndpoint);
    }
    let first = rand::rng().random_range(0..wanted.endpoints.len());
    let timeout = if wanted.timeout.is_zero() { TIMEOUT_MAX } else { wanted.timeout.min(TIMEOUT_MAX) };
    let retries = wanted.retries.min(ATTEMPTS_MAX - 1);
    let mut attempt = 0u32;
    loop {
        let position = (first + attempt as usize) % wanted.endpoints.len();
        let endpoint = wanted.endpoints[position];
        let mut bytes = BytesMut::new();
        let take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let outcome = tokio::time::timeout(timeout, once(endpoint, &target, MODULE_BYTES_MAX, take)).await;
        let outcome = outcome.unwrap_or(Err(FetchError::Timeout(endpoint, timeout.as_millis())));
        let outcome = outcome.and_then(|()| check(endpoint, bytes.freeze(), &wanted.sha256));
        match outcome {
            Err(error) if error.is_transient() && attempt < retries => {
                tracing::debug!("fetching {}: {error}; trying again", wanted.uri);
                tokio::time::sleep(back_off(attempt)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Hands a body of at most `bytes_max` bytes to `take`, piece by piece, which may refuse it; one attempt at one endpoint.
pub(crate) async fn fetch_into(
    uri: &str,
    endpoint: SocketAddr,
    timeout: Duration,
    bytes_max: usize,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let target = Target::parse(uri)?;
    let outcome = tokio::time::timeout(timeout, once(endpoint, &target, bytes_max, take)).await;
    outcome.unwrap_or(Err(FetchError::Timeout(endpoint, timeout.as_millis())))
}

fn check(from: SocketAddr, bytes: Bytes, expected: &Digest) -> Result<Bytes, FetchError> {
    let actual = digest(&bytes);
    if actual == *expected {
        Ok(bytes)
    } else {
        Err(FetchError::Digest { from, actual: hex(&actual), expected: hex(expected) })
    }
}

fn back_off(attempt: u32) -> Duration {
    let pause = BACK_OFF.saturating_mul(1 << attempt.min(8)).min(BACK_OFF_MAX);
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// What goes into the request.
#[derive(Debug)]
struct Target {
    path: String,
    host: String,
}

impl Target {
    fn parse(uri: &str) -> Result<Target, FetchError> {
        let wrong = || FetchError::Uri(uri.to_owned());
        let parsed: Uri = uri.parse().map_err(|_| wrong())?;
        let host = parsed.authority().ok_or_else(wrong)?;
        if parsed.scheme_str() != Some("http") || host.as_str().contains('@') {
            return Err(wrong());
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target { path: path.to_owned(), host: host.as_str().to_owned() })
    }
}

async fn once(
    endpoint: SocketAddr,
    target: &Target,
    bytes_max: usize,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let broken = |error: hyper::Error| FetchError::Broken(endpoint, error.to_string());
    let stream =
        TcpStream::connect(endpoint).await.map_err(|error| FetchError::Connect(endpoint, error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(&target.path)
        .header(header::HOST, &target.host)
        .header(header::USER_AGENT, concat!("outrigger-proxy/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/wasm, */*;q=0.1")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Uri(target.path.clone()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(endpoint, response.status()));
        }
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > bytes_max as u64) {
            return Err(FetchError::TooLarge(endpoint, bytes_max));
        }
        pass_on(endpoint, response.into_body(), bytes_max, take).await
    };
    // The connection makes no progress unless somebody polls it, and it may well end before its last bytes are read.
    let connection = async {
        _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        never = connection => never,
    }
}

async fn pass_on(
    endpoint: SocketAddr,
    mut body: hyper::body::Incoming,
    bytes_max: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), FetchError> {
    let mut passed = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Broken(endpoint, error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            passed += data.len();
            if passed > bytes_max {
                return Err(FetchError::TooLarge(endpoint, bytes_max));
            }
            take(&data).map_err(|reason| FetchError::Refused(endpoint, reason))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
            endpoints,
            timeout: Duration::from_secs(20),
            retries,
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
    fn only_http_uris_are_taken() {
        for wrong in ["https://a/b", "/b", "http://u@a/b", "ftp://a/b", "http://", "x y"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        let target = Target::parse("http://a:1").unwrap();
        assert_eq!((target.path.as_str(), target.host.as_str()), ("/", "a:1"));
    }
}
