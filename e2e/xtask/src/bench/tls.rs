//! TLS 1.3 towards clients: what it adds to a request on a kept connection, and what a full handshake costs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::configs::{self, Filters};
use super::http1::{run_rounds, wrk_with};
use super::peers::{Kind, Origin, Running, Subject, start, start_nginx_proxy, start_origin, start_proxy, subject};
use super::report::{Report, Row};
use crate::shell::run;

const PLAIN: [Subject; 3] =
    [subject("nginx", Kind::Nginx, 0), subject("outrigger", Kind::Outrigger, 0), subject("envoy", Kind::Envoy, 0)];
const SECURE: [Subject; 3] = [
    subject("nginx tls", Kind::Nginx, 0),
    subject("outrigger tls", Kind::Outrigger, 0),
    subject("envoy tls", Kind::Envoy, 0),
];

/// 32 kept connections, in cleartext and over TLS.
pub(crate) fn keep_alive(bench: &Bench) -> Result<Report> {
    let subjects: Vec<Subject> = PLAIN.into_iter().chain(SECURE).collect();
    let rows = rounds(bench, &subjects, &[])?;
    let mut report = Report::new(rows);
    let added = |report: &Report, name: &str| report.added(&format!("{name} tls"), name).map(|s| s.median);
    let (ours, theirs) = (added(&report, "outrigger"), added(&report, "envoy"));
    report.target_of(5, "TLS 1.3 adds to a request, us", ours, 3.0);
    report.extra.extend(theirs.map(|added| ("TLS adds to a request of Envoy, us".to_owned(), added)));
    Ok(report)
}

/// A connection, and so a full handshake with an ECDSA key, for each request. How many a core can do is the inverse of what one
/// costs; how many there were a second is bounded by the client, which has as much to do.
pub(crate) fn handshakes(bench: &Bench) -> Result<Report> {
    let rows = rounds(bench, &SECURE, &["-H", "Connection: close"])?;
    let mut report = Report::new(rows);
    let ratio = report.ratio("outrigger tls", "envoy tls").map(|ratio| ratio.median);
    report.target_of(5, "handshakes/s of a core: Envoy's over ours", ratio, 1.0);
    let rates: Vec<(&str, f64)> = report.rows.iter().map(|row| (row.subject.name, 1e6 / row.cost().median)).collect();
    for (name, rate) in rates {
        report.words.push(format!("{name}: {rate:.0} handshakes a second of a core's time"));
        report.extra.insert(format!("{name} handshakes per core second"), rate);
    }
    Ok(report)
}

fn rounds(bench: &Bench, subjects: &[Subject], arguments: &[&str]) -> Result<Vec<Row>> {
    let wanted: Vec<Subject> = subjects.iter().filter(|subject| bench.wants_row(subject)).copied().collect();
    let origin = start_origin(bench)?;
    let identity = Identity::make(&bench.file("identity"))?;
    run_rounds(
        bench,
        &wanted,
        |subject| match subject.name.ends_with(" tls") {
            true => start_secure(bench, subject, &origin, &identity),
            false => start(bench, subject, &origin, false),
        },
        |running, window: Duration| wrk_with(running, 32, window, arguments),
    )
}

/// A self-signed ECDSA certificate.
pub(super) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    pub(super) fn make(dir: &Path) -> Result<Identity> {
        std::fs::create_dir_all(dir)?;
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
        command.args(["-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test", "-out"]);
        run(command.arg(&certificate).arg("-keyout").arg(&key)).context("openssl")?;
        Ok(Identity { certificate, key })
    }
}

pub(super) fn start_secure(bench: &Bench, subject: Subject, origin: &Origin, identity: &Identity) -> Result<Running> {
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let running = match subject.kind {
        Kind::Outrigger | Kind::Envoy => {
            let plain =
                configs::bootstrap(origin.h1, false, Filters { count: 0, module: &bench.header_policy, job: None });
            let context = format!(
                "    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
          common_tls_context:
            tls_params: {{tls_minimum_protocol_version: TLSv1_3}}
            tls_certificates: [{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}]
      filters:"
            );
            start_proxy(bench, subject, &plain.replacen("    - filters:", &context, 1))?
        }
        Kind::Nginx | Kind::Haproxy => start_nginx_proxy(bench, "nginx-tls", |dir, port| {
            let options = format!(
                "ssl backlog=4096; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_certificate {certificate}; \
                 ssl_certificate_key {key};"
            );
            configs::nginx_proxy(dir, port, origin.h1, false).replacen("backlog=4096;", &options, 1)
        })?,
    };
    Ok(running.over_tls())
}
