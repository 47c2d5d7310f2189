//! Filters that are built into the proxy: what a listener's configuration names besides Wasm.
//!
//! A filter is made for a stream from its [`NativeHandle`], which a generation makes once for each place in a chain. What a
//! route says about the filter is looked up when the filter runs, so that it is the route that is valid then.

mod header_mutation;

use std::rc::Rc;

use outrigger_config::{NativeFilter, OverrideConfig};

use crate::filter::{StreamCx, StreamFilter};

/// A native filter's place in a chain.
#[derive(Debug)]
pub(crate) struct NativeHandle {
    filter: NativeFilter,
    /// Where its overrides stand.
    position: Option<usize>,
}

impl NativeHandle {
    pub(crate) fn new(filter: &NativeFilter, position: Option<usize>) -> Rc<NativeHandle> {
        Rc::new(NativeHandle { filter: filter.clone(), position })
    }

    /// The filter of one stream.
    pub(crate) fn start(self: &Rc<Self>) -> Box<dyn StreamFilter> {
        match &self.filter {
            NativeFilter::HeaderMutation(filter) => Box::new(header_mutation::Filter::new(filter, self)),
        }
    }

    /// What the route says about this filter.
    fn by_route<'c>(&self, cx: &StreamCx<'c>) -> Option<&'c OverrideConfig> {
        cx.selection.filter_override(self.position)?.config.as_ref()
    }
}
