//! HTTP/1 messages out of bytes, without I/O: one parser for the clients (responses) and for the origin (requests).
//!
//! It is deliberately lenient in what a head may hold and exact in framing: a test must see what was sent, and must notice
//! a body that ended early.

use anyhow::{Context, Result, bail};

const HEAD_BYTES_MAX: usize = 4 << 20;

/// Names as they were sent, in the order they were sent.
pub type Headers = Vec<(String, String)>;

/// The value of the first header of that name, in any letter case.
pub fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// All values of the headers of that name, in order.
pub fn header_all<'h>(headers: &'h Headers, name: &str) -> Vec<&'h str> {
    headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

/// A head: its first line and its headers.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub start_line: String,
    pub headers: Headers,
}

impl Head {
    fn has_token(&self, name: &str, token: &str) -> bool {
        header_all(&self.headers, name).iter().flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// The status of a response's head.
    pub fn status(&self) -> Result<u16> {
        let field = self.start_line.split(' ').nth(1).unwrap_or_default();
        field.parse().with_context(|| format!("status line {:?}", self.start_line))
    }
}

/// What the parser found.
#[derive(Debug)]
pub enum Event {
    Head(Head),
    Data(Vec<u8>),
    Trailers(Headers),
    End,
}

/// Which side wrote the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Requests,
    /// `to_head`: the next response answers a HEAD request.
    Responses {
        to_head: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    End,
}

/// Feed bytes, poll events.
#[derive(Debug)]
pub struct Parser {
    role: Role,
    bytes: Vec<u8>,
    from: usize,
    state: State,
}

impl Parser {
    pub fn new(role: Role) -> Parser {
        Parser { role, bytes: Vec::new(), from: 0, state: State::Head }
    }

    pub fn set_role(&mut self, role: Role) {
        self.role = role;
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        if self.from > 0 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that were fed and belong to no message yet (after an upgrade: the other protocol's).
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.from);
        self.bytes.clear();
        self.from = 0;
        rest
    }

    /// True between two messages with nothing left over.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.from == self.bytes.len()
    }

    /// The peer has closed: an error unless that is how this message ends. `Some(End)` for a body that ends at close.
    pub fn closed(&mut self) -> Result<Option<Event>> {
        match self.state {
            State::UntilClose => {
                self.state = State::Head;
                Ok(Some(Event::End))
            }
            State::Head if self.from == self.bytes.len() => Ok(None),
            state => {
                bail!("closed in the middle of a message ({state:?}, {} bytes unread)", self.bytes.len() - self.from)
            }
        }
    }

    /// The next event, `None` if more bytes are needed.
    pub fn poll(&mut self) -> Result<Option<Event>> {
        loop {
            match self.state {
                State::Head => return self.poll_head(),
                State::Length(0) | State::End => {
                    self.state = State::Head;
                    return Ok(Some(Event::End));
                }
                State::Length(left) => {
                    return Ok(self.take_up_to(left).map(|data| {
                        self.state = State::Length(left - data.len() as u64);
                        Event::Data(data)
                    }));
                }
                State::UntilClose => return Ok(self.take_up_to(u64::MAX).map(Event::Data)),
                State::ChunkSize => {
                    let Some(line) = self.take_line()? else { return Ok(None) };
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16).with_context(|| format!("chunk size {line:?}"))?;
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => {
                    return Ok(self.take_up_to(left).map(|data| {
                        self.state = State::Chunk(left - data.len() as u64);
                        Event::Data(data)
                    }));
                }
                State::ChunkEnd => match self.take_line()? {
                    None => return Ok(None),
                    Some(line) if line.is_empty() => self.state = State::ChunkSize,
                    Some(line) => bail!("{line:?} after a chunk"),
                },
                State::Trailers => return self.poll_trailers(),
            }
        }
    }

    fn poll_head(&mut self) -> Result<Option<Event>> {
        let Some(lines) = self.take_block()? else { return Ok(None) };
        let mut lines = lines.into_iter();
        let head = Head { start_line: lines.next().unwrap_or_default(), headers: parse_headers(lines)? };
        self.state = self.framing(&head)?;
        Ok(Some(Event::Head(head)))
    }

    fn poll_trailers(&mut self) -> Result<Option<Event>> {
        // A block without a first line: an empty line at once means no trailers.
        let Some(lines) = self.take_block()? else { return Ok(None) };
        self.state = State::End;
        if lines.is_empty() {
            return self.poll();
        }
        Ok(Some(Event::Trailers(parse_headers(lines.into_iter())?)))
    }

    fn framing(&self, head: &Head) -> Result<State> {
        if let Role::Responses { to_head } = self.role {
            let status = head.status()?;
            if status == 101 {
                return Ok(State::End);
            }
            if status < 200 {
                return Ok(State::Head);
            }
            if to_head || status == 204 || status == 304 {
                return Ok(State::End);
            }
        }
        if head.has_token("transfer-encoding", "chunked") {
            return Ok(State::ChunkSize);
        }
        if let Some(length) = header(&head.headers, "content-length") {
            return Ok(State::Length(length.trim().parse().with_context(|| format!("content-length {length:?}"))?));
        }
        Ok(if self.role == Role::Requests { State::End } else { State::UntilClose })
    }

    fn take_up_to(&mut self, limit: u64) -> Option<Vec<u8>> {
        let there = self.bytes.len() - self.from;
        let count = there.min(usize::try_from(limit).unwrap_or(usize::MAX));
        if count == 0 {
            return None;
        }
        let data = self.bytes[self.from..self.from + count].to_vec();
        self.from += count;
        Some(data)
    }

    fn take_line(&mut self) -> Result<Option<String>> {
        let rest = &self.bytes[self.from..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            if rest.len() > HEAD_BYTES_MAX {
                bail!("a line of more than {HEAD_BYTES_MAX} bytes");
            }
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
        self.from += end + 1;
        Ok(Some(line))
    }

    /// Lines up to an empty one, or nothing yet.
    fn take_block(&mut self) -> Result<Option<Vec<String>>> {
        let before = self.from;
        let mut lines = Vec::new();
        while let Some(line) = self.take_line()? {
            if line.is_empty() {
                return Ok(Some(lines));
            }
            lines.push(line);
        }
        self.from = before;
        Ok(None)
    }
}

fn parse_headers(lines: impl Iterator<Item = String>) -> Result<Headers> {
    lines
        .map(|line| {
            let (name, value) = line.split_once(':').with_context(|| format!("header line {line:?}"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Event, Parser, Role};

    /// Feeds byte by byte, so that every split point is crossed.
    fn events(role: Role, bytes: &str) -> String {
        let mut parser = Parser::new(role);
        let mut seen = String::new();
        for byte in bytes.bytes() {
            parser.feed(&[byte]);
            while let Some(event) = parser.poll().expect("well-formed") {
                match event {
                    Event::Head(head) => seen.push_str(&format!("[{} {}]", head.start_line, head.headers.len())),
                    Event::Data(data) => seen.push_str(&String::from_utf8_lossy(&data)),
                    Event::Trailers(trailers) => seen.push_str(&format!("+{}", trailers.len())),
                    Event::End => seen.push('.'),
                }
            }
        }
        if let Some(Event::End) = parser.closed().expect("closed between messages") {
            seen.push('.');
        }
        seen
    }

    #[test]
    fn frames_messages() {
        let responses = Role::Responses { to_head: false };
        let table = [
            (Role::Requests, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "[GET / HTTP/1.1 1]."),
            (
                Role::Requests,
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\n\r\n",
                "[POST / HTTP/1.1 1]abc.[GET /2 HTTP/1.1 0].",
            ),
            (
                responses,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
                "[HTTP/1.1 200 OK 1]abc+1.",
            ),
            (responses, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "[HTTP/1.1 200 OK 1]."),
            (responses, "HTTP/1.1 200 OK\r\n\r\nuntil close", "[HTTP/1.1 200 OK 0]until close."),
            (
                responses,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                "[HTTP/1.1 100 Continue 0][HTTP/1.1 204 No Content 0].",
            ),
            (Role::Responses { to_head: true }, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "[HTTP/1.1 200 OK 1]."),
        ];
        for (role, bytes, expected) in table {
            assert_eq!(events(role, bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn notices_a_body_that_ends_early() {
        for bytes in [
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let mut parser = Parser::new(Role::Responses { to_head: false });
            parser.feed(bytes.as_bytes());
            while parser.poll().expect("well-formed so far").is_some() {}
            assert!(parser.closed().is_err(), "{bytes:?}");
        }
    }
}
