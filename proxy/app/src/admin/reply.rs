//! Answers: text, JSON, or what a child renders as it comes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use serde_json::Value;

use crate::child::Running;

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";
/// Prometheus' exposition format.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    status: u16,
    content_type: &'static str,
    body: Body,
}

impl Reply {
    pub(crate) fn text(status: u16, text: impl Into<String>) -> Reply {
        Reply::typed(status, TEXT, text)
    }

    pub(crate) fn ok() -> Reply {
        Reply::text(200, "OK\n")
    }

    pub(crate) fn json(value: &Value) -> Reply {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        Reply::typed(200, JSON, text + "\n")
    }

    pub(crate) fn typed(status: u16, content_type: &'static str, text: impl Into<String>) -> Reply {
        Reply { status, content_type, body: Body::whole(text.into().into()) }
    }

    /// JSON that a child writes; `first` is what it has written already.
    pub(crate) fn from_child(first: Bytes, child: Running) -> Reply {
        Reply { status: 200, content_type: JSON, body: Body::Child { piece: Some(first), reading: read(child) } }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
        response
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> (u16, &str) {
        let text = match &self.body {
            Body::Whole(Some(bytes)) => std::str::from_utf8(bytes).unwrap(),
            _ => "",
        };
        (self.status, text)
    }
}

type Reading = Pin<Box<dyn Future<Output = (io::Result<Bytes>, Running)>>>;

fn read(mut child: Running) -> Reading {
    Box::pin(async move { (child.read().await, child) })
}

/// The bytes of an answer.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Child { piece: Option<Bytes>, reading: Reading },
    End,
}

impl Body {
    fn whole(bytes: Bytes) -> Body {
        Body::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Body::Whole(_) => "Whole",
            Body::Child { .. } => "Child",
            Body::End => "End",
        })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::End => Poll::Ready(None),
            Body::Child { piece, reading } => {
                if let Some(piece) = piece.take() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                let (outcome, child) = ready!(reading.as_mut().poll(cx));
                match outcome {
                    Ok(piece) if piece.is_empty() => {
                        *self = Body::End;
                        Poll::Ready(None)
                    }
                    Ok(piece) => {
                        *reading = read(child);
                        Poll::Ready(Some(Ok(Frame::data(piece))))
                    }
                    // The connection is closed: a client sees that the answer is cut.
                    Err(error) => {
                        *self = Body::End;
                        Poll::Ready(Some(Err(error)))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None) | Body::End)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::End => SizeHint::with_exact(0),
            Body::Child { .. } => SizeHint::default(),
        }
    }
}
