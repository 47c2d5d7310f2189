//! Entrances for `proxy/fuzz`: parsers of what strangers send, with what they promise asserted. Nothing else calls this.

mod first_bytes;
mod heads;

use bytes::{Bytes, BytesMut};
use outrigger_http::Method;

pub use first_bytes::{client_hello, http_version, proxy_header};
pub use heads::{client_certificate, header_values, path};

use crate::http1::{BodyDecoder, BodyEvent, BodyLength, HeadLimits, HeadScan, parse_request, parse_response};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 8 * 1024, headers_max: 20, accept_http_10: true };
/// More messages than an input has room for tell nothing new.
const MESSAGES_MAX: usize = 50;

/// One message, or how far it came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    head: String,
    body: Vec<u8>,
    trailers: String,
    end: String,
}

type ParseHead = fn(&mut BytesMut, &mut HeadScan) -> Result<Option<(String, BodyLength)>, String>;

/// Reads a client's bytes as requests, whole and in pieces: a word for each message's outcome.
///
/// # Panics
///
/// If the pieces are read in another way than the whole.
#[must_use]
pub fn http1_requests(bytes: &[u8]) -> Vec<String> {
    all_cuts(bytes, |buffer, scan| {
        let parsed = parse_request(buffer, scan, LIMITS).map_err(|error| error.to_string())?;
        Ok(parsed.map(|request| {
            let flags = (request.keep_alive, request.expect_continue, request.upgrade, request.head_bytes);
            (format!("{:?} {flags:?}", request.head), request.body)
        }))
    })
}

/// The same with an origin's bytes as responses.
///
/// # Panics
///
/// As [`http1_requests`].
#[must_use]
pub fn http1_responses(bytes: &[u8]) -> Vec<String> {
    all_cuts(bytes, |buffer, scan| {
        let parsed = parse_response(buffer, scan, LIMITS, &Method::Get).map_err(|error| format!("{error:?}"))?;
        Ok(parsed.map(|response| {
            let flags = (response.keep_alive, response.upgrade, response.head_bytes);
            (format!("{:?} {flags:?}", response.head), response.body)
        }))
    })
}

fn all_cuts(bytes: &[u8], parse: ParseHead) -> Vec<String> {
    let whole = read(&[bytes], parse);
    let each: Vec<&[u8]> = bytes.chunks(1).collect();
    let (front, back) = bytes.split_at(bytes.len() / 2);
    for pieces in [each, vec![front, back], bytes.chunks(7).collect()] {
        let cut = read(&pieces, parse);
        assert_eq!(whole, cut, "the pieces are read in another way than the whole");
    }
    whole.iter().map(|message| message.end.clone()).collect()
}

/// Reads pieces as they come, then the end of the stream.
fn read(pieces: &[&[u8]], parse: ParseHead) -> Vec<Message> {
    let mut buffer = BytesMut::new();
    let mut scan = HeadScan::default();
    let mut messages = Vec::new();
    let mut current: Option<(Message, BodyDecoder)> = None;
    let last = pieces.len();
    for (index, piece) in pieces.iter().copied().chain([&b""[..]]).enumerate() {
        buffer.extend_from_slice(piece);
        let eof = index == last;
        while messages.len() < MESSAGES_MAX {
            let Some((message, decoder)) = &mut current else {
                match parse(&mut buffer, &mut scan) {
                    Ok(Some((head, length))) => {
                        let message = Message { head, end: format!("{length:?} "), ..Message::default() };
                        current = Some((message, BodyDecoder::new(length, LIMITS, true)));
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        messages.push(Message { end: error, ..Message::default() });
                        return messages;
                    }
                }
            };
            match decoder.decode(&mut buffer, eof) {
                Ok(Some(event)) => message.take(event),
                Ok(None) if decoder.is_done() => {
                    message.end.push_str("whole");
                    messages.extend(current.take().map(|(message, _)| message));
                }
                Ok(None) => break,
                Err(error) => {
                    // How much of a body comes before its fault is known depends on the pieces.
                    message.body.clear();
                    message.end.push_str(&error.to_string());
                    messages.extend(current.take().map(|(message, _)| message));
                    return messages;
                }
            }
        }
    }
    messages.extend(current.map(|(message, _)| message));
    messages
}

impl Message {
    fn take(&mut self, event: BodyEvent) {
        match event {
            BodyEvent::Data { bytes, .. } => self.body.extend_from_slice(&bytes),
            BodyEvent::Trailers(trailers) => {
                let pairs: Vec<(Bytes, Bytes)> = trailers
                    .iter()
                    .map(|(name, value)| (Bytes::copy_from_slice(name.as_bytes()), value.clone()))
                    .collect();
                self.trailers = format!("{pairs:?}");
            }
        }
    }
}
