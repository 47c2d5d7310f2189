//! Connections that rest: what each holds of the proxy's memory after one answer, in cleartext and over TLS 1.3. The kernel's
//! part isn't in it; it is the same for all.

use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use super::measure::rss_kib;
use super::peers::{Kind, Running, start, start_origin, table};
use super::report::Report;
use super::script::Script;
use super::tls::{Identity, start_secure};
use crate::shell::output;

const COUNT: u32 = 10_000;
const COUNT_QUICK: u32 = 2_000;
/// Opened first, so that what every connection needs once is there.
const WARM_UP: u32 = 200;
/// The proxy's and the client's own files beside the connections.
const DESCRIPTORS_BESIDE: u32 = 1_000;

pub(crate) fn run(bench: &Bench) -> Result<Report> {
    let count = if bench.quick { COUNT_QUICK } else { COUNT };
    allow_descriptors(count + DESCRIPTORS_BESIDE)?;
    let origin = start_origin(bench)?;
    let identity = Identity::make(&bench.file("identity"))?;
    let mut report = Report { readable: true, ..Report::default() };
    report.words.push(format!("{:<22} {:>12} {:>12} {:>16}", "", "connections", "MiB added", "KiB a connection"));
    // HAProxy refuses to start without descriptors for twice its connections, and its certificates are files of another form.
    for subject in table(bench, 0).into_iter().filter(|subject| subject.kind != Kind::Haproxy) {
        for kind in ["plain", "tls"] {
            let proxy = match kind {
                "tls" => start_secure(bench, subject, &origin, &identity)?,
                _ => start(bench, subject, &origin, false)?,
            };
            let added_kib = held(&proxy, count, kind).with_context(|| format!("{} {kind}", subject.name))?;
            let each = added_kib / f64::from(count);
            let name = format!("{} {kind}", subject.name);
            report.words.push(format!("{name:<22} {count:>12} {:>12.1} {each:>16.2}", added_kib / 1024.0));
            report.extra.insert(format!("{name} KiB a connection"), each);
            if subject.kind == Kind::Outrigger {
                let limit = if kind == "tls" { 20.0 } else { 4.0 };
                report.target_of(5, &format!("{count} idle connections, {kind}: KiB each"), Some(each), limit);
            }
        }
    }
    Ok(report)
}

/// What so many connections add, in KiB.
fn held(proxy: &Running, count: u32, kind: &str) -> Result<f64> {
    let address = proxy.address;
    let arguments = [address.ip().to_string(), address.port().to_string(), kind.to_owned()];
    let mut client = Script::start("bench_idle.py", &arguments)?;
    client.ask::<u32>(&WARM_UP.to_string())?;
    let before = rss_kib(&proxy.pids());
    let open = client.ask::<u32>(&count.to_string())?;
    anyhow::ensure!(open == WARM_UP + count, "{open} connections are open");
    #[expect(clippy::cast_precision_loss, reason = "memory of at most a few GiB")]
    let added = rss_kib(&proxy.pids()).saturating_sub(before) as f64;
    Ok(added)
}

/// Raises the limit of this process, which the proxies inherit.
fn allow_descriptors(count: u32) -> Result<()> {
    let pid = std::process::id().to_string();
    let soft = output(Command::new("prlimit").args(["--pid", &pid, "--nofile", "--noheadings", "--output", "SOFT"]))?;
    if soft.trim().parse::<u32>().is_ok_and(|soft| soft >= count) {
        return Ok(());
    }
    let limit = format!("--nofile={count}:{count}");
    let raised = output(Command::new("prlimit").args(["--pid", &pid, &limit])).map(|_| ());
    raised.with_context(|| format!("{count} open files are needed: raise the hard limit (ulimit -Hn) and try again"))
}
