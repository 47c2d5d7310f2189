//! The origin's HTTP/1 side.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Directive, Seen, State};
use crate::parser::{Event, Head, Headers, Parser, Role, header};

const CHUNK_BYTES: usize = 16 * 1024;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    parser: Parser,
}

impl Connection {
    /// The next event, `None` when the client closed between two requests.
    async fn event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.parser.poll()? {
                return Ok(Some(event));
            }
            match self.stream.read(&mut self.buffer).await? {
                0 => return self.parser.closed(),
                count => self.parser.feed(&self.buffer[..count]),
            }
        }
    }

    async fn body(&mut self, seen: &mut Seen) -> Result<()> {
        loop {
            match self.event().await? {
                Some(Event::Data(data)) => seen.body.extend_from_slice(&data),
                Some(Event::Trailers(trailers)) => seen.trailers = trailers,
                Some(Event::End) => return Ok(()),
                Some(Event::Head(_)) | None => bail!("a request without an end"),
            }
        }
    }
}

pub(super) async fn serve(stream: TcpStream, state: Arc<State>, number: u64) -> Result<()> {
    let buffer = vec![0; CHUNK_BYTES];
    let mut connection = Connection { stream, buffer, parser: Parser::new(Role::Requests) };
    while let Some(Event::Head(head)) = connection.event().await? {
        if !exchange(&mut connection, head, &state, number).await? {
            break;
        }
    }
    Ok(())
}

/// One request; false if the connection ends with it.
async fn exchange(connection: &mut Connection, head: Head, state: &State, number: u64) -> Result<bool> {
    let mut parts = head.start_line.split(' ');
    let mut seen = Seen {
        method: parts.next().unwrap_or_default().to_owned(),
        path: parts.next().unwrap_or_default().to_owned(),
        version: "HTTP/1.1",
        headers: head.headers,
        connection: number,
        whole: true,
        ..Seen::default()
    };
    let directive = state.directive(&seen.path, &seen.headers);
    if header(&seen.headers, "upgrade").is_some() && directive.status.is_none() {
        state.record(&seen);
        return upgrade(connection, &seen).await.map(|()| false);
    }
    if !directive.early {
        if header(&seen.headers, "expect").is_some() {
            connection.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if let Err(error) = connection.body(&mut seen).await {
            seen.whole = false;
            state.record(&seen);
            return Err(error);
        }
    }
    state.record(&seen);
    if directive.gate_after.is_none() {
        state.pass_gate(&directive).await;
    }
    if directive.silent {
        return wait_for_close(connection).await.map(|()| false);
    }
    if let Some(name) = &directive.raw {
        connection.stream.write_all(&state.script(name)).await?;
        connection.stream.shutdown().await?;
        return wait_for_close(connection).await.map(|()| false);
    }
    let goes_on = respond(connection, &seen, &directive, state).await?;
    if directive.early {
        // The body that nobody waited for: read it, so that the connection stays usable.
        connection.body(&mut seen).await?;
    }
    Ok(goes_on)
}

async fn respond(connection: &mut Connection, seen: &Seen, directive: &Directive, state: &State) -> Result<bool> {
    let (mut headers, body) = state.answer(seen, directive);
    let status = directive.status();
    let has_body = seen.method != "HEAD" && status != 204 && status != 304;
    let chunked = directive.chunked || directive.trailers;
    if chunked {
        headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    } else if status != 204 {
        headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    if directive.close {
        headers.push(("connection".to_owned(), "close".to_owned()));
    }
    let mut out = Vec::new();
    if let Some(interim) = directive.interim {
        out.extend_from_slice(format!("HTTP/1.1 {interim} Interim\r\nlink: </style>\r\n\r\n").as_bytes());
    }
    write_head(&mut out, status, &headers);
    let body = if has_body { body.as_slice() } else { &[] };
    match directive.break_after().filter(|_| has_body) {
        Some(at) => {
            let (before, after) = body.split_at(at.min(body.len()));
            write_body(&mut out, before, chunked);
            connection.stream.write_all(&out).await?;
            if directive.gate_after.is_none() {
                return end_abruptly(connection, directive.reset.is_some()).await.map(|()| false);
            }
            state.pass_gate(directive).await;
            out.clear();
            write_body(&mut out, after, chunked);
        }
        None => write_body(&mut out, body, chunked),
    }
    if chunked && has_body {
        out.extend_from_slice(if directive.trailers { b"0\r\nx-trailer: end\r\n\r\n" } else { b"0\r\n\r\n" });
    }
    connection.stream.write_all(&out).await?;
    Ok(!directive.close)
}

fn write_head(out: &mut Vec<u8>, status: u16, headers: &Headers) {
    out.extend_from_slice(format!("HTTP/1.1 {status} Test\r\n").as_bytes());
    for (name, value) in headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn write_body(out: &mut Vec<u8>, body: &[u8], chunked: bool) {
    if !chunked {
        out.extend_from_slice(body);
        return;
    }
    for chunk in body.chunks(CHUNK_BYTES) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
}

async fn end_abruptly(connection: &mut Connection, reset: bool) -> Result<()> {
    if reset {
        // Dropping a socket with zero linger sends RST instead of FIN.
        #[expect(deprecated, reason = "the linger is zero, so the close doesn't block")]
        connection.stream.set_linger(Some(Duration::ZERO))?;
    } else {
        connection.stream.shutdown().await?;
    }
    Ok(())
}

async fn wait_for_close(connection: &mut Connection) -> Result<()> {
    while connection.stream.read(&mut connection.buffer).await? > 0 {}
    Ok(())
}

/// Answers 101 and echoes all bytes until the client closes.
async fn upgrade(connection: &mut Connection, seen: &Seen) -> Result<()> {
    let protocol = header(&seen.headers, "upgrade").unwrap_or_default();
    let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    connection.stream.write_all(head.as_bytes()).await?;
    // The request has no body, so what is left over already belongs to the other protocol.
    let mut bytes = connection.parser.take_rest();
    connection.stream.write_all(&bytes).await?;
    bytes.resize(CHUNK_BYTES, 0);
    loop {
        match connection.stream.read(&mut bytes).await? {
            0 => return Ok(connection.stream.shutdown().await?),
            count => connection.stream.write_all(&bytes[..count]).await?,
        }
    }
}
