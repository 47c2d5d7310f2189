//! `envoy.filters.http.header_mutation`: header changes of the filter, then those of the route's scopes.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{HeaderMutationFilter, OverrideConfig};

use super::NativeHandle;
use crate::filter::{Action, StreamCx, StreamFilter, Way};
use crate::mutation;

#[derive(Debug)]
pub(super) struct Filter {
    config: Arc<HeaderMutationFilter>,
    handle: Rc<NativeHandle>,
    /// The scopes' changes in the order in which they are applied; the same for the request and its answer.
    scopes: Option<Vec<Arc<HeaderMutationFilter>>>,
}

impl Filter {
    pub(super) fn new(config: &Arc<HeaderMutationFilter>, handle: &Rc<NativeHandle>) -> Filter {
        Filter { config: config.clone(), handle: handle.clone(), scopes: None }
    }

    fn run(&mut self, cx: &StreamCx<'_>, way: Way) -> Action {
        let scopes = self.scopes.get_or_insert_with(|| match self.handle.by_route(cx) {
            Some(OverrideConfig::HeaderMutation(scopes)) if self.config.most_specific_wins => scopes.clone(),
            Some(OverrideConfig::HeaderMutation(scopes)) => scopes.iter().rev().cloned().collect(),
            _ => Vec::new(),
        });
        let mut state = cx.stream.borrow_mut();
        for config in std::iter::once(&self.config).chain(scopes.iter()) {
            let changes = match way {
                Way::Request => &config.request,
                Way::Response => &config.response,
            };
            mutation::change(changes, &mut state, way);
        }
        Action::Continue
    }
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        self.run(cx, Way::Request)
    }

    fn on_response_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        self.run(cx, Way::Response)
    }
}
