//! An HTTP/1 client that shows everything: raw bytes in, whole messages out, and whether the peer closed, reset or kept the
//! connection. One small request builder on top.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::parser::{Event, Headers, Parser, Role, header, header_all};
use crate::wait::DEADLINE;

/// A response as it came.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    /// The version of the status line, for example `HTTP/1.1`.
    pub version: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// Statuses of the informational responses before it.
    pub interim: Vec<u16>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn header_all(&self, name: &str) -> Vec<&str> {
        header_all(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON: what the origin echoes.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("status {}, body {:?}", self.status, self.text()))
    }

    /// The value that the origin saw for a request header, from its echo.
    pub fn seen(&self, name: &str) -> Option<String> {
        let echo = self.json().ok()?;
        let headers = echo.get("headers")?.as_array()?;
        let pair = headers.iter().find(|pair| pair[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))?;
        pair[1].as_str().map(str::to_owned)
    }
}

/// What became of a connection after the last byte that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The peer sent FIN.
    Orderly,
    /// The peer reset the connection.
    Reset,
}

/// A client connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    parser: Parser,
    closed: Option<Closed>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Connection { stream, parser: Parser::new(Role::Responses { to_head: false }), closed: None })
    }

    pub fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).context("send")
    }

    /// The next response answers a request of this method: whether it has a body depends on that.
    pub fn expect_answer_to(&mut self, method: &str) {
        self.parser.set_role(Role::Responses { to_head: method == "HEAD" });
    }

    /// Sends FIN; reading goes on.
    pub fn half_close(&mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("half-close")
    }

    /// Closes with a reset.
    pub fn reset(self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _within = runtime.enter();
        tokio::net::TcpStream::from_std(self.stream)?.set_zero_linger().context("reset")
    }

    /// Sends a request and reads its response.
    pub fn exchange(&mut self, request: &Request) -> Result<Response> {
        self.expect_answer_to(&request.method);
        self.send(request.bytes())?;
        self.response()
    }

    /// Reads the next response to its end; an error if the peer goes away in the middle of it.
    pub fn response(&mut self) -> Result<Response> {
        let mut response = Response::default();
        match self.read_response(&mut response)? {
            true => Ok(response),
            false => bail!("the peer closed ({:?}) without an answer", self.closed),
        }
    }

    /// Reads what there is of the next response until it ends or the peer goes away: the part that came, and whether it
    /// was whole.
    pub fn partial_response(&mut self) -> (Response, bool) {
        let mut response = Response::default();
        let whole = self.read_response(&mut response).unwrap_or(false);
        (response, whole)
    }

    fn read_response(&mut self, response: &mut Response) -> Result<bool> {
        loop {
            while let Some(event) = self.parser.poll()? {
                if absorb(response, event)? {
                    return Ok(true);
                }
            }
            if !self.read_more()? {
                return match self.parser.closed()? {
                    Some(event) => absorb(response, event),
                    None => Ok(false),
                };
            }
        }
    }

    /// Reads at least `count` bytes of whatever follows (after an upgrade), or fewer if the peer closes.
    pub fn read_raw(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = self.parser.take_rest();
        let mut buffer = [0; 16 * 1024];
        while bytes.len() < count {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = Some(Closed::Orderly);
                    break;
                }
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.closed = Some(Closed::Reset);
                    break;
                }
                Err(error) => return Err(error).context("read"),
            }
        }
        Ok(bytes)
    }

    /// Waits for the peer to close, and says how; an error if it stays open for `deadline` or sends more bytes.
    pub fn wait_closed(&mut self, deadline: Duration) -> Result<Closed> {
        let end = Instant::now() + deadline;
        while self.closed.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the peer keeps the connection open after {deadline:?}");
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.read_more() {
                Ok(_) => {}
                Err(_) if Instant::now() >= end => bail!("the peer keeps the connection open after {deadline:?}"),
                Err(error) => return Err(error),
            }
        }
        self.stream.set_read_timeout(Some(DEADLINE))?;
        if !self.parser.is_idle() {
            let rest = self.parser.take_rest();
            bail!("unexpected bytes before the close: {:?}", String::from_utf8_lossy(&rest));
        }
        self.closed.ok_or_else(|| anyhow!("not closed"))
    }

    fn read_more(&mut self) -> Result<bool> {
        if self.closed.is_some() {
            return Ok(false);
        }
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.closed = Some(Closed::Orderly),
            Ok(n) => {
                self.parser.feed(&buffer[..n]);
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = Some(Closed::Reset),
            Err(error) => return Err(error).context("read a response"),
        }
        Ok(false)
    }
}

/// Adds an event to the response; true once it is whole.
pub(crate) fn absorb(response: &mut Response, event: Event) -> Result<bool> {
    match event {
        Event::Head(head) => {
            let status = head.status()?;
            if status < 200 && status != 101 {
                response.interim.push(status);
                return Ok(false);
            }
            response.status = status;
            response.version = head.start_line.split(' ').next().unwrap_or_default().to_owned();
            response.headers = head.headers;
        }
        Event::Data(data) => response.body.extend_from_slice(&data),
        Event::Trailers(trailers) => response.trailers = trailers,
        Event::End => return Ok(true),
    }
    Ok(false)
}

/// A request, spelled out.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Request {
        let headers = vec![("Host".to_owned(), "test.example".to_owned())];
        Request { method: method.to_owned(), target: target.to_owned(), headers, body: None }
    }

    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// Adds a header.
    pub fn with(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the Host header.
    pub fn host(mut self, host: &str) -> Request {
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        self.headers.insert(0, ("Host".to_owned(), host.to_owned()));
        self
    }

    /// Tells the origin what to do; see [`crate::origin`].
    pub fn origin(self, directive: &str) -> Request {
        self.with("x-origin", directive)
    }

    /// Sets a body, sent with its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Some(body.into());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            out.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        out.push_str("\r\n");
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends the request on a connection of its own.
    pub fn send(&self, address: SocketAddr) -> Result<Response> {
        Connection::open(address)?.exchange(self)
    }
}
