use std::future::poll_fn;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;
use crate::transport::Transport;

/// Answers from a list, then continues; notes what it saw.
struct Scripted {
    name: char,
    answers: Vec<NetworkAction>,
    seen: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    fn note(&mut self, what: &str) -> NetworkAction {
        self.seen.borrow_mut().push(format!("{}{what}", self.name));
        if self.answers.is_empty() { NetworkAction::Continue } else { self.answers.remove(0) }
    }
}

fn text(body: &BodyBuffer) -> String {
    String::from_utf8_lossy(&body.copy_range(0, usize::MAX)).into_owned()
}

impl NetworkFilter for Scripted {
    fn on_new_connection(&mut self, _cx: &ConnectionCx<'_>) -> NetworkAction {
        self.note("+")
    }
    fn on_downstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction {
        let bytes = text(&cx.state.borrow().request_body);
        self.note(&format!(">{bytes}{}", if end { "." } else { "" }))
    }
    fn on_upstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction {
        let bytes = text(&cx.state.borrow().response_body);
        self.note(&format!("<{bytes}{}", if end { "." } else { "" }))
    }
    fn on_close(&mut self, _cx: &ConnectionCx<'_>, by: ClosedBy) {
        self.note(&format!("-{by:?}"));
    }
}

struct Walk {
    filters: NetworkFilters,
    seen: Rc<RefCell<Vec<String>>>,
}

impl Walk {
    fn new(a: &[NetworkAction], b: &[NetworkAction]) -> Walk {
        let seen = Rc::default();
        let filter = |name, answers: &[NetworkAction]| {
            Box::new(Scripted { name, answers: answers.to_vec(), seen: Rc::clone(&seen) }) as Box<dyn NetworkFilter>
        };
        let list = vec![filter('a', a), filter('b', b)];
        Walk { filters: NetworkFilters::of(list, StreamState::default()), seen }
    }

    fn data(&mut self, way: Way, bytes: &'static str) -> String {
        shown(self.filters.data(way, Bytes::from_static(bytes.as_bytes())))
    }

    fn event(&mut self, index: usize, event: FilterEvent) -> String {
        self.filters.slot.push(index, event);
        match self.filters.poll_event(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready((_, passed)) => shown(passed),
            Poll::Pending => "nothing".to_owned(),
        }
    }

    fn seen(&self) -> String {
        self.seen.borrow_mut().drain(..).collect::<Vec<_>>().join(" ")
    }
}

fn shown(passed: Result<Passed, Close>) -> String {
    match passed {
        Ok(passed) => format!("{}{}", text(&passed.bytes), if passed.end { "." } else { "" }),
        Err(Close) => "closed".to_owned(),
    }
}

const STOP: NetworkAction = NetworkAction::Stop;
const GO: NetworkAction = NetworkAction::Continue;

#[test]
fn bytes_pass_in_order_and_in_reverse() {
    let mut walk = Walk::new(&[], &[]);
    assert_eq!(shown(walk.filters.begin()), "");
    assert!(walk.filters.is_admitted());
    assert_eq!(walk.data(Way::Request, "x"), "x");
    assert_eq!(walk.data(Way::Response, "y"), "y");
    assert_eq!(walk.data(Way::Request, ""), ".");
    assert_eq!(walk.data(Way::Response, ""), ".");
    walk.filters.close(ClosedBy::Client);
    assert_eq!(walk.seen.borrow().join(" "), "a+ b+ a>x b>x b<y a<y a>. b>. b<. a<. a-Client b-Client");
}

#[test]
fn who_stops_keeps_the_bytes() {
    let mut walk = Walk::new(&[GO, STOP], &[]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.data(Way::Request, "x"), "");
    assert_eq!(walk.data(Way::Request, "y"), "xy");
    assert_eq!(walk.seen(), "a+ b+ a>x a>xy b>xy");
    // The second one stops: both see everything again.
    let mut walk = Walk::new(&[], &[GO, STOP, STOP]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.data(Way::Request, "x"), "");
    assert_eq!(walk.data(Way::Request, ""), "");
    assert_eq!(walk.event(1, FilterEvent::Resume(Way::Request)), "x.");
    assert_eq!(walk.seen(), "a+ b+ a>x b>x a>x. b>x.");
}

#[test]
fn a_new_connection_waits_for_data_or_to_be_resumed() {
    let mut walk = Walk::new(&[STOP, GO], &[STOP]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.seen(), "a+");
    assert_eq!(walk.data(Way::Request, "x"), "");
    assert!(!walk.filters.is_admitted());
    assert_eq!(walk.seen(), "a>x b+");
    assert_eq!(walk.event(1, FilterEvent::Resume(Way::Request)), "x");
    assert!(walk.filters.is_admitted());
    let mut walk = Walk::new(&[STOP], &[]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.event(0, FilterEvent::Resume(Way::Request)), "");
    assert!(walk.filters.is_admitted());
    assert_eq!(walk.seen(), "a+ b+");
}

#[test]
fn answers_are_resumed_behind_who_stopped() {
    let mut walk = Walk::new(&[], &[GO, STOP]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.data(Way::Response, "x"), "");
    assert_eq!(walk.event(1, FilterEvent::Resume(Way::Response)), "x");
    assert_eq!(walk.seen(), "a+ b+ b<x a<x");
}

#[test]
fn who_closes_or_fails_ends_it() {
    let mut walk = Walk::new(&[GO, NetworkAction::Close], &[]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.data(Way::Request, "x"), "closed");
    let mut walk = Walk::new(&[], &[]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.event(0, FilterEvent::Reset), "closed");
}

#[test]
fn what_one_filter_refuses_no_other_lets_pass() {
    // The second one held the new connection back, and lets it go on later.
    let mut walk = Walk::new(&[GO, NetworkAction::Refuse], &[STOP]);
    walk.filters.begin().unwrap();
    assert_eq!(walk.data(Way::Request, "x"), "");
    assert_eq!(walk.event(1, FilterEvent::Resume(Way::Request)), "");
    assert_eq!(walk.data(Way::Request, "y"), "");
    assert!(!walk.filters.is_admitted());
    assert_eq!(walk.seen(), "a+ b+ a>x");
    assert_eq!(walk.event(0, FilterEvent::Reset), "closed");
}

/// A listener that changes elsewhere must not forget who is there.
#[test]
fn limits_count_on_over_generations() {
    let registry = std::sync::Arc::new(outrigger_stats::Registry::default());
    let limit = |max| {
        let config = outrigger_config::ConnectionLimit {
            stat_prefix: "s".into(),
            delay: None,
            active: outrigger_config::ActiveCount::new(Some(max)),
        };
        NetworkFactory::ConnectionLimit(LimitHandle::new(&std::sync::Arc::new(config), &registry))
    };
    let before = [limit(1), NetworkFactory::Failed, limit(2)];
    let begin = |factory: &NetworkFactory| {
        let filters = NetworkFilters::new(std::slice::from_ref(factory), StreamState::default());
        let (verdict, _, decided) = filters.decide();
        (verdict, decided)
    };
    let (first, held) = begin(&before[0]);
    assert_eq!(first, Ok(()));
    let now = NetworkFactory::after(&[NetworkFactory::Failed, limit(1), limit(2)], &before);
    assert!(matches!(now[0], NetworkFactory::Failed));
    assert_eq!((begin(&now[1]).0, begin(&now[2]).0), (Err(Close), Ok(())));
    drop(held);
    assert_eq!(begin(&now[1]).0, Ok(()));
}

/// What waits of a client that sends without an end to an upstream that doesn't read: in the queue, or before a filter.
async fn kept(buffer_limit: usize, answer: NetworkAction) -> usize {
    let ((near, mut client), (upstream, _origin)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let (mut down, mut up) = (Transport::new(near).unwrap(), Some(Transport::new(upstream).unwrap()));
    let mut filters = Walk::new(&[&[GO][..], &[answer; 1000]].concat(), &[]).filters;
    let mut pump = tunnel::Pump::new(buffer_limit);
    let fills = poll_fn(|task| {
        while pump.turn(&mut down, &mut up, &mut filters, task).is_ok_and(|progress| progress) {}
        let kept = filters.waiting(Way::Request).max(up.as_ref().map_or(0, |up| up.output.len()));
        if kept < buffer_limit { Poll::Pending } else { Poll::Ready(kept) }
    });
    let sends = async { while client.write_all(&[0; 1024]).await.is_ok() {} };
    tokio::select! {
        kept = fills => kept,
        () = sends => 0,
    }
}

#[tokio::test]
async fn no_more_is_kept_than_is_allowed() {
    const READ_BYTES: usize = 16 * 1024;
    for answer in [GO, STOP] {
        let kept = kept(20_000, answer).await;
        assert!((20_000..20_000 + READ_BYTES).contains(&kept), "{answer:?}: {kept}");
    }
}
