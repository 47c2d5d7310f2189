//! `outrigger-proxy explain`: asks a running proxy's admin interface which way a request would go.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent::encode;

use crate::args::ExplainArgs;

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) fn run(arguments: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let query = query(arguments);
    let text = runtime.block_on(async {
        let asked = tokio::time::timeout(TIMEOUT, ask(arguments.admin_address, &query));
        asked.await.with_context(|| format!("{} took longer than {TIMEOUT:?}", arguments.admin_address))?
    })?;
    std::io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn query(arguments: &ExplainArgs) -> String {
    let mut query = format!("url={}", encode(&arguments.url));
    let mut add = |name: &str, value: &str| query.push_str(&format!("&{name}={}", encode(value)));
    add("method", &arguments.method);
    arguments.header.iter().for_each(|header| add("header", header));
    let optional = [
        ("listener", arguments.listener.clone()),
        ("destination", arguments.destination.map(|address| address.to_string())),
        ("source", arguments.source.map(|address| address.to_string())),
        ("sni", arguments.sni.clone()),
        ("alpn", arguments.alpn.clone()),
        ("random", arguments.random.map(|random| random.to_string())),
    ];
    optional.into_iter().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| add(name, &value));
    if arguments.json {
        add("format", "json");
    }
    query
}

async fn ask(admin: SocketAddr, query: &str) -> anyhow::Result<Bytes> {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{admin}/explain?{query}").parse()?;
    let response = client
        .get(uri)
        .await
        .with_context(|| format!("no admin interface answers at {admin}: give the proxy's with --admin-address"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{admin} broke off: {error}"))?.to_bytes();
    if status != StatusCode::OK {
        bail!("{}", String::from_utf8_lossy(&body).trim_end());
    }
    Ok(body)
}

mod percent {
    /// Everything but unreserved characters as `%XX` (RFC 3986 §2).
    pub(super) fn encode(text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                    out.push(char::from(byte));
                }
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_goes_through_a_query() {
        assert_eq!(encode("http://a/b?c=d&e f"), "http://a/b%3Fc%3Dd%26e%20f");
    }
}
