//! An HTTP/2 client by prior knowledge, on the `h2` crate, with a plain blocking face.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::parser::Headers;
use crate::wait::DEADLINE;

/// What came back on one stream.
#[derive(Debug, Clone, Default)]
pub struct H2Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// The stream was reset, with this reason, after what is above.
    pub reset: Option<Reason>,
}

impl H2Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        crate::parser::header(&self.headers, name)
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// What to send on one stream.
#[derive(Debug, Clone)]
pub struct H2Request {
    pub method: &'static str,
    pub path: String,
    pub authority: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<Bytes>,
    pub trailers: Vec<(&'static str, String)>,
}

impl H2Request {
    pub fn get(path: &str) -> H2Request {
        H2Request {
            method: "GET",
            path: path.to_owned(),
            authority: "test.example",
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> H2Request {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn origin(self, directive: &str) -> H2Request {
        self.with("x-origin", directive)
    }

    /// Makes it a POST with the body in these frames.
    pub fn body(mut self, frames: &[&[u8]]) -> H2Request {
        self.method = "POST";
        self.body = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
        self
    }
}

/// One HTTP/2 connection.
#[derive(Debug)]
pub struct H2Connection {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

impl H2Connection {
    pub fn open(address: SocketAddr) -> Result<H2Connection> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            anyhow::Ok(sender)
        })?;
        Ok(H2Connection { runtime, sender })
    }

    pub fn exchange(&self, request: &H2Request) -> Result<H2Response> {
        let mut all = self.exchange_all(std::slice::from_ref(request))?;
        all.pop().context("one response")
    }

    /// Sends all requests at once, as concurrent streams, and returns their responses in the same order.
    pub fn exchange_all(&self, requests: &[H2Request]) -> Result<Vec<H2Response>> {
        self.runtime.block_on(async {
            let tasks: Vec<_> = requests.iter().map(|r| tokio::spawn(one(self.sender.clone(), r.clone()))).collect();
            let mut responses = Vec::new();
            for task in tasks {
                responses.push(within(DEADLINE, async { task.await? }).await?);
            }
            Ok(responses)
        })
    }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, work).await.with_context(|| format!("no answer within {deadline:?}"))?
}

async fn one(sender: SendRequest<Bytes>, request: H2Request) -> Result<H2Response> {
    let mut sender = sender.ready().await?;
    let uri = format!("http://{}{}", request.authority, request.path);
    let mut head = Request::builder().method(request.method).uri(uri);
    for (name, value) in &request.headers {
        head = head.header(*name, value);
    }
    let ends = request.body.is_empty() && request.trailers.is_empty();
    let (response, mut stream) = sender.send_request(head.body(())?, ends)?;
    let last = request.body.len().saturating_sub(1);
    for (index, data) in request.body.into_iter().enumerate() {
        let mut data = data;
        let ends = index == last && request.trailers.is_empty();
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let capacity =
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.context("the stream is gone")??;
            let piece = data.split_to(capacity.min(data.len()));
            stream.send_data(piece, ends && data.is_empty())?;
        }
    }
    if !request.trailers.is_empty() {
        let mut map = HeaderMap::new();
        for (name, value) in &request.trailers {
            map.insert(*name, value.parse()?);
        }
        stream.send_trailers(map)?;
    }
    collect(response).await
}

async fn collect(response: h2::client::ResponseFuture) -> Result<H2Response> {
    let mut seen = H2Response::default();
    let reset = |error: &h2::Error| error.reason();
    let response = match response.await {
        Ok(response) => response,
        Err(error) if error.is_reset() => return Ok(H2Response { reset: reset(&error), ..seen }),
        Err(error) => return Err(error.into()),
    };
    let (parts, mut body) = response.into_parts();
    seen.status = parts.status.as_u16();
    seen.headers = pairs(&parts.headers);
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                seen.body.extend_from_slice(&data);
            }
            Err(error) => return Ok(H2Response { reset: reset(&error), ..seen }),
        }
    }
    if let Some(trailers) = body.trailers().await? {
        seen.trailers = pairs(&trailers);
    }
    Ok(seen)
}

fn pairs(map: &HeaderMap) -> Headers {
    map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}
