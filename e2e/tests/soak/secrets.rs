//! The soak's TLS: a listener that demands certificates, a cluster that reaches it through our own client side, clients from
//! outside, and secrets in watched files that are renewed, up to the authority, while all of them go on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use outrigger_e2e::bootstrap::{cluster, with};
use outrigger_e2e::tls::{
    Authority, Client, Leaf, TlsConnection, downstream, from_file, shows, upstream, write_secrets,
};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Request, eventually};
use serde_json::{Value, json};

const NAME: &str = "server.test";
/// How many rotations renew the leaf until one changes the authority.
const RENEWALS: u64 = 3;
/// Requests of a connection to the secured listener, so that handshakes go on.
const REQUESTS_MAX: u32 = 25;

/// The secrets in their files, and who holds them.
pub(crate) struct Secrets {
    dir: tempfile::TempDir,
    /// Where the secured listener is.
    inner: SocketAddr,
    authority: Authority,
    visitor: Arc<Mutex<Leaf>>,
    version: u64,
    pub(crate) rotations: u64,
    pub(crate) authorities: u64,
}

impl Secrets {
    pub(crate) fn start() -> Result<Secrets> {
        let authority = Authority::new("first")?;
        let mut secrets = Secrets {
            dir: tempfile::tempdir()?,
            inner: SocketAddr::from(([127, 0, 0, 1], outrigger_e2e::ports::free_port()?)),
            visitor: Arc::new(Mutex::new(leaf(&authority)?)),
            authority,
            version: 0,
            rotations: 0,
            authorities: 0,
        };
        secrets.write_bundle(&secrets.authority.pem())?;
        secrets.write_leaf(&leaf(&secrets.authority)?)?;
        Ok(secrets)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_leaf(&mut self, leaf: &Leaf) -> Result<()> {
        self.version += 1;
        write_secrets(&self.path("leaf.yaml"), &self.version.to_string(), &[leaf.secret("leaf")])
    }

    fn write_bundle(&mut self, pems: &str) -> Result<()> {
        self.version += 1;
        let bundle = json!({"name": "ca", "validation_context": {"trusted_ca": {"inline_string": pems}}});
        write_secrets(&self.path("bundle.yaml"), &self.version.to_string(), &[bundle])
    }

    /// What both sides show and trust.
    fn common(&self) -> Value {
        json!({
            "tls_certificate_sds_secret_configs": [from_file("leaf", &self.path("leaf.yaml"))],
            "validation_context_sds_secret_config": from_file("ca", &self.path("bundle.yaml")),
        })
    }

    /// Puts a listener behind TLS of both sides.
    pub(crate) fn secure(&self, mut listener: Value) -> Value {
        let context = json!({"require_client_certificate": true, "common_tls_context": self.common()});
        listener["address"] = outrigger_e2e::bootstrap::address(self.inner);
        listener["filter_chains"][0]["transport_socket"] = downstream(&context);
        listener
    }

    /// The way to it from within.
    pub(crate) fn cluster(&self, name: &str) -> Value {
        let context = json!({"sni": NAME, "common_tls_context": self.common()});
        let options = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": REQUESTS_MAX},
            "explicit_http_config": {"http_protocol_options": {}},
        });
        let more = json!({
            "transport_socket": upstream(&context),
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        });
        with(cluster(name, &[self.inner]), more)
    }

    /// Renews the leaf, every so often together with its authority; returns once the listener goes by it.
    pub(crate) fn rotate(&mut self) -> Result<()> {
        self.rotations += 1;
        if self.rotations.is_multiple_of(RENEWALS + 1) {
            return self.move_to(Authority::new(&format!("authority {}", self.rotations))?);
        }
        let renewed = leaf(&self.authority)?;
        self.write_leaf(&renewed)?;
        shows(self.inner, &self.client(), &renewed)
    }

    /// As operators do it: both are trusted, then everybody's leaf is of the new one, then the old one goes.
    fn move_to(&mut self, next: Authority) -> Result<()> {
        self.write_bundle(&(self.authority.pem() + &next.pem()))?;
        let moved = leaf(&next)?;
        self.lets_in(&moved, true)?;
        let before = std::mem::replace(&mut *self.visitor.lock().unwrap_or_else(PoisonError::into_inner), moved);
        let renewed = leaf(&next)?;
        self.write_leaf(&renewed)?;
        shows(self.inner, &self.client(), &renewed)?;
        self.write_bundle(&next.pem())?;
        self.authority = next;
        self.authorities += 1;
        self.lets_in(&before, false)
    }

    /// Waits until a client with this leaf is served, or refused.
    fn lets_in(&self, leaf: &Leaf, expected: bool) -> Result<()> {
        let client = Client::named(NAME).with(leaf);
        eventually(DEADLINE, || {
            let answer = client.send(self.inner, &Request::get("/rotation"));
            if answer.is_ok() == expected { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .context("the bundle counts")
    }

    fn client(&self) -> Client {
        Client::named(NAME).with(&self.visitor.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets clients come from outside until [`Visitors::stop`].
    pub(crate) fn visitors(&self) -> Result<Visitors> {
        let (stop, leaf, address) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.visitor), self.inner);
        let theirs = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("visitors".to_owned()).spawn(move || visit(address, &leaf, &theirs))?;
        Ok(Visitors { stop, thread })
    }
}

fn leaf(authority: &Authority) -> Result<Leaf> {
    authority.issue(NAME, "spiffe://mesh/soak")
}

/// Clients with certificates: a few connections are kept over many rotations, others come and go.
pub(crate) struct Visitors {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Visits>,
}

/// What they saw.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    pub(crate) handshakes: u64,
    pub(crate) served: u64,
    pub(crate) failed: Vec<String>,
}

impl Visitors {
    pub(crate) fn stop(self) -> Result<Visits> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the visitors panicked"))
    }
}

const KEPT: usize = 8;
/// A kept connection is replaced once in so many rounds.
const ROUNDS_KEPT: u64 = 100;
const ROUND: Duration = Duration::from_millis(40);

fn visit(address: SocketAddr, leaf: &Mutex<Leaf>, stop: &AtomicBool) -> Visits {
    let mut visits = Visits::default();
    let mut kept: Vec<TlsConnection> = Vec::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) && visits.failed.len() < 20 {
        kept.retain_mut(|connection| {
            let answer = connection.exchange(&Request::get("/kept"));
            visits.count("on a kept connection", answer.map(|response| response.status))
        });
        // Whoever changes the authority waits for a handshake that began with the old one.
        let current = leaf.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Client::named(NAME).with(&current).connect(address).and_then(|mut connection| {
            visits.handshakes += 1;
            Ok((connection.exchange(&Request::get("/new"))?.status, connection))
        });
        drop(current);
        let (status, connection) = fresh.map_or_else(|error| (Err(error), None), |(s, c)| (Ok(s), Some(c)));
        if visits.count("on a new connection", status) && (kept.len() < KEPT || round % ROUNDS_KEPT == 0) {
            kept.truncate(KEPT - 1);
            kept.splice(0..0, connection);
        }
        round += 1;
        std::thread::sleep(ROUND);
    }
    visits
}

impl Visits {
    fn count(&mut self, what: &str, answer: Result<u16>) -> bool {
        let failure = match answer {
            Ok(200) => {
                self.served += 1;
                return true;
            }
            Ok(status) => format!("{what}: status {status}"),
            Err(error) => format!("{what}: {error:#}"),
        };
        self.failed.push(failure);
        false
    }
}
