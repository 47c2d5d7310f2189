//! The walk of one message over a filter chain, without I/O.
//!
//! Events go in (head, data, trailers, a paused filter that goes on), what came through all filters goes out
//! ([`Passed`]). A paused filter holds the head, the data and the trailers that reach it; data goes in order and no byte
//! is lost or doubled, whatever filters pause and in which order they go on.

use bytes::Bytes;
use outrigger_http::BodyBuffer;

use crate::error::{ErrorKind, LocalReply, StreamError};
use crate::filter::{Action, Filters, Pause, Way};

/// What came through the chain and wasn't taken yet.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The head passed; whether it ends the message.
    pub(crate) head: Option<bool>,
    pub(crate) data: BodyBuffer,
    /// The data ends the message.
    pub(crate) end: bool,
    pub(crate) trailers: bool,
}

/// What stops a walk.
#[derive(Debug)]
pub(crate) enum Stop {
    Reply(LocalReply),
    Reset,
    Error(StreamError),
}

/// A place in the chain where a message waits.
#[derive(Debug, Default)]
struct Place {
    paused: Option<Pause>,
    /// The head is held here; whether it ends the message.
    head: Option<bool>,
    data: BodyBuffer,
    /// The data that is held here ends the message.
    end: bool,
    trailers: bool,
    /// The filter has seen the trailers that are held.
    trailers_seen: bool,
    /// The filter hasn't seen the data that is held for it.
    unseen: bool,
}

/// One message's walk.
#[derive(Debug)]
pub(crate) struct Iteration {
    way: Way,
    /// How many filters there are.
    len: usize,
    /// One for each filter, made when the first one pauses: most messages go straight through.
    places: Vec<Place>,
    /// Whose data lies in the stream's state, for callbacks that come while it is paused.
    shown: Option<usize>,
    /// How many filters have been shown the head.
    reached: usize,
    /// What a filter that buffers the whole body may hold.
    buffer_bytes_max: usize,
    pub(crate) passed: Passed,
}

impl Iteration {
    pub(crate) fn new(way: Way, filters: usize, buffer_bytes_max: usize) -> Iteration {
        Iteration {
            way,
            len: filters,
            places: Vec::new(),
            shown: None,
            reached: 0,
            buffer_bytes_max,
            passed: Passed::default(),
        }
    }

    fn place(&mut self, at: usize) -> &mut Place {
        if self.places.is_empty() {
            self.places.resize_with(self.len, Place::default);
        }
        &mut self.places[at]
    }

    /// What a place holds; nothing where nobody has paused.
    fn take_data(&mut self, at: usize) -> BodyBuffer {
        self.places.get_mut(at).map(|place| std::mem::take(&mut place.data)).unwrap_or_default()
    }

    /// Whether a filter holds the message back.
    pub(crate) fn is_paused(&self) -> bool {
        self.places.iter().any(|place| place.paused.is_some())
    }

    /// How many filters, from the first, have been shown the head.
    pub(crate) const fn reached(&self) -> usize {
        self.reached
    }

    /// Whether more data may be read: nothing is held back beyond its bound.
    pub(crate) fn wants_data(&self, filters: &Filters) -> bool {
        let limit = self.buffer_bytes_max;
        self.places.iter().enumerate().all(|(at, place)| match place.paused {
            Some(Pause::Watermark) => self.held(at, filters) < limit,
            _ => true,
        })
    }

    fn held(&self, at: usize, filters: &Filters) -> usize {
        if self.shown == Some(at) { filters.body_len(self.way) } else { self.places[at].data.len() }
    }

    /// The message's head has come.
    pub(crate) fn head(&mut self, filters: &mut Filters, end: bool) -> Result<(), Stop> {
        let result = self.head_from(0, filters, end);
        self.show(filters);
        result
    }

    fn head_from(&mut self, from: usize, filters: &mut Filters, end: bool) -> Result<(), Stop> {
        for at in from..self.len {
            self.reached = self.reached.max(at + 1);
            match filters.head(self.way, at, end) {
                Action::Continue => {}
                Action::Pause(pause) => {
                    let place = self.place(at);
                    place.paused = Some(pause);
                    place.head = Some(end);
                    return Ok(());
                }
                Action::Respond(reply) => return Err(Stop::Reply(reply)),
                Action::Fail(error) => return Err(Stop::Error(error)),
                Action::Reset => return Err(Stop::Reset),
            }
        }
        self.passed.head = Some(end);
        Ok(())
    }

    /// A part of the body has come; `end`: the last, and no trailers follow.
    pub(crate) fn data(&mut self, filters: &mut Filters, bytes: Bytes, end: bool) -> Result<(), Stop> {
        self.stash(filters);
        let mut data = BodyBuffer::new();
        data.push(bytes);
        let result = self.data_from(0, filters, data, end);
        self.show(filters);
        result
    }

    fn data_from(&mut self, from: usize, filters: &mut Filters, mut data: BodyBuffer, end: bool) -> Result<(), Stop> {
        for at in from..self.len {
            let (held, holds_head) = match self.places.get(at) {
                Some(place) => (place.paused, place.head.is_some()),
                None => (None, false),
            };
            if held.is_none() && filters.ignores_data(self.way, at) {
                continue;
            }
            let mut view = match held {
                // The filter drops what it was shown: it only sees what is new.
                Some(Pause::Drop) | None => BodyBuffer::new(),
                Some(_) => self.take_data(at),
            };
            view.append(&mut data);
            if let Some(Pause::Buffer { all: true } | Pause::Watermark) = held
                && holds_head
            {
                self.place(at).unseen = true;
                return self.keep(at, view, end);
            }
            filters.set_body(self.way, view);
            let action = filters.data(self.way, at, end);
            data = filters.take_body(self.way);
            match action {
                Action::Continue => {
                    let ends_with_head = holds_head && end && data.is_empty();
                    self.release(at, filters, ends_with_head)?;
                    if ends_with_head {
                        return Ok(());
                    }
                }
                Action::Pause(Pause::Drop) => {
                    let place = self.place(at);
                    place.paused = Some(Pause::Drop);
                    place.end = end;
                    return Ok(());
                }
                Action::Pause(pause) => {
                    // A head that was held by a plain stop goes on only with a Continue; a data pause keeps it.
                    self.place(at).paused = Some(match pause {
                        Pause::Buffer { .. } => Pause::Buffer { all: false },
                        other => other,
                    });
                    return self.keep(at, data, end);
                }
                Action::Respond(reply) => return Err(Stop::Reply(reply)),
                Action::Fail(error) => return Err(Stop::Error(error)),
                Action::Reset => return Err(Stop::Reset),
            }
        }
        self.passed.data.append(&mut data);
        self.passed.end |= end;
        Ok(())
    }

    /// The filter lets the message go on: a head that is held here goes first. `ends`: nothing follows it.
    fn release(&mut self, at: usize, filters: &mut Filters, ends: bool) -> Result<(), Stop> {
        let Some(place) = self.places.get_mut(at) else { return Ok(()) };
        place.paused = None;
        place.unseen = false;
        match place.head.take() {
            Some(end) => self.head_from(at + 1, filters, end || ends),
            None => Ok(()),
        }
    }

    fn keep(&mut self, at: usize, data: BodyBuffer, end: bool) -> Result<(), Stop> {
        let buffer_bytes_max = self.buffer_bytes_max;
        let place = self.place(at);
        place.end |= end;
        let over = data.len() > buffer_bytes_max && matches!(place.paused, Some(Pause::Buffer { .. }));
        place.data = data;
        if over {
            return Err(Stop::Error(StreamError::internal(match self.way {
                Way::Request => ErrorKind::RequestTooLarge,
                Way::Response => ErrorKind::ResponseTooLarge,
            })));
        }
        Ok(())
    }

    /// Puts the data that is shown back to its place; every walk begins so.
    fn stash(&mut self, filters: &Filters) {
        if let Some(at) = self.shown.take() {
            self.place(at).data = filters.take_body(self.way);
        }
    }

    /// Shows what the last paused filter holds, for callbacks that come while it waits; every walk ends so.
    fn show(&mut self, filters: &Filters) {
        let Some(at) = self.places.iter().rposition(|place| place.paused.is_some() && !place.data.is_empty()) else {
            return;
        };
        filters.set_body(self.way, std::mem::take(&mut self.places[at].data));
        self.shown = Some(at);
    }

    /// The trailers have come; they lie in the stream's state.
    pub(crate) fn trailers(&mut self, filters: &mut Filters) -> Result<(), Stop> {
        self.stash(filters);
        let result = self.trailers_from(0, filters);
        self.show(filters);
        result
    }

    fn trailers_from(&mut self, from: usize, filters: &mut Filters) -> Result<(), Stop> {
        for at in from..self.len {
            if let Some(place) = self.places.get_mut(at)
                && place.head.is_some()
                && matches!(place.paused, Some(Pause::Buffer { all: true } | Pause::Watermark))
            {
                place.trailers = true;
                return Ok(());
            }
            // The filter may still read and change what it holds.
            let held = self.take_data(at);
            filters.set_body(self.way, held);
            let action = filters.trailers(self.way, at);
            let held = filters.take_body(self.way);
            match action {
                Action::Continue => {
                    self.release(at, filters, false)?;
                    if !held.is_empty() {
                        self.data_from(at + 1, filters, held, false)?;
                    }
                }
                Action::Pause(_) => {
                    let place = self.place(at);
                    place.paused.get_or_insert(Pause::Hold);
                    place.data = held;
                    place.trailers = true;
                    place.trailers_seen = true;
                    return Ok(());
                }
                Action::Respond(reply) => return Err(Stop::Reply(reply)),
                Action::Fail(error) => return Err(Stop::Error(error)),
                Action::Reset => return Err(Stop::Reset),
            }
        }
        self.passed.trailers = true;
        Ok(())
    }

    /// A paused filter goes on; nothing happens where it isn't paused.
    pub(crate) fn resume(&mut self, at: usize, filters: &mut Filters) -> Result<(), Stop> {
        if self.places.get(at).is_none_or(|place| place.paused.is_none()) {
            return Ok(());
        }
        self.stash(filters);
        let result = self.resume_from(at, filters);
        self.show(filters);
        result
    }

    fn resume_from(&mut self, at: usize, filters: &mut Filters) -> Result<(), Stop> {
        let data = std::mem::take(&mut self.places[at].data);
        let place = &mut self.places[at];
        let (end, trailers, unseen) = (place.end, std::mem::take(&mut place.trailers), place.unseen);
        let trailers_from = if place.trailers_seen { at + 1 } else { at };
        let has_body = !data.is_empty() || end;
        let ends_with_head = place.head.is_some() && end && data.is_empty() && !unseen;
        place.end = false;
        self.release(at, filters, ends_with_head)?;
        if has_body && !ends_with_head {
            self.data_from(if unseen { at } else { at + 1 }, filters, data, end)?;
        }
        if trailers {
            if self.places[at].paused.is_some() {
                self.places[at].trailers = true;
                return Ok(());
            }
            self.trailers_from(trailers_from, filters)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "iteration_tests.rs"]
mod tests;
