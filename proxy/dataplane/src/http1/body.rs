//! Bodies: taking chunks apart and putting them together.

use bytes::{Buf, Bytes, BytesMut};
use outrigger_http::{Headers, Known};

use super::lines::Lines;
use super::parse::{BodyLength, HeadLimits};
use crate::write_queue::WriteQueue;

/// What a decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyEvent {
    /// `end`: the body is complete and has no trailers.
    Data {
        bytes: Bytes,
        end: bool,
    },
    Trailers(Headers),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("invalid chunk framing")]
    Framing,
    #[error("trailers are malformed or too large")]
    Trailers,
    /// The peer closed before the body was complete.
    #[error("the body was cut short")]
    Truncated,
}

/// A chunk's size line, extensions included, may be this long.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// Decodes one body.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
    limits: HeadLimits,
    keep_trailers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyDecoder {
    pub(crate) fn new(length: BodyLength, limits: HeadLimits, keep_trailers: bool) -> BodyDecoder {
        let state = match length {
            BodyLength::None | BodyLength::Length(0) => State::Done,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::ChunkSize,
            BodyLength::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, limits, keep_trailers }
    }

    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next event in the buffer; `None`: more bytes are needed. `eof`: no more will come.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut, eof: bool) -> Result<Option<BodyEvent>, BodyError> {
        loop {
            let event = match self.state {
                State::Done => return Ok(None),
                State::UntilClose => {
                    if buffer.is_empty() && !eof {
                        return Ok(None);
                    }
                    if eof {
                        self.state = State::Done;
                    }
                    return Ok(Some(BodyEvent::Data { bytes: buffer.split().freeze(), end: eof }));
                }
                State::Length(left) => self.data(buffer, left, true),
                State::ChunkData(left) => self.data(buffer, left, false),
                State::ChunkSize => self.chunk_size(buffer)?,
                State::ChunkEnd => self.chunk_end(buffer)?,
                State::Trailers => self.trailers(buffer)?,
            };
            match event {
                Step::Event(event) => return Ok(Some(event)),
                Step::Again => {}
                Step::More if eof => return Err(BodyError::Truncated),
                Step::More => return Ok(None),
            }
        }
    }

    fn data(&mut self, buffer: &mut BytesMut, left: u64, sized: bool) -> Step {
        if buffer.is_empty() {
            return Step::More;
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = buffer.split_to(take).freeze();
        let left = left - take as u64;
        self.state = match (sized, left) {
            (true, 0) => State::Done,
            (true, left) => State::Length(left),
            (false, 0) => State::ChunkEnd,
            (false, left) => State::ChunkData(left),
        };
        if self.state == State::ChunkEnd && self.at_end(buffer) {
            // The last chunk is here as well: one event tells the data and the end.
            self.state = State::Done;
            return Step::Event(BodyEvent::Data { bytes, end: true });
        }
        Step::Event(BodyEvent::Data { bytes, end: self.is_done() })
    }

    /// Takes `CRLF 0 CRLF CRLF`, the end of a body without trailers, where it is next.
    fn at_end(&self, buffer: &mut BytesMut) -> bool {
        let last = buffer.starts_with(b"\r\n0\r\n\r\n");
        if last {
            buffer.advance(7);
        }
        last
    }

    fn chunk_size(&mut self, buffer: &mut BytesMut) -> Result<Step, BodyError> {
        let Some(end) = memchr::memchr(b'\n', buffer) else {
            return if buffer.len() > CHUNK_LINE_BYTES_MAX { Err(BodyError::Framing) } else { Ok(Step::More) };
        };
        let line = buffer.get(..end.saturating_sub(1)).filter(|_| end > 0 && buffer[end - 1] == b'\r');
        let line = line.filter(|line| line.len() <= CHUNK_LINE_BYTES_MAX).ok_or(BodyError::Framing)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        let extension_valid = match extension.trim_ascii_start().first() {
            None => extension.is_empty(),
            Some(b';') => extension.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)),
            Some(_) => false,
        };
        if digits == 0 || digits > 15 || !extension_valid {
            return Err(BodyError::Framing);
        }
        let size = size.iter().fold(0_u64, |size, digit| size * 16 + u64::from(hex(*digit)));
        buffer.advance(end + 1);
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(Step::Again)
    }

    fn chunk_end(&mut self, buffer: &mut BytesMut) -> Result<Step, BodyError> {
        match buffer.get(..2) {
            Some(b"\r\n") => {
                buffer.advance(2);
                self.state = State::ChunkSize;
                Ok(Step::Again)
            }
            Some(_) => Err(BodyError::Framing),
            None if !buffer.is_empty() && buffer[0] != b'\r' => Err(BodyError::Framing),
            None => Ok(Step::More),
        }
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, BodyError> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = State::Done;
            return Ok(Step::Event(BodyEvent::Data { bytes: Bytes::new(), end: true }));
        }
        let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
            let too_long = buffer.len() > self.limits.bytes_max;
            return if too_long || bare_line_feed(buffer) { Err(BodyError::Trailers) } else { Ok(Step::More) };
        };
        if end + 4 > self.limits.bytes_max || bare_line_feed(&buffer[..end + 4]) {
            return Err(BodyError::Trailers);
        }
        let bytes = buffer.split_to(end + 4).freeze();
        let trailers = parse_trailers(&bytes, self.limits.headers_max)?;
        self.state = State::Done;
        Ok(Step::Event(if self.keep_trailers && !trailers.is_empty() {
            BodyEvent::Trailers(trailers)
        } else {
            BodyEvent::Data { bytes: Bytes::new(), end: true }
        }))
    }
}

enum Step {
    Event(BodyEvent),
    Again,
    More,
}

fn bare_line_feed(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A') + 10,
    }
}

fn parse_trailers(bytes: &Bytes, headers_max: usize) -> Result<Headers, BodyError> {
    let mut lines = Lines::new(bytes);
    let mut trailers = Headers::new();
    let mut count = 0;
    while let Some((name, value)) = lines.field().map_err(|_| BodyError::Trailers)? {
        count += 1;
        if count > headers_max {
            return Err(BodyError::Trailers);
        }
        // Fields that frame, route or authenticate a message have no meaning in trailers (RFC 9110 §6.5.1).
        let forbidden = name.is_hop_by_hop()
            || matches!(
                name.known(),
                Some(Known::ContentLength | Known::Host | Known::Trailer | Known::Authorization | Known::ContentType)
            );
        if !forbidden {
            trailers.append(name, Bytes::copy_from_slice(lines.at(value)));
        }
    }
    if lines.is_done() { Ok(trailers) } else { Err(BodyError::Trailers) }
}

/// Frames one body on its way out and keeps count, so that a filter's edit can't desynchronise a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEncoder {
    None,
    Length(u64),
    Chunked { trailers: bool },
    UntilClose,
}

/// The body is longer or shorter than its head said: the connection's framing is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body doesn't have the length that its head says")]
pub(crate) struct LengthMismatch;

impl BodyEncoder {
    pub(crate) fn data(&mut self, bytes: Bytes, end: bool, out: &mut WriteQueue) -> Result<(), LengthMismatch> {
        match self {
            BodyEncoder::None => {
                if !bytes.is_empty() {
                    return Err(LengthMismatch);
                }
            }
            BodyEncoder::Length(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(LengthMismatch)?;
                out.push(bytes);
                if end && *left > 0 {
                    return Err(LengthMismatch);
                }
            }
            BodyEncoder::Chunked { .. } => {
                if !bytes.is_empty() {
                    out.push_chunk_size(bytes.len());
                    out.push(bytes);
                    out.push_slice(b"\r\n");
                }
                if end {
                    out.push_slice(b"0\r\n\r\n");
                }
            }
            BodyEncoder::UntilClose => out.push(bytes),
        }
        Ok(())
    }

    /// Ends the body with trailers; they are dropped where the framing has no place for them.
    pub(crate) fn trailers(&mut self, trailers: &Headers, out: &mut WriteQueue) -> Result<(), LengthMismatch> {
        let BodyEncoder::Chunked { trailers: true } = self else { return self.data(Bytes::new(), true, out) };
        out.push_slice(b"0\r\n");
        for (name, value) in trailers {
            out.push_field(name, value);
        }
        out.push_slice(b"\r\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, headers_max: 4, accept_http_10: false };

    /// Feeds `text` in pieces of `step` bytes; the body, its trailers and what is left over.
    fn decode(length: BodyLength, text: &[u8], step: usize, eof: bool) -> Result<(String, usize, String), BodyError> {
        let mut decoder = BodyDecoder::new(length, LIMITS, true);
        let (mut buffer, mut body, mut trailers) = (BytesMut::new(), Vec::new(), 0);
        let mut pieces = text.chunks(step).peekable();
        while let Some(piece) = pieces.next() {
            buffer.extend_from_slice(piece);
            let last = eof && pieces.peek().is_none();
            while let Some(event) = decoder.decode(&mut buffer, last)? {
                match event {
                    BodyEvent::Data { bytes, .. } => body.extend_from_slice(&bytes),
                    BodyEvent::Trailers(found) => trailers = found.len(),
                }
            }
        }
        assert!(decoder.is_done() || !eof);
        Ok((String::from_utf8_lossy(&body).into_owned(), trailers, String::from_utf8_lossy(&buffer).into_owned()))
    }

    #[test]
    fn bodies_come_in_any_pieces() {
        let check = |length, text: &str, expected: (&str, usize, &str)| {
            for step in 1..=text.len() {
                let (body, trailers, rest) = decode(length, text.as_bytes(), step, true).expect("well framed");
                // What follows a complete body is only in the buffer once it was fed.
                assert_eq!((body.as_str(), trailers, rest.as_str()), expected, "{text:?} by {step}");
            }
        };
        check(BodyLength::Length(5), "helloGET", ("hello", 0, "GET"));
        check(BodyLength::Chunked, "5\r\nhello\r\n0\r\n\r\nGET", ("hello", 0, "GET"));
        check(BodyLength::Chunked, "5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\nY: 2\r\n\r\n", ("hello!", 2, ""));
        check(BodyLength::Chunked, "00a\r\n0123456789\r\n0\r\nContent-Length: 1\r\n\r\n", ("0123456789", 0, ""));
        check(BodyLength::UntilClose, "anything", ("anything", 0, ""));
    }

    #[test]
    fn bad_framing_is_refused_in_any_pieces() {
        let check = |text: &str, expected: BodyError| {
            for step in 1..=text.len() {
                assert_eq!(
                    decode(BodyLength::Chunked, text.as_bytes(), step, true),
                    Err(expected),
                    "{text:?} by {step}"
                );
            }
        };
        for bad in [
            "x\r\n",
            "\r\n",
            "5\nhello",
            "-5\r\nhello\r\n",
            "5 5\r\n",
            "5\r\nhello!!\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
        ] {
            check(bad, BodyError::Framing);
        }
        check("1234567890123456\r\n", BodyError::Framing);
        check("0\r\nbad trailer\r\n\r\n", BodyError::Trailers);
        check("0\r\nA: b\nC: d\r\n\r\n", BodyError::Trailers);
        check("5\r\nhel", BodyError::Truncated);
        check("5\r\nhello\r\n0\r\n", BodyError::Truncated);
        assert_eq!(decode(BodyLength::Length(9), b"short", 5, true), Err(BodyError::Truncated));
    }

    #[test]
    fn an_encoder_refuses_what_its_head_did_not_say() {
        let mut out = WriteQueue::default();
        assert_eq!(BodyEncoder::Length(2).data(Bytes::from_static(b"abc"), true, &mut out), Err(LengthMismatch));
        assert_eq!(BodyEncoder::Length(4).data(Bytes::from_static(b"abc"), true, &mut out), Err(LengthMismatch));
        assert_eq!(BodyEncoder::None.data(Bytes::from_static(b"a"), true, &mut out), Err(LengthMismatch));
        let mut out = WriteQueue::default();
        let mut encoder = BodyEncoder::Chunked { trailers: true };
        encoder.data(Bytes::from_static(b"0123456789"), false, &mut out).expect("fits");
        encoder.trailers(&Headers::new(), &mut out).expect("fits");
        assert_eq!(out.to_vec(), b"a\r\n0123456789\r\n0\r\n\r\n");
    }
}
