//! An HTTP/2 client that shows everything and forbids nothing: frames as they are, header blocks spelled out byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::DEADLINE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

/// Frame types (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags: END_STREAM and ACK share a bit.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings identifiers.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// A whole header block in one frame.
    pub fn headers(stream: u32, block: impl Into<Vec<u8>>, end: bool) -> Frame {
        Frame::new(kind::HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block)
    }

    pub fn data(stream: u32, payload: impl Into<Vec<u8>>, end: bool) -> Frame {
        Frame::new(kind::DATA, if end { END_STREAM } else { 0 }, stream, payload)
    }

    pub fn reset(stream: u32, code: u32) -> Frame {
        Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    pub fn settings(settings: &[(u16, u32)]) -> Frame {
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        Frame::new(kind::SETTINGS, 0, 0, payload)
    }

    pub fn window_update(stream: u32, increment: u32) -> Frame {
        Frame::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], self.kind, self.flags];
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.payload);
        out
    }

    /// The error code of a RST_STREAM or GOAWAY.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        let bytes = self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(u32::MAX, u32::from_be_bytes)
    }
}

/// A header block: every field a literal that enters no table, without Huffman, whatever its bytes.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

/// A GET's header block.
pub fn get(path: &str, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":path", path.as_bytes()), (b":authority", b"a")];
    fields.extend_from_slice(more);
    block(&fields)
}

/// A string literal of HPACK (RFC 7541 §5.2) without Huffman.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 7, 0, bytes.len());
    out.extend_from_slice(bytes);
}

/// An integer of HPACK (RFC 7541 §5.1) with this prefix, below these first bits.
pub fn integer(out: &mut Vec<u8>, prefix_bits: u32, first: u8, value: usize) {
    let most = (1_usize << prefix_bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap_or_default());
        return;
    }
    out.push(first | u8::try_from(most).unwrap_or_default());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap_or_default() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap_or_default());
}

/// What became of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The peer stopped reading, and so held us back.
    HeldBack,
    /// The peer closed or reset the connection.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct RawH2 {
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl RawH2 {
    /// Connects, with the preface and these settings.
    pub fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Result<RawH2> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut client = RawH2 { stream, buffer: Vec::new(), closed: false };
        let hello = [PREFACE, &Frame::settings(settings).bytes()].concat();
        client.stream.write_all(&hello).context("send the preface")?;
        Ok(client)
    }

    /// The server's side of a connection: the client's preface is taken, settings are sent.
    pub fn accepted(mut stream: TcpStream) -> Result<RawH2> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).context("read the preface")?;
        stream.write_all(&Frame::settings(&[]).bytes()).context("send settings")?;
        Ok(RawH2 { stream, buffer: Vec::new(), closed: false })
    }

    /// How long a write may wait before the peer counts as holding us back.
    pub fn patience(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.set_write_timeout(Some(patience))?)
    }

    pub fn send(&mut self, frames: &[Frame]) -> Sent {
        self.send_bytes(&frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> Sent {
        match self.stream.write_all(bytes) {
            Ok(()) => Sent::All,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Sent::HeldBack,
            Err(_) => Sent::Closed,
        }
    }

    /// The next frame; `None` once the peer has closed.
    pub fn frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Ok(Some(frame));
            }
            if self.closed {
                return Ok(None);
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.closed = true,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = true,
                Err(error) => return Err(error).context("read a frame"),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let head = self.buffer.get(..HEAD_BYTES)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if self.buffer.len() < HEAD_BYTES + length {
            return None;
        }
        let payload = self.buffer[HEAD_BYTES..HEAD_BYTES + length].to_vec();
        self.buffer.drain(..HEAD_BYTES + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// Reads until `wanted` is true of a frame; an error if the peer closes first.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        loop {
            match self.frame()? {
                Some(frame) if wanted(&frame) => return Ok(frame),
                Some(_) => {}
                None => bail!("the peer closed the connection"),
            }
        }
    }

    /// Reads to the end of the connection: the error code of its GOAWAY, if it sent one.
    pub fn ending(&mut self) -> Result<Option<u32>> {
        let mut code = None;
        while let Some(frame) = self.frame()? {
            if frame.kind == kind::GOAWAY {
                code = Some(frame.error_code());
            }
        }
        Ok(code)
    }

    /// Sends a request and says how its stream ended.
    pub fn outcome(&mut self, stream: u32, frames: &[Frame]) -> Result<Outcome> {
        if self.send(frames) == Sent::HeldBack {
            bail!("the peer reads nothing");
        }
        let mut status = None;
        while let Some(frame) = self.frame()? {
            match frame.kind {
                kind::GOAWAY => return Ok(Outcome::ConnectionError(frame.error_code())),
                kind::RST_STREAM if frame.stream == stream => {
                    return Ok(status.map_or(Outcome::Reset(frame.error_code()), Outcome::Status));
                }
                kind::HEADERS if frame.stream == stream && status.is_none() => {
                    status = Some(status_of(&frame.payload));
                }
                _ => {}
            }
            if frame.stream == stream && frame.flags & END_STREAM != 0 && frame.kind <= kind::HEADERS {
                return Ok(status.map_or(Outcome::Closed, Outcome::Status));
            }
        }
        Ok(Outcome::Closed)
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Status(u16),
    Reset(u32),
    ConnectionError(u32),
    Closed,
}

/// The status of a response's header block, where it comes first: an index of the static table, or a literal of it with
/// digits that are Huffman-coded or plain.
fn status_of(block: &[u8]) -> u16 {
    let indexed = |byte: u8| match byte {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        _ => None,
    };
    // A size update of the dynamic table may come before it.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap_or_default();
    let block = &block[start..];
    let Some(first) = block.first() else { return 0 };
    if let Some(status) = indexed(*first) {
        return status;
    }
    let Some(length) = block.get(1) else { return 0 };
    let bytes = block.get(2..2 + usize::from(length & 0x7f)).unwrap_or_default();
    if length & 0x80 == 0 { digits(bytes) } else { huffman_digits(bytes) }
}

fn digits(bytes: &[u8]) -> u16 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Huffman codes of the digits (RFC 7541, appendix B): 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)).collect();
    let take = |at: usize, count: usize| bits.get(at..at + count).map(|b| b.iter().fold(0_u8, |n, bit| n << 1 | bit));
    let (mut at, mut number) = (0, 0_u16);
    while let Some(short) = take(at, 5) {
        if short < 3 {
            number = number * 10 + u16::from(short);
            at += 5;
            continue;
        }
        match take(at, 6) {
            Some(long @ 0x19..=0x1f) => number = number * 10 + u16::from(long - 0x19 + 3),
            _ => break,
        }
        at += 6;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::{huffman_digits, integer, status_of};

    #[test]
    fn integers_of_the_rfc() {
        for (value, expected) in [(10, vec![0x0a]), (1337, vec![0x1f, 0x9a, 0x0a])] {
            let mut out = Vec::new();
            integer(&mut out, 5, 0, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn statuses() {
        assert_eq!(huffman_digits(&[0x64, 0x02]), 302, "RFC 7541 C.6.1");
        assert_eq!(status_of(&[0x48, 0x82, 0x64, 0x02]), 302);
        assert_eq!(status_of(&[0x20, 0x88]), 200);
        assert_eq!(status_of(&[0x08, 0x03, b'4', b'3', b'1']), 431);
    }
}
