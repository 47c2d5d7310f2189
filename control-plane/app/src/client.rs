//! A small HTTP client: for the command line, which asks a running control plane, and for modules behind `source.http`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use outrigger_api::ModuleFetcher;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a page, of at most `bytes_max` bytes. Blocks the thread, which must not be one that runs tasks.
pub(crate) fn get(authority: &str, path: &str, bytes_max: usize) -> Result<Bytes> {
    let address = resolve(authority)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let fetch = fetch(address, authority, path, bytes_max);
        tokio::time::timeout(TIMEOUT, fetch).await.with_context(|| format!("{authority} does not answer"))?
    })
}

/// The first address of `HOST:PORT`.
pub(crate) fn resolve(authority: &str) -> Result<SocketAddr> {
    let mut addresses = authority.to_socket_addrs().with_context(|| format!("{authority:?} is not HOST:PORT"))?;
    addresses.next().with_context(|| format!("{authority:?} has no address"))
}

async fn fetch(address: SocketAddr, authority: &str, path: &str, bytes_max: usize) -> Result<Bytes> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {authority}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header(http::header::HOST, authority).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        anyhow::Ok((status, body))
    };
    // The connection must be driven while the exchange goes on; whichever ends first decides.
    let driver = async {
        // What went wrong with the connection also ends the exchange, with the better word.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let (status, body) = tokio::select! {
        done = exchange => done?,
        () = driver => bail!("the connection to {authority} ended"),
    };
    let body =
        body.map_err(|error| anyhow::anyhow!("{error}")).with_context(|| format!("the answer of {authority}"))?;
    if !status.is_success() {
        let bytes = body.to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        bail!("{authority} answers {status}: {}", text.lines().next().unwrap_or_default());
    }
    Ok(body.to_bytes())
}

/// Fetches modules over plain HTTP; their digest is what they are trusted by.
#[derive(Debug)]
pub(crate) struct HttpFetcher;

impl ModuleFetcher for HttpFetcher {
    fn fetch(&self, url: &str, bytes_max: usize) -> Result<Bytes, String> {
        let rest = url.strip_prefix("http://").ok_or("only http:// is supported (the digest protects the content)")?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let authority = if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
        get(&authority, path, bytes_max).map_err(|error| format!("{error:#}"))
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (authority, expected) in [("a", false), ("a:80", true), ("[::1]", false), ("[::1]:80", true), ("a:", false)]
        {
            assert_eq!(has_port(authority), expected, "{authority}");
        }
        assert!(HttpFetcher.fetch("https://a/b", 1).is_err());
    }
}
