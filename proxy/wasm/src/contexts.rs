//! The contexts of one VM: root contexts, one for each plugin in it, and the streams of each.
//!
//! Both kinds have numbers from one counter that is never turned back, and lie in slots, so that the worker's calls look
//! nothing up.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_http::StreamState;

use crate::action::{ContextId, RootId};
use crate::host::Phase;
use crate::metrics::PluginStats;
use crate::plugin::Plugin;
use crate::shared::Tenant;

/// What of a stream the guest may reach now: bits of [`StreamContext::open`].
pub(crate) mod open {
    pub(crate) const REQUEST_HEADERS: u16 = 1;
    pub(crate) const REQUEST_BODY: u16 = 1 << 1;
    pub(crate) const REQUEST_TRAILERS: u16 = 1 << 2;
    pub(crate) const RESPONSE_HEADERS: u16 = 1 << 3;
    pub(crate) const RESPONSE_BODY: u16 = 1 << 4;
    pub(crate) const RESPONSE_TRAILERS: u16 = 1 << 5;
    /// The stream is over: all maps, to read only.
    pub(crate) const LOG: u16 = 1 << 6;
    /// Done or being deleted: it takes no effects any more.
    pub(crate) const OVER: u16 = 1 << 7;
    /// Not an HTTP stream but a connection: its two bodies are the bytes of its two sides, there are no heads.
    pub(crate) const CONNECTION: u16 = 1 << 8;

    pub(crate) const REQUEST: u16 = REQUEST_HEADERS | REQUEST_BODY | REQUEST_TRAILERS;
    pub(crate) const RESPONSE: u16 = RESPONSE_HEADERS | RESPONSE_BODY | RESPONSE_TRAILERS;
}

/// Effects of a stream that are queued and not taken yet, so that none is queued twice: bits of
/// [`StreamContext::queued`].
pub(crate) mod queued {
    pub(crate) const CONTINUE_REQUEST: u8 = 1;
    pub(crate) const CONTINUE_RESPONSE: u8 = 1 << 1;
    pub(crate) const RESET: u8 = 1 << 2;
    pub(crate) const ROUTE: u8 = 1 << 3;
    pub(crate) const REQUEST_BODY: u8 = 1 << 4;
    pub(crate) const RESPONSE_BODY: u8 = 1 << 5;
}

/// Where hostcalls act: a root context or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Root(RootId),
    Stream(ContextId),
}

/// How far a root context is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootDone {
    Live,
    /// `proxy_on_done` returned false: the guest says `proxy_done` later.
    Pending,
    /// `proxy_done` was called; to be deleted once the guest has returned.
    Finished,
}

/// A plugin with what is counted about it: what hostcalls and callbacks need of a root context, at hand while it is the
/// effective one's.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) stats: Rc<PluginStats>,
}

impl std::ops::Deref for Counted {
    type Target = Plugin;

    fn deref(&self) -> &Plugin {
        &self.plugin
    }
}

/// A plugin in this VM.
#[derive(Debug)]
pub(crate) struct RootContext {
    pub(crate) plugin: Rc<Counted>,
    pub(crate) tick_period: Option<Duration>,
    /// What `proxy_get_status` answers.
    pub(crate) call_status: (u32, &'static str),
    pub(crate) done: RootDone,
    /// Of a plugin that has registered a queue.
    pub(crate) tenant: Option<Arc<Tenant>>,
}

/// One stream that this VM has a context for.
#[derive(Debug)]
pub(crate) struct StreamContext {
    pub(crate) state: Rc<RefCell<StreamState>>,
    pub(crate) root: RootId,
    pub(crate) open: u16,
    pub(crate) queued: u8,
    /// The phase of the local reply, if the guest gave one.
    pub(crate) replied: Option<Phase>,
}

impl StreamContext {
    pub(crate) const fn is_connection(&self) -> bool {
        self.open & open::CONNECTION != 0
    }
}

/// Things in slots, each with a number that no other of this VM ever has.
#[derive(Debug)]
struct Slots<T> {
    /// 0: free.
    ids: Vec<u32>,
    things: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    const fn new() -> Slots<T> {
        Slots { ids: Vec::new(), things: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, id: u32, thing: T) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            self.ids[slot as usize] = id;
            self.things[slot as usize] = Some(thing);
            return Some(slot);
        }
        let slot = u32::try_from(self.ids.len()).ok()?;
        self.ids.push(id);
        self.things.push(Some(thing));
        Some(slot)
    }

    #[inline]
    fn get(&self, id: u32, slot: u32) -> Option<&T> {
        if *self.ids.get(slot as usize)? != id {
            return None;
        }
        self.things[slot as usize].as_ref()
    }

    #[inline]
    fn get_mut(&mut self, id: u32, slot: u32) -> Option<&mut T> {
        if *self.ids.get(slot as usize)? != id {
            return None;
        }
        self.things[slot as usize].as_mut()
    }

    fn remove(&mut self, id: u32, slot: u32) -> Option<T> {
        if *self.ids.get(slot as usize)? != id {
            return None;
        }
        self.ids[slot as usize] = 0;
        self.free.push(slot);
        self.things[slot as usize].take()
    }

    fn find(&self, id: u32) -> Option<u32> {
        if id == 0 {
            return None;
        }
        u32::try_from(self.ids.iter().position(|found| *found == id)?).ok()
    }

    fn len(&self) -> usize {
        self.ids.len() - self.free.len()
    }
}

/// All contexts of a VM.
#[derive(Debug)]
pub(crate) struct Contexts {
    roots: Slots<RootContext>,
    streams: Slots<StreamContext>,
    next_id: u32,
}

impl Contexts {
    pub(crate) const fn new() -> Contexts {
        Contexts { roots: Slots::new(), streams: Slots::new(), next_id: 1 }
    }

    fn new_id(&mut self) -> Option<u32> {
        let id = self.next_id;
        self.next_id = id.checked_add(1)?;
        Some(id)
    }

    /// A new root context; `None` once all ids of this VM are used up.
    pub(crate) fn insert_root(&mut self, plugin: Arc<Plugin>, stats: Rc<PluginStats>) -> Option<RootId> {
        let id = self.new_id()?;
        let plugin = Rc::new(Counted { plugin, stats });
        let context =
            RootContext { plugin, tick_period: None, call_status: (0, ""), done: RootDone::Live, tenant: None };
        Some(RootId { id, slot: self.roots.insert(id, context)? })
    }

    /// A new stream of a root context, or connection (`kind`: [`open::CONNECTION`]); `None` once all ids of this VM are used up.
    #[inline]
    pub(crate) fn insert(&mut self, root: RootId, state: Rc<RefCell<StreamState>>, kind: u16) -> Option<ContextId> {
        let id = self.new_id()?;
        let context = StreamContext { state, root, open: kind, queued: 0, replied: None };
        Some(ContextId { id, slot: self.streams.insert(id, context)? })
    }

    #[inline]
    pub(crate) fn root(&self, root: RootId) -> Option<&RootContext> {
        self.roots.get(root.id, root.slot)
    }

    #[inline]
    pub(crate) fn root_mut(&mut self, root: RootId) -> Option<&mut RootContext> {
        self.roots.get_mut(root.id, root.slot)
    }

    #[inline]
    pub(crate) fn get(&self, id: ContextId) -> Option<&StreamContext> {
        self.streams.get(id.id, id.slot)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ContextId) -> Option<&mut StreamContext> {
        self.streams.get_mut(id.id, id.slot)
    }

    pub(crate) fn remove(&mut self, id: ContextId) {
        self.streams.remove(id.id, id.slot);
    }

    pub(crate) fn remove_root(&mut self, root: RootId) {
        self.roots.remove(root.id, root.slot);
    }

    /// The root context that a target belongs to.
    #[inline]
    pub(crate) fn root_of(&self, target: Target) -> Option<RootId> {
        match target {
            Target::Root(root) => Some(root),
            Target::Stream(id) => self.get(id).map(|stream| stream.root),
        }
    }

    /// The context of a number that the guest names.
    pub(crate) fn find(&self, id: u32) -> Option<Target> {
        if let Some(slot) = self.streams.find(id) {
            return Some(Target::Stream(ContextId { id, slot }));
        }
        self.roots.find(id).map(|slot| Target::Root(RootId { id, slot }))
    }

    /// How many streams there are.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn roots_len(&self) -> usize {
        self.roots.len()
    }

    pub(crate) fn roots(&self) -> impl Iterator<Item = (RootId, &RootContext)> {
        let slots = self.roots.ids.iter().zip(&self.roots.things).enumerate();
        slots.filter_map(|(slot, (id, root))| {
            Some((RootId { id: *id, slot: u32::try_from(slot).ok()? }, root.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_reused_and_slots_are() {
        let mut contexts = Contexts::new();
        let state = || Rc::new(RefCell::new(StreamState::default()));
        let root = |contexts: &mut Contexts| {
            contexts.insert_root(Arc::default(), Rc::new(PluginStats::detached())).expect("ids left")
        };
        let first = root(&mut contexts);
        let a = contexts.insert(first, state(), 0).expect("ids left");
        let b = contexts.insert(first, state(), 0).expect("ids left");
        contexts.remove(a);
        let second = root(&mut contexts);
        let c = contexts.insert(second, state(), 0).expect("ids left");
        assert_eq!((a.slot, a.id < b.id, b.id < c.id), (c.slot, true, true));
        assert!(contexts.get(a).is_none() && contexts.find(a.id).is_none());
        assert_eq!(contexts.find(c.id), Some(Target::Stream(c)));
        assert_eq!(contexts.root_of(Target::Stream(c)), Some(second));
        assert_eq!(
            (contexts.find(first.id), contexts.find(second.id)),
            (Some(Target::Root(first)), Some(Target::Root(second)))
        );
        contexts.remove(a);
        contexts.remove_root(first);
        assert_eq!((contexts.len(), contexts.roots_len()), (2, 1));
        assert_eq!(contexts.roots().map(|(id, _)| id).collect::<Vec<_>>(), [second]);
        for number in [0, first.id, a.id, 99] {
            assert_eq!(contexts.find(number), None);
        }
        contexts.next_id = u32::MAX;
        assert!(contexts.insert(second, state(), 0).is_none());
    }
}
