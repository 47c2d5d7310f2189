//! A filter that uses every part of the SDK, on the test host.

use std::rc::Rc;
use std::time::Duration;

use outrigger_filter_sdk::metric::{Counter, Gauge, Histogram};
use outrigger_filter_sdk::shared::{self, Step, UpdateError};
use outrigger_filter_sdk::testing::TestHost;
use outrigger_filter_sdk::{
    Body, ConfigError, Flow, Headers, HostError, HttpFilter, Plugin, Problem, Reply, Request, Response, clock, log,
    property,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    stamp: String,
}

struct Everything {
    stamp: String,
    streams: Counter,
    live: Gauge,
    sizes: Histogram,
}

impl Plugin for Everything {
    type Config = Config;
    type Stream = Stream;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.stamp.is_empty() {
            return Err(ConfigError::at("stamp", "is empty"));
        }
        let (streams, live) = (Counter::define("streams"), Gauge::define("live"));
        Ok(Self { stamp: config.stamp, streams, live, sizes: Histogram::define("sizes") })
    }

    fn stream(self: &Rc<Self>) -> Stream {
        Stream { plugin: Rc::clone(self) }
    }
}

struct Stream {
    plugin: Rc<Everything>,
}

impl HttpFilter for Stream {
    fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
        self.plugin.streams.increment();
        self.plugin.live.set(7);
        let headers = request.headers();
        match headers.get(":path")?.as_deref() {
            Some(b"/reply") => return Ok(Flow::Reply(Reply::new(302).header("location", "/").details("moved"))),
            Some(b"/problem") => return Ok(Flow::Reply(Problem::new(403).detail("no").reply().grpc_status(7))),
            Some(b"/forbidden-status") => return Ok(Flow::Reply(Reply::new(99))),
            Some(b"/bad-value") => headers.set("x-stamp", "a\r\nb: c")?,
            _ => {}
        }
        headers.overwrite("x-stamp", &self.plugin.stamp)?;
        headers.add("x-time", clock::since_epoch()?.as_secs().to_string())?;
        headers.add("x-source", property::source_address()?.unwrap_or_else(|| b"none".to_vec()))?;
        headers.add("x-path", property::get(&["request", "path"])?.unwrap_or_default())?;
        headers.add("x-count", headers.all()?.iter().count().to_string())?;
        headers.add("x-end", request.end_of_stream().to_string())?;
        Ok(Flow::Continue)
    }

    fn on_request_body(&mut self, body: &mut Body) -> Result<Flow, HostError> {
        if !body.end_of_stream() {
            return Ok(Flow::Pause);
        }
        self.plugin.sizes.record(body.len() as u64);
        let upper = body.read(0, body.len())?.to_ascii_uppercase();
        body.replace(&upper)?;
        body.prepend(b"<")?;
        body.append(b">")?;
        Ok(Flow::Continue)
    }

    fn on_request_trailers(&mut self, trailers: Headers) -> Result<Flow, HostError> {
        trailers.set("x-trailer", "seen").map(|()| Flow::Continue)
    }

    fn on_response_headers(&mut self, response: &mut Response) -> Result<Flow, HostError> {
        response.headers().add("x-stamp", &self.plugin.stamp)?;
        response.headers().remove("server")?;
        Ok(Flow::Continue)
    }

    fn on_response_body(&mut self, body: &mut Body) -> Result<Flow, HostError> {
        Ok(if body.read(0, 6)? == b"secret" { Flow::Reply(Reply::new(500)) } else { Flow::Continue })
    }

    fn on_response_trailers(&mut self, trailers: Headers) -> Result<Flow, HostError> {
        trailers.remove("x-internal").map(|()| Flow::Continue)
    }

    fn on_log(&mut self) {
        log::info("over");
    }
}

outrigger_filter_sdk::register!(Everything);

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":path", "/"), (":authority", "a"), ("x-stamp", "1"), ("X-Stamp", "2")];

fn host() -> TestHost<Everything> {
    TestHost::with_config(r#"{"stamp": "s1"}"#)
}

#[test]
fn configuration() {
    let mut host = TestHost::<Everything>::new();
    assert_eq!(host.configure("{}").unwrap_err(), "invalid configuration: stamp: missing");
    assert_eq!(host.configure(r#"{"stamp": ""}"#).unwrap_err(), "invalid configuration: stamp: is empty");
    assert_eq!(host.take_logs().iter().map(|(level, _)| *level).collect::<Vec<_>>(), [4, 4]);
    host.configure(r#"{"stamp": "a"}"#).unwrap();
    let mut running = host.request(GET);
    // A refused configuration leaves the one before; a new one is for new streams.
    host.configure("[").unwrap_err();
    assert_eq!(host.request(GET).request_header("x-stamp"), ["a"]);
    host.configure(r#"{"stamp": "b"}"#).unwrap();
    assert_eq!(host.request(GET).request_header("x-stamp"), ["b"]);
    assert_eq!(running.respond(&[(":status", "200")]).response_header("x-stamp"), ["a"]);
}

#[test]
fn a_host_that_gives_no_configuration_buffer() {
    let mut host = TestHost::<Everything>::new();
    host.fail("proxy_get_buffer_bytes", 10);
    let error = host.configure("{}").unwrap_err();
    assert_eq!(error, "invalid configuration: proxy_get_buffer_bytes: internal failure (status 10)");
    host.fail("proxy_get_buffer_bytes", 1);
    assert_eq!(host.configure(r#"{"stamp": "a"}"#).unwrap_err(), "invalid configuration: stamp: missing");
}

#[test]
fn request_and_response() {
    let mut host = host();
    host.set_time(Duration::from_millis(1_999));
    host.set_property("source.address", "10.1.2.3:55");
    host.set_property("request.path", "/");
    let mut exchange = host.request(GET);
    assert!(exchange.reply().is_none() && !exchange.paused());
    assert_eq!(exchange.request_header("x-stamp"), ["s1"], "both of the client's are gone");
    assert_eq!(exchange.request_header("x-time"), ["1"]);
    assert_eq!(exchange.request_header("x-source"), ["10.1.2.3:55"]);
    assert_eq!(exchange.request_header("x-path"), ["/"]);
    assert_eq!(exchange.request_header("x-count"), ["7"]);
    assert_eq!(exchange.request_header("x-end"), ["true"]);
    exchange.respond(&[(":status", "200"), ("server", "a"), ("server", "b")]);
    assert_eq!(exchange.calls(), ["proxy_add_header_map_value", "proxy_remove_header_map_value"]);
    assert_eq!(exchange.response_headers(), [(":status".into(), "200".into()), ("x-stamp".into(), "s1".into())]);
    drop(exchange);
    assert_eq!(host.take_logs(), [(2, "over".to_owned())]);
    assert_eq!((host.metric("streams"), host.metric("live"), host.metric("other")), (Some(1), Some(7), None));
    host.advance(Duration::from_secs(5));
    host.remove_property("source.address");
    let exchange = host.request(GET);
    assert_eq!(
        (exchange.request_header("x-time"), exchange.request_header("x-source")),
        (vec!["6".into()], vec!["none".into()])
    );
}

#[test]
fn bodies_and_trailers() {
    let mut host = host();
    let mut exchange = host.request_with_body(GET);
    assert_eq!(exchange.request_header("x-end"), ["false"]);
    assert!(exchange.request_body(b"ab", false).paused());
    assert!(!exchange.request_body(b"cd", true).paused());
    assert_eq!(exchange.request_bytes(), b"<ABCD>");
    assert_eq!(host.metric("sizes"), Some(4));
    exchange.request_trailers(&[("a", "b")]);
    exchange.respond(&[(":status", "200")]).response_body(b"fine", false);
    assert_eq!((exchange.response_bytes(), exchange.reply()), (&b"fine"[..], None));
    assert_eq!(exchange.response_body(b"secret", true).reply().unwrap().status, 500);
    exchange.response_trailers(&[("x-internal", "1")]);
    assert_eq!(exchange.calls(), [""; 0], "nothing runs after a reply");
}

#[test]
fn replies_pass_their_own_filter_untouched() {
    let mut host = host();
    let exchange = host.request(&[(":method", "GET"), (":path", "/reply")]);
    let reply = exchange.reply().unwrap();
    assert_eq!((reply.status, reply.details.as_str(), reply.grpc_status), (302, "moved", -1));
    assert_eq!(reply.headers, [("location".to_owned(), "/".to_owned())]);
    assert!(exchange.paused());
    let exchange = host.request(&[(":method", "GET"), (":path", "/problem")]);
    let reply = exchange.reply().unwrap();
    assert_eq!(
        (reply.status, reply.grpc_status, reply.header("Content-Type")),
        (403, 7, vec!["application/problem+json"])
    );
    assert_eq!(reply.json()["detail"], "no");
}

#[test]
fn what_the_host_refuses_fails_closed() {
    let mut host = host();
    let exchange = host.request(&[(":path", "/forbidden-status")]);
    assert!(exchange.reply().is_none() && exchange.paused(), "held back for good");
    assert_eq!(
        host.take_logs(),
        [(4, "reply not sent: proxy_send_local_response: bad argument (status 2)".to_owned())]
    );
    drop(exchange);
    for (path, call, status, message) in [
        ("/bad-value", "none", 0, "proxy_replace_header_map_value: bad argument (status 2)"),
        ("/", "proxy_add_header_map_value", 10, "proxy_add_header_map_value: internal failure (status 10)"),
        ("/", "proxy_get_property", 3, "proxy_get_property: serialization failure (status 3)"),
        ("/", "proxy_get_header_map_pairs", 77, "proxy_get_header_map_pairs: unexpected status (status 77)"),
        (
            "/",
            "proxy_get_current_time_nanoseconds",
            12,
            "proxy_get_current_time_nanoseconds: unimplemented (status 12)",
        ),
    ] {
        host.take_logs();
        host.fail(call, status);
        let exchange = host.request(&[(":path", path)]);
        let reply = exchange.reply().unwrap_or_else(|| panic!("{path} {call}"));
        assert_eq!((reply.status, reply.details.as_str()), (500, "filter_hostcall_failed"));
        assert_eq!(reply.json()["title"], "Internal Server Error");
        assert_eq!(host.take_logs(), [(4, format!("answered 500: {message}"))]);
        host.heal(call);
    }
}

#[test]
fn metrics_that_are_refused_cost_a_warning() {
    let mut host = TestHost::<Everything>::new();
    host.fail("proxy_define_metric", 10);
    host.configure(r#"{"stamp": "a"}"#).unwrap();
    let logs = host.take_logs();
    assert_eq!(logs.len(), 3);
    assert_eq!(logs[0], (3, "metric streams: proxy_define_metric: internal failure (status 10)".to_owned()));
    assert!(host.request(GET).reply().is_none());
}

#[test]
fn responses_of_others_reach_the_filter() {
    let mut host = host();
    let mut exchange = host.answered_before();
    assert_eq!(exchange.respond(&[(":status", "401")]).response_header("x-stamp"), ["s1"]);
}

#[test]
fn shared_data() {
    let mut host = host();
    let worker = host.worker();
    assert_eq!(shared::read("k").unwrap(), None);
    assert!(shared::replace("k", b"1", None).unwrap());
    assert!(!shared::replace("k", b"2", None).unwrap(), "it is there now");
    let (value, version) = shared::read("k").unwrap().unwrap();
    assert_eq!(value, b"1");
    assert!(shared::replace("k", b"2", Some(version)).unwrap());
    assert!(!shared::replace("k", b"3", Some(version)).unwrap(), "an old version");
    assert_eq!(worker.shared_data(), (1, 2));

    let count = |value: Option<&[u8]>| {
        let next = value.map_or(1, |value| value.len() + 1);
        Step::Write(vec![b'x'; next], next)
    };
    host.conflict(2);
    assert_eq!(shared::update("n", 3, count), Ok(1));
    assert_eq!(shared::update("n", 1, count), Ok(2));
    assert_eq!(shared::update("n", 1, |value| Step::Keep(value.map(<[u8]>::len))), Ok(Some(2)));
    host.conflict(3);
    assert_eq!(shared::update("n", 3, count), Err(UpdateError::Contended));
    host.fail("proxy_set_shared_data", 10);
    let error = shared::update("n", 3, count).unwrap_err();
    assert_eq!(error.to_string(), "proxy_set_shared_data: internal failure (status 10)");
}

/// Leaves all but the response's head to the defaults.
struct Stamp;

impl Plugin for Stamp {
    type Config = serde_json::Value;
    type Stream = Stamped;

    fn new(_: Self::Config) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn stream(self: &Rc<Self>) -> Stamped {
        Stamped(Part)
    }
}

struct Stamped(Part);

impl HttpFilter for Stamped {
    fn on_response_headers(&mut self, response: &mut Response) -> Result<Flow, HostError> {
        // That this part has no need of the callback says nothing about the filter.
        self.0.on_response_headers(response)?;
        response.headers().set("x-stamp", "1")?;
        Ok(Flow::Continue)
    }
}

struct Part;

impl HttpFilter for Part {}

#[test]
fn callbacks_that_are_left_to_defaults_need_not_be_called() {
    let mut host = TestHost::<Stamp>::with_config("{}");
    for _ in 0..2 {
        let mut exchange = host.request(GET);
        assert_eq!(exchange.respond(&[(":status", "200")]).response_header("x-stamp"), ["1"]);
    }
    assert_eq!(host.skipped_callbacks(), ["proxy_on_done", "proxy_on_request_headers", "proxy_on_log"]);
}
