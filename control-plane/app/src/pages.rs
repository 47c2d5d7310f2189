//! The HTTP side: modules for proxies; metrics, health and status for people and programs.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_model::{Digest, ObjectId};
use outrigger_xds_server::{AdsServer, Hub, sample};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::precompile::Precompiler;
use crate::rollout::Staging;
use crate::state::State;
use crate::status;

/// Connections at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long answers under way get at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) hub: Arc<Hub>,
    pub(crate) ads: AdsServer,
    pub(crate) state: Arc<State>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) precompiler: Option<Arc<Precompiler>>,
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    /// Serves until `closing`.
    pub(crate) async fn serve(self, listener: TcpListener, mut closing: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &places) => accepted,
                Some(_) = connections.join_next() => continue,
                () = closed(&mut closing) => break,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most often: some will come back.
                    warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let pages = self.clone();
            let mut closing = closing.clone();
            connections.spawn(async move {
                let _place = place;
                let service = service_fn(move |request| {
                    let pages = pages.clone();
                    async move { Ok::<_, Infallible>(pages.answer(&request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                let result = tokio::select! {
                    result = &mut connection => result,
                    () = closed(&mut closing) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = result {
                    debug!("http: {error}");
                }
            });
        }
        drop(listener);
        let finish = async { while connections.join_next().await.is_some() {} };
        // Those who are still reading are cut off.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, finish).await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let path = request.uri().path();
        if let Some(digest) = path.strip_prefix("/modules/") {
            return self.module(digest, request);
        }
        if let Some(rest) = path.strip_prefix("/machine-code/") {
            return self.machine_code(rest).await;
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.state.ready() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            "/metrics" => self.metrics(),
            "/v1/proxies" => json(&self.ads.proxies()),
            "/v1/resources" => {
                let proxies = self.ads.proxies();
                let rollout = |id: &ObjectId| self.staging.shown(id);
                json(&self.hub.index().map_or_else(Vec::new, |index| status::resources(&index, &proxies, rollout)))
            }
            "/v1/problems" => json(&self.state.problems()),
            "/" => text(StatusCode::OK, INDEX),
            _ => text(StatusCode::NOT_FOUND, INDEX),
        }
    }

    /// The bytes never change under their digest.
    fn module(&self, digest: &str, request: &Request<Incoming>) -> Answer {
        let parsed = digest.starts_with("sha256:").then(|| digest.parse::<Digest>().ok()).flatten();
        let Some(module) = parsed.and_then(|digest| self.hub.module(&digest)) else {
            return text(StatusCode::NOT_FOUND, "no filter uses a module with this digest\n");
        };
        let tag = format!("\"sha256:{}\"", module.sha256());
        let known = request.headers().get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let is_known = known.flat_map(|value| value.split(',')).any(|value| value.trim() == tag || value.trim() == "*");
        let (status, body) = match is_known {
            true => (StatusCode::NOT_MODIFIED, Bytes::new()),
            false => (StatusCode::OK, module.bytes().clone()),
        };
        let mut answer = response(status, "application/wasm", body);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        answer
    }

    /// `sha256:HEX/ENGINE`.
    async fn machine_code(&self, path: &str) -> Answer {
        let parsed = path.split_once('/').filter(|(digest, _)| digest.starts_with("sha256:"));
        let parsed = parsed.and_then(|(digest, engine)| Some((digest.parse::<Digest>().ok()?, engine)));
        let code = match (&self.precompiler, parsed) {
            (Some(precompiler), Some((digest, engine))) => precompiler.get(&digest, engine).await,
            _ => None,
        };
        match code {
            Some(code) => response(StatusCode::OK, "application/octet-stream", code),
            None => text(StatusCode::NOT_FOUND, "there is no machine code of this module for this engine\n"),
        }
    }

    fn metrics(&self) -> Answer {
        let mut page = self.ads.metrics();
        let numbers = self.state.numbers();
        let connected = self.ads.proxies().iter().filter(|proxy| proxy.disconnected_at.is_none()).count();
        let name = "outrigger_config_problems";
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# HELP {name} Problems of the folder.\n# TYPE {name} gauge");
        for (severity, count) in [("error", numbers.errors), ("warning", numbers.warnings)] {
            let _ = writeln!(page, "{name}{{severity=\"{severity}\"}} {count}");
        }
        let mut add = |name: &str, help: &str, kind: &str, value: f64| sample(&mut page, name, help, kind, value);
        add("outrigger_proxies_connected", "Connected proxies.", "gauge", connected as f64);
        add("outrigger_config_generation", "Generations since the start.", "gauge", numbers.generation as f64);
        add("outrigger_config_loads_total", "Times that the folder was read.", "counter", numbers.loads as f64);
        let failed = numbers.failed_loads as f64;
        add("outrigger_config_failed_loads_total", "Times that it had errors.", "counter", failed);
        if let Some(age) = numbers.last_good_age {
            add("outrigger_config_last_good_age_seconds", "Since the folder was good the last time.", "gauge", age);
        }
        if let Some(precompiler) = &self.precompiler {
            let counts = precompiler.counts();
            for (name, help, count) in [
                ("compiled", "Modules that were compiled for the fleet.", &counts.compiled),
                ("failed", "Modules that could not be.", &counts.failed),
                ("served", "Times that machine code was served.", &counts.served),
                ("not_there", "Times that there was none for who asked.", &counts.not_there),
            ] {
                let name = format!("outrigger_machine_code_{name}_total");
                add(&name, help, "counter", count.load(Ordering::Relaxed) as f64);
            }
        }
        self.rollouts(&mut page);
        response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.into())
    }
}

impl Pages {
    /// The share of each new revision; -1: rolled back.
    fn rollouts(&self, page: &mut String) {
        let Some(index) = self.hub.index() else { return };
        let name = "outrigger_rollout_percent";
        let mut samples = String::new();
        for id in index.objects().filters.keys() {
            let Some(shown) = self.staging.shown(id) else { continue };
            let percent = match shown.state.as_str() {
                "RolledBack" => -1,
                "Complete" => 100,
                _ => i32::from(shown.percent.unwrap_or(0)),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(samples, "{name}{{filter=\"{id}\"}} {percent}");
        }
        if !samples.is_empty() {
            let help = "Share of a filter's newest revision; -1: rolled back.";
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{samples}");
        }
    }
}

const INDEX: &str = "\
/healthz         the process is up
/readyz          there is a configuration to serve
/metrics         Prometheus
/v1/proxies      where each proxy stands
/v1/resources    the status of what you wrote
/v1/problems     what is wrong with the folder
/modules/sha256:HEX
/machine-code/sha256:HEX/ENGINE
";

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error says that whoever closes has gone, which is the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, body: &str) -> Answer {
    response(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            response(StatusCode::OK, "application/json", body.into())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}
