//! HTTP of the control side: a connection to an endpoint of a cluster, with its transport socket, in the protocol that the
//! cluster says or its server chooses.

use std::error::Error;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_config::Protocol;
use outrigger_dataplane::Alpn;

use crate::channel::Dial;

/// A connection, for one request at a time.
#[derive(Debug)]
pub(crate) struct Client<B> {
    sender: Sender<B>,
    is_secure: bool,
}

#[derive(Debug)]
enum Sender<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

/// What a cluster's connections speak, with nobody downstream whose protocol could be taken.
pub(crate) const fn alpn(protocol: Protocol) -> Alpn {
    match protocol {
        Protocol::Http1 | Protocol::Downstream => Alpn::Http1,
        Protocol::Http2 => Alpn::Http2,
        Protocol::Alpn => Alpn::Any,
    }
}

impl<B> Client<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// The second makes the connection move, and may well end before its last bytes are read. `host`: whom requests are
    /// for. The error says why there is no connection.
    pub(crate) async fn open(
        dial: &Dial,
        alpn: Alpn,
        host: &str,
    ) -> Result<(Client<B>, BoxFuture<'static, ()>), String> {
        let dialed = match tokio::time::timeout(dial.connect_timeout, dial.connect(alpn, Some(host))).await {
            Ok(dialed) => dialed.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("not within {:?}", dial.connect_timeout)),
        };
        let is_http2 = alpn == Alpn::Http2 || alpn == Alpn::Any && dialed.chose_h2;
        let (stream, is_secure) = (TokioIo::new(dialed.stream), dial.is_secure());
        let broken = |error: hyper::Error| error.to_string();
        if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(broken)?;
            let client = Client { sender: Sender::Http2(sender), is_secure };
            return Ok((client, Box::pin(async { _ = connection.await })));
        }
        let (sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        Ok((Client { sender: Sender::Http1(sender), is_secure }, Box::pin(async { _ = connection.await })))
    }

    /// The start of a request, as the connection's protocol has it. `authority` is one.
    pub(crate) fn request(&self, method: Method, authority: &str, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method);
        match self.sender {
            Sender::Http1(_) => match HeaderValue::from_str(authority) {
                Ok(host) => request.uri(path).header(header::HOST, host),
                Err(_) => request.uri(path),
            },
            Sender::Http2(_) => {
                let scheme = if self.is_secure { "https" } else { "http" };
                request.uri(format!("{scheme}://{authority}{path}"))
            }
        }
    }

    /// Whether the server hasn't closed it, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}
