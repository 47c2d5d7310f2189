//! The proxies of a benchmark, as a table: how each is configured, started and found.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::configs::{self, Filters};
use super::{Bench, measure};
use crate::paths::{self, which};
use crate::shell::{Guard, wait_for};

/// The proxy's core.
pub(crate) const PROXY_CORE: &str = "0";
/// The sizes of `/bytes/N` at the origin.
pub(crate) const BODIES_KIB: [usize; 3] = [1, 16, 256];
/// The core of the origin and of the load.
pub(crate) const LOAD_CORE: &str = "1";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Outrigger,
    Nginx,
    Haproxy,
    Envoy,
}

/// One row of a table: a program with so many filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) filters: usize,
    /// What the filters do: a word of the bench guest (`e2e/peers/bench`); else header-policy.
    pub(crate) job: Option<&'static str>,
    /// The path that the load asks for.
    pub(crate) path: &'static str,
}

pub(crate) const fn subject(name: &'static str, kind: Kind, filters: usize) -> Subject {
    Subject { name, kind, filters, job: None, path: "/" }
}

/// Every row that can be measured; the name before a blank is the program's.
pub(crate) const TABLE: [Subject; 8] = [
    subject("nginx", Kind::Nginx, 0),
    subject("outrigger", Kind::Outrigger, 0),
    subject("outrigger +1 filter", Kind::Outrigger, 1),
    subject("outrigger +4 filters", Kind::Outrigger, 4),
    subject("haproxy", Kind::Haproxy, 0),
    subject("envoy", Kind::Envoy, 0),
    subject("envoy +1 filter", Kind::Envoy, 1),
    subject("envoy +4 filters", Kind::Envoy, 4),
];

/// The rows of a scenario: those with at most so many filters, of the wanted programs and always the control.
pub(crate) fn table(bench: &Bench, filters_max: usize) -> Vec<Subject> {
    TABLE.into_iter().filter(|subject| subject.filters <= filters_max && bench.wants_row(subject)).collect()
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Running {
    guard: Guard,
    pub(crate) address: SocketAddr,
    /// `http`, or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) path: &'static str,
}

impl Running {
    fn new(guard: Guard, address: SocketAddr) -> Running {
        Running { guard, address, scheme: "http", path: "/" }
    }

    /// The same, of a proxy whose clients speak TLS.
    pub(crate) fn over_tls(self) -> Running {
        Running { scheme: "https", ..self }
    }

    /// The process with its workers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        measure::family(self.guard.pid())
    }
}

/// The origin's ports.
#[derive(Debug)]
pub(crate) struct Origin {
    _guard: Guard,
    pub(crate) h1: u16,
    pub(crate) h2: u16,
}

/// A command pinned to a core.
pub(crate) fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

fn program(name: &str) -> Result<PathBuf> {
    which(name).with_context(|| format!("{name} is not installed: cargo xtask setup --for bench"))
}

/// A port on which nothing listens now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn wait_listening(guard: &mut Guard, port: u16, log: &Path) -> Result<()> {
    let ready = wait_for(Duration::from_secs(20), "listening", || {
        if !guard.is_running() {
            return Some(false);
        }
        TcpStream::connect(local(port)).is_ok().then_some(true)
    })?;
    if !ready {
        anyhow::bail!("it ended:\n{}", std::fs::read_to_string(log).unwrap_or_default());
    }
    Ok(())
}

pub(crate) fn start_origin(bench: &Bench) -> Result<Origin> {
    start_named_origin(bench, "origin", configs::ORIGIN_BODY)
}

/// Another one, which a client can tell by its body.
pub(crate) fn start_other_origin(bench: &Bench) -> Result<Origin> {
    start_named_origin(bench, "other-origin", configs::OTHER_ORIGIN_BODY)
}

fn start_named_origin(bench: &Bench, name: &str, body: &str) -> Result<Origin> {
    let (h1, h2) = (free_port()?, free_port()?);
    let bytes = bench.file(name).join("bytes");
    std::fs::create_dir_all(&bytes)?;
    for kib in BODIES_KIB {
        std::fs::write(bytes.join(kib.to_string()), vec![b'b'; kib * 1024])?;
    }
    let guard = start_nginx(bench, name, LOAD_CORE, h1, |dir| configs::nginx_origin(dir, h1, h2, body))?;
    Ok(Origin { _guard: guard, h1, h2 })
}

fn start_nginx(bench: &Bench, name: &str, core: &str, port: u16, config: impl Fn(&Path) -> String) -> Result<Guard> {
    let dir = bench.file(name);
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config(&dir))?;
    let log = dir.join("log");
    let mut guard = Guard::spawn(pinned(core, &program("nginx")?).arg("-p").arg(&dir).arg("-c").arg(&file), &log)?;
    wait_listening(&mut guard, port, &log).with_context(|| format!("nginx ({name})"))?;
    Ok(guard)
}

/// Starts a row's proxy in front of the origin and waits until it serves.
pub(crate) fn start(bench: &Bench, subject: Subject, origin: &Origin, http2: bool) -> Result<Running> {
    let port = if http2 { origin.h2 } else { origin.h1 };
    let running = match subject.kind {
        Kind::Nginx => {
            start_nginx_proxy(bench, "nginx-proxy", |dir, own| configs::nginx_proxy(dir, own, origin.h1, http2))
        }
        Kind::Haproxy => {
            let own = free_port()?;
            let (file, log) = (bench.file("haproxy.cfg"), bench.file("haproxy.log"));
            std::fs::write(&file, configs::haproxy(own, port, http2))?;
            let mut command = pinned(PROXY_CORE, &program("haproxy")?);
            let mut guard = Guard::spawn(command.arg("-db").arg("-f").arg(&file), &log)?;
            wait_listening(&mut guard, own, &log).context("haproxy")?;
            Ok(Running::new(guard, local(own)))
        }
        Kind::Outrigger | Kind::Envoy => {
            let module = if subject.job.is_some() { &bench.guest } else { &bench.header_policy };
            let filters = Filters { count: subject.filters, module, job: subject.job };
            let config = configs::bootstrap(port, http2, filters);
            start_proxy(bench, subject, &config)
        }
    }?;
    Ok(Running { path: subject.path, ..running })
}

/// Starts Envoy or our proxy with a bootstrap and waits until it serves.
pub(crate) fn start_proxy(bench: &Bench, subject: Subject, config: &str) -> Result<Running> {
    let (mut guard, admin) = start_envoy_like(bench, subject, config)?;
    wait_ready(&mut guard, admin, Duration::from_secs(60)).context(subject.name)?;
    let address = listener(admin).with_context(|| subject.name)?;
    Ok(Running::new(guard, address))
}

/// Starts nginx as a proxy; `config` is told the port.
pub(crate) fn start_nginx_proxy(bench: &Bench, name: &str, config: impl Fn(&Path, u16) -> String) -> Result<Running> {
    let own = free_port()?;
    let guard = start_nginx(bench, name, PROXY_CORE, own, |dir| config(dir, own))?;
    Ok(Running::new(guard, local(own)))
}

/// Starts Envoy or our proxy with a bootstrap; returns the admin's address as soon as it is known.
pub(crate) fn start_envoy_like(bench: &Bench, subject: Subject, config: &str) -> Result<(Guard, SocketAddr)> {
    let dir = bench.file(&subject.name.replace([' ', '+'], "-"));
    std::fs::create_dir_all(&dir)?;
    let (file, admin, log) = (dir.join("bootstrap.yaml"), dir.join("admin"), dir.join("log"));
    std::fs::write(&file, config)?;
    let _ = std::fs::remove_file(&admin);
    let program = if subject.kind == Kind::Envoy { paths::peer("envoy") } else { bench.outrigger.clone() };
    let mut command = pinned(PROXY_CORE, &program);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "-l", "warning", "--use-dynamic-base-id"]);
    command.arg("--admin-address-path").arg(&admin);
    if subject.kind == Kind::Outrigger {
        command.arg("--wasm-cache-dir").arg(dir.join("cache"));
    }
    let mut guard = Guard::spawn(&mut command, &log)?;
    let address = wait_for(Duration::from_secs(60), "the admin's address", || {
        if !guard.is_running() {
            return Some(Err(anyhow::anyhow!("it ended:\n{}", std::fs::read_to_string(&log).unwrap_or_default())));
        }
        std::fs::read_to_string(&admin).ok()?.trim().parse().ok().map(Ok)
    });
    let address = address.with_context(|| subject.name)?.with_context(|| subject.name)?;
    Ok((guard, address))
}

pub(crate) fn wait_ready(guard: &mut Guard, admin: SocketAddr, deadline: Duration) -> Result<()> {
    let ready = wait_for(deadline, "ready", || {
        if !guard.is_running() {
            return Some(false);
        }
        let (status, _) = get(admin, "/ready").ok()?;
        (status == 200).then_some(true)
    })?;
    if ready { Ok(()) } else { Err(anyhow::anyhow!("the proxy ended while it started")) }
}

fn listener(admin: SocketAddr) -> Result<SocketAddr> {
    named_listener(admin, "main")
}

/// The address of a listener.
pub(crate) fn named_listener(admin: SocketAddr, name: &str) -> Result<SocketAddr> {
    let (_, body) = get(admin, "/listeners?format=json")?;
    let all: serde_json::Value = serde_json::from_str(&body)?;
    let statuses = all["listener_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = statuses.iter().find(|status| status["name"] == name);
    let socket = &found.with_context(|| format!("no listener {name} in {body}"))?["local_address"]["socket_address"];
    let address = format!("{}:{}", socket["address"].as_str().unwrap_or_default(), socket["port_value"]);
    address.parse().with_context(|| format!("the listener's address in {body}"))
}

/// A small HTTP/1.0-style GET: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (head, body) = exchange(address, path)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if is_chunked { unchunk(&body) } else { body }))
}

/// The value of a response header.
pub(crate) fn get_header(address: SocketAddr, path: &str, name: &str) -> Result<Option<String>> {
    let (head, _) = exchange(address, path)?;
    let named =
        |line: &str| line.split_once(": ").filter(|field| field.0.eq_ignore_ascii_case(name)).map(|f| f.1.to_owned());
    Ok(head.lines().find_map(named))
}

fn exchange(address: SocketAddr, path: &str) -> Result<(String, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("a head")?;
    Ok((head.to_owned(), body.to_owned()))
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        out.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    out
}
