//! Simulation: filters that pause and go on at random; no byte is lost, doubled or reordered, the head goes first, the end
//! comes once and last.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use outrigger_http::{Headers, StreamState};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::filter::{FilterSlot, StreamCx, StreamFilter, StreamSlot};

/// A filter that answers by dice, and checks the order of what it sees.
struct Dice {
    random: SmallRng,
    head_seen: bool,
    ended: bool,
}

impl Dice {
    fn pause(&mut self) -> bool {
        self.random.random_range(0..3) == 0
    }

    fn head(&mut self, end: bool) -> Action {
        assert!(!self.head_seen && !self.ended);
        self.head_seen = true;
        self.ended = end;
        match self.random.random_range(0..6) {
            0 => Action::Pause(Pause::Hold),
            1 => Action::Pause(Pause::Buffer { all: true }),
            2 => Action::Pause(Pause::Watermark),
            _ => Action::Continue,
        }
    }

    fn data(&mut self) -> Action {
        assert!(self.head_seen);
        if self.pause() { Action::Pause(Pause::Buffer { all: false }) } else { Action::Continue }
    }
}

impl StreamFilter for Dice {
    fn on_request_headers(&mut self, _cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.head(end)
    }
    fn on_request_data(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        self.data()
    }
    fn on_request_trailers(&mut self, _cx: &mut StreamCx<'_>) -> Action {
        if self.pause() { Action::Pause(Pause::Hold) } else { Action::Continue }
    }
    fn on_response_headers(&mut self, _cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.head(end)
    }
    fn on_response_data(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        self.data()
    }
    fn on_response_trailers(&mut self, _cx: &mut StreamCx<'_>) -> Action {
        if self.pause() { Action::Pause(Pause::Hold) } else { Action::Continue }
    }
}

/// What came out so far, taken after every event, as the exchange does.
#[derive(Default)]
struct Out {
    head: bool,
    data: Vec<u8>,
    ends: u32,
}

impl Out {
    fn take(&mut self, passed: &mut Passed) {
        match passed.head {
            None => assert!(passed.data.is_empty() && !passed.end && !passed.trailers, "something before the head"),
            Some(end) if !self.head => {
                self.head = true;
                self.ends += u32::from(end);
            }
            Some(_) => {}
        }
        while let Some(bytes) = passed.data.pop() {
            assert_eq!(self.ends, 0, "data after the end");
            self.data.extend_from_slice(&bytes);
        }
        self.ends += u32::from(std::mem::take(&mut passed.end)) + u32::from(std::mem::take(&mut passed.trailers));
    }
}

fn run(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let way = if random.random() { Way::Request } else { Way::Response };
    let count = random.random_range(1..5);
    let stream = Rc::new(RefCell::new(StreamState::default()));
    stream.borrow_mut().request_trailers = Some(Headers::new());
    let list = (0..count)
        .map(|_| {
            let random = SmallRng::seed_from_u64(random.random());
            FilterSlot::Other(Box::new(Dice { random, head_seen: false, ended: false }))
        })
        .collect();
    let (slot, selection) = (Rc::new(StreamSlot::default()), crate::exchange::Selection::default());
    let mut filters = Filters { response_len: count, seen: count, list, stream, slot, selection };
    let mut iteration = Iteration::new(way, count, 1 << 20);
    let (mut out, mut expected) = (Out::default(), Vec::new());
    let parts = random.random_range(0..5);
    let trailers = parts > 0 && random.random();
    iteration.head(&mut filters, parts == 0).expect("no filter stops");
    out.take(&mut iteration.passed);
    for part in 0..parts {
        let size = random.random_range(1..9);
        let bytes: Vec<u8> = (0..size).map(|_| random.random_range(b'a'..=b'z')).collect();
        expected.extend_from_slice(&bytes);
        let end = part + 1 == parts && !trailers;
        iteration.data(&mut filters, Bytes::from(bytes), end).expect("no filter stops");
        out.take(&mut iteration.passed);
        if random.random() {
            iteration.resume(random.random_range(0..count), &mut filters).expect("no filter stops");
            out.take(&mut iteration.passed);
        }
    }
    if trailers {
        iteration.trailers(&mut filters).expect("no filter stops");
        out.take(&mut iteration.passed);
    }
    // Every paused filter goes on, as often as it pauses again; by dice that ends.
    for _ in 0..500 {
        iteration.resume(random.random_range(0..count), &mut filters).expect("no filter stops");
        out.take(&mut iteration.passed);
    }
    assert!(!iteration.is_paused(), "seed {seed}: still paused");
    assert_eq!(String::from_utf8_lossy(&out.data), String::from_utf8_lossy(&expected), "seed {seed}");
    assert!(out.head && out.ends == 1, "seed {seed}: {} ends", out.ends);
}

#[test]
fn nothing_is_lost_doubled_or_reordered() {
    for seed in 0..20_000 {
        run(seed);
    }
}
