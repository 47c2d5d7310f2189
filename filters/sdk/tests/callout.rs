//! A filter that asks a service about each request, on the test host.

use std::rc::Rc;
use std::time::Duration;

use outrigger_filter_sdk::testing::{Exchange, TestHost};
use outrigger_filter_sdk::{
    Callout, CalloutAnswer, CalloutId, ConfigError, Flow, HostError, HttpFilter, Plugin, Problem, Request, Response,
    log,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    cluster: String,
}

struct Ask {
    cluster: String,
}

impl Plugin for Ask {
    type Config = Config;
    type Stream = Stream;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self { cluster: config.cluster })
    }

    fn stream(self: &Rc<Self>) -> Stream {
        Stream { plugin: Rc::clone(self), waiting: Vec::new() }
    }
}

struct Stream {
    plugin: Rc<Ask>,
    waiting: Vec<CalloutId>,
}

impl Stream {
    fn ask(&mut self, path: &str) -> Result<Flow, HostError> {
        let callout =
            Callout::new(&self.plugin.cluster, "POST", "authority", path).header("x-team", "a").body("question");
        self.waiting.push(callout.timeout(Duration::ZERO).send()?);
        Ok(Flow::Pause)
    }
}

impl HttpFilter for Stream {
    fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
        let twice = request.headers().get("x-twice")?.is_some();
        self.ask("/one")?;
        if twice { self.ask("/two") } else { Ok(Flow::Pause) }
    }

    fn on_response_headers(&mut self, _response: &mut Response) -> Result<Flow, HostError> {
        self.ask("/response")
    }

    fn on_callout(&mut self, id: CalloutId, answer: &CalloutAnswer) -> Result<Flow, HostError> {
        self.waiting.retain(|waiting| *waiting != id);
        match answer.status()? {
            Some(200) if self.waiting.is_empty() => {
                log::info(&String::from_utf8_lossy(&answer.body(5)?));
                Ok(Flow::Continue)
            }
            Some(200) => Ok(Flow::Pause),
            Some(status) => Ok(Flow::Reply(Problem::new(403).member("asked", &status.to_string()).reply())),
            None => Ok(Flow::Reply(Problem::new(503).reply())),
        }
    }
}

outrigger_filter_sdk::register!(Ask);

fn host() -> TestHost<Ask> {
    TestHost::with_config(r#"{"cluster": "ask"}"#)
}

fn status(exchange: &Exchange) -> Option<u16> {
    exchange.reply().map(|reply| reply.status)
}

#[test]
fn an_answer_lets_the_request_go_on() {
    let mut host = host();
    let mut exchange = host.request(&[(":path", "/")]);
    assert!(exchange.paused() && exchange.reply().is_none());
    let callout = &exchange.callouts()[0];
    assert_eq!((callout.cluster.as_str(), callout.body.as_str()), ("ask", "question"));
    assert_eq!(callout.timeout, Duration::from_millis(1), "never without end");
    let headers: Vec<_> = callout.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, [(":method", "POST"), (":authority", "authority"), (":path", "/one"), ("x-team", "a")]);
    exchange.answer(&[(":status", "200")], "fine, go on");
    assert!(!exchange.paused() && exchange.reply().is_none() && exchange.callouts().is_empty());
    assert_eq!(host.take_logs(), [(2, "fine,".to_owned())]);
    // The response is held back on its own.
    exchange.respond(&[(":status", "200")]);
    assert!(exchange.paused());
    assert!(!exchange.answer(&[(":status", "200")], "").paused());
}

#[test]
fn two_answers_are_waited_for() {
    let mut host = host();
    let mut exchange = host.request(&[(":path", "/"), ("x-twice", "1")]);
    assert_eq!(exchange.callouts().len(), 2);
    assert!(exchange.answer(&[(":status", "200")], "").paused());
    assert_eq!(exchange.calls(), ["proxy_get_header_map_value"]);
    assert!(!exchange.answer(&[(":status", "200")], "").paused());
}

#[test]
fn an_answer_may_end_the_request() {
    let mut host = host();
    for (headers, expected) in [(&[(":status", "401")][..], 403), (&[], 503)] {
        let mut exchange = host.request(&[(":path", "/"), ("x-twice", "1")]);
        assert_eq!(status(exchange.answer(headers, "")), Some(expected));
        assert!(exchange.paused(), "it does not go on");
        // The second answer comes too late to matter.
        exchange.answer(&[(":status", "200")], "");
        assert_eq!((exchange.calls(), status(&exchange)), (&[][..], Some(expected)));
    }
}

#[test]
fn what_the_host_refuses_fails_closed() {
    let mut nameless = TestHost::<Ask>::with_config(r#"{"cluster": ""}"#);
    assert_eq!(status(&nameless.request(&[(":path", "/")])), Some(500));
    assert_eq!(nameless.take_logs(), [(4, "answered 500: proxy_http_call: bad argument (status 2)".to_owned())]);
    drop(nameless);
    let mut host = host();
    host.fail("proxy_http_call", 10);
    assert_eq!(status(&host.request(&[(":path", "/")])), Some(500));
    host.heal("proxy_http_call");
    let mut exchange = host.request(&[(":path", "/")]);
    host.fail("proxy_get_header_map_value", 10);
    assert_eq!(status(exchange.answer(&[(":status", "200")], "")), Some(500));
}
