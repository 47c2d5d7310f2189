//! HTTP/1.1, our own codec: strict about every byte, without I/O.
//!
//! [`parse`] turns the bytes of a head into an `outrigger_http` head and its framing, [`BodyDecoder`] takes the body apart,
//! [`write`] and [`BodyEncoder`] put a message together. The same code serves both sides of the proxy; the connections
//! that own sockets are `downstream::h1` and `upstream::h1`.
//!
//! Promise: one stream of bytes has one reading. Whatever RFC 9112 lets a recipient guess is refused (bare CR or LF,
//! obs-fold, repeated or conflicting lengths, anything between a chunk's data and its CRLF).

mod body;
mod lines;
mod meter;
mod parse;
mod write;

pub(crate) use body::{BodyDecoder, BodyEncoder, BodyError, BodyEvent};
pub(crate) use meter::Meter;
pub(crate) use parse::{
    BodyLength, HeadError, HeadLimits, HeadScan, ParsedRequest, ParsedResponse, check_host, parse_request,
    parse_response,
};
pub(crate) use write::{ResponseFraming, write_informational, write_request, write_response};
