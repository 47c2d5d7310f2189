//! What can be seen of one exchange, without what differs from run to run.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use outrigger_e2e::Request;
use outrigger_e2e::origin::Seen;
use serde_json::Value;

/// The client's, the log's and the origin's view.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    status: String,
    headers: Vec<String>,
    body: String,
    trailers: Vec<String>,
    /// The request that the origin echoed.
    origin: Vec<String>,
    pub(crate) log: Vec<String>,
    /// A copy of the request, as the other origin saw it.
    pub(crate) copy: Vec<String>,
    /// Requests that reached an origin.
    pub(crate) attempts: usize,
}

/// Values that differ from run to run; that they are there is compared.
const MASKED: &[&str] = &["date", "x-envoy-upstream-service-time", "x-request-id"];

impl Observed {
    pub(crate) fn of(address: SocketAddr, request: &Request) -> Observed {
        let (response, whole) = match super::send(address, request) {
            Ok(found) => found,
            Err(error) => return Observed { status: error, ..Observed::default() },
        };
        let mut observed = Observed {
            status: format!("{}{}", response.status, if whole { "" } else { " (cut short)" }),
            headers: lines(&response.headers, address),
            trailers: lines(&response.trailers, address),
            ..Observed::default()
        };
        match response.json() {
            Ok(echo) if echo["origin"].is_string() => {
                // Its length follows from what the origin saw.
                observed.headers.retain(|line| !line.starts_with("content-length:"));
                observed.origin = origin_lines(&echo, address);
            }
            _ => observed.body = response.text(),
        }
        observed
    }

    /// A line for each field that differs: ours, then theirs.
    pub(crate) fn differences(&self, other: &Observed) -> Vec<String> {
        let mut found = Vec::new();
        let mut text = |field: &str, ours: &str, theirs: &str| {
            if ours != theirs {
                found.push(format!("  {field}: {ours:?}, Envoy: {theirs:?}"));
            }
        };
        text("status", &self.status, &other.status);
        text("body", &self.body, &other.body);
        text("attempts", &self.attempts.to_string(), &other.attempts.to_string());
        for (field, ours, theirs) in [
            ("headers", &self.headers, &other.headers),
            ("trailers", &self.trailers, &other.trailers),
            ("origin", &self.origin, &other.origin),
            ("log", &self.log, &other.log),
            ("copy", &self.copy, &other.copy),
        ] {
            let only = |a: &Vec<String>, b: &Vec<String>| -> Vec<String> {
                let mut rest = b.clone();
                a.iter()
                    .filter(|line| match rest.iter().position(|other| other == *line) {
                        Some(at) => {
                            rest.remove(at);
                            false
                        }
                        None => true,
                    })
                    .cloned()
                    .collect()
            };
            let (ours, theirs) = (only(ours, theirs), only(theirs, ours));
            if !ours.is_empty() || !theirs.is_empty() {
                found.push(format!("  {field}: only ours {ours:?}, only Envoy's {theirs:?}"));
            }
        }
        found
    }
}

fn lines(headers: &[(String, String)], address: SocketAddr) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| line(&name.to_ascii_lowercase(), value, address)).collect();
    lines.sort();
    lines
}

fn line(name: &str, value: &str, address: SocketAddr) -> String {
    if MASKED.contains(&name) {
        return format!("{name}: *");
    }
    // What is left of the time when another attempt begins.
    if name == "x-envoy-expected-rq-timeout-ms" {
        match value.parse().unwrap_or(0_u32) {
            14_000..15_000 => return format!("{name}: 15000"),
            300..700 => return format!("{name}: 700"),
            _ => {}
        }
    }
    // Of a client on loopback Envoy tells the host's own address.
    if name == "x-forwarded-for"
        && let Some((before, own)) = value.rsplit_once(',').or(Some(("", value)))
        && own.parse::<IpAddr>().is_ok_and(|ip| ip == IpAddr::from([127, 0, 0, 1]) || Some(ip) == host_ip())
    {
        return format!("{name}: {before},*");
    }
    format!("{name}: {}", value.replace(&address.port().to_string(), "PORT"))
}

/// The address that this host would be seen with; nothing is sent.
fn host_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn origin_lines(echo: &Value, address: SocketAddr) -> Vec<String> {
    let text = |field: &str| format!("{field} {}", echo[field].as_str().unwrap_or_default());
    let mut out = vec![text("origin"), text("method"), text("path"), text("version"), text("body")];
    for list in ["headers", "trailers"] {
        let pairs = echo[list].as_array().cloned().unwrap_or_default();
        let pair = |pair: &Value| {
            (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].as_str().unwrap_or_default().to_owned())
        };
        let pairs: Vec<(String, String)> = pairs.iter().map(pair).collect();
        out.extend(lines(&pairs, address).into_iter().map(|line| format!("{list} {line}")));
    }
    out
}

/// A request as an origin saw it.
pub(crate) fn seen_lines(seen: &Seen, address: SocketAddr) -> Vec<String> {
    let mut out = vec![format!("{} {}", seen.method, seen.path), String::from_utf8_lossy(&seen.body).into_owned()];
    out.extend(lines(&seen.headers, address));
    out
}

/// What of an access-log record is compared.
pub(crate) fn access_line<'a>(record: &Value, listeners: impl Iterator<Item = &'a SocketAddr>) -> Vec<String> {
    let fields = ["status", "route", "cluster", "attempts", "path", "authority", "received", "remote"];
    let mut lines: Vec<String> = fields.iter().map(|field| format!("{field}={}", record[field])).collect();
    // Envoy tells them in the order in which they were set.
    let mut flags: Vec<&str> = record["flags"].as_str().unwrap_or_default().split(',').collect();
    flags.sort_unstable();
    lines.push(format!("flags={}", flags.join(",")));
    for listener in listeners {
        let port = format!(":{}\"", listener.port());
        lines.iter_mut().for_each(|line| *line = line.replace(&port, ":PORT\""));
    }
    lines
}
