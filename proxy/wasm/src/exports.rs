//! The guest's callbacks, resolved once per VM.

use wasmtime::{Instance, Store, TypedFunc};

use crate::host::Host;
use crate::module::Callbacks;

type Function<P, R> = Option<TypedFunc<P, R>>;

/// A header callback with or without `end_of_stream`.
pub(crate) enum HeadersCallback {
    None,
    Two(TypedFunc<(u32, u32), u32>),
    Three(TypedFunc<(u32, u32, u32), u32>),
}

impl HeadersCallback {
    pub(crate) const fn is_some(&self) -> bool {
        !matches!(self, HeadersCallback::None)
    }
}

/// Handles of everything that the host calls; `None` where the guest has no such export or may not be called.
pub(crate) struct Exports {
    pub(crate) context_create: Function<(u32, u32), ()>,
    pub(crate) vm_start: Function<(u32, u32), u32>,
    pub(crate) configure: Function<(u32, u32), u32>,
    pub(crate) tick: Function<u32, ()>,
    pub(crate) request_headers: HeadersCallback,
    pub(crate) request_body: Function<(u32, u32, u32), u32>,
    pub(crate) request_trailers: Function<(u32, u32), u32>,
    pub(crate) response_headers: HeadersCallback,
    pub(crate) response_body: Function<(u32, u32, u32), u32>,
    pub(crate) response_trailers: Function<(u32, u32), u32>,
    pub(crate) http_call_response: Function<(u32, u32, u32, u32, u32), ()>,
    pub(crate) grpc_initial_metadata: Function<(u32, u32, u32), ()>,
    pub(crate) grpc_receive: Function<(u32, u32, u32), ()>,
    pub(crate) grpc_trailing_metadata: Function<(u32, u32, u32), ()>,
    pub(crate) grpc_close: Function<(u32, u32, u32), ()>,
    pub(crate) queue_ready: Function<(u32, u32), ()>,
    pub(crate) new_connection: Function<u32, u32>,
    pub(crate) downstream_data: Function<(u32, u32, u32), u32>,
    pub(crate) upstream_data: Function<(u32, u32, u32), u32>,
    pub(crate) downstream_close: Function<(u32, u32), ()>,
    pub(crate) upstream_close: Function<(u32, u32), ()>,
    pub(crate) done: Function<u32, u32>,
    pub(crate) log: Function<u32, ()>,
    pub(crate) delete: Function<u32, ()>,
}

impl Exports {
    pub(crate) fn new(store: &mut Store<Host>, instance: &Instance, allowed: impl Fn(&str) -> bool) -> Exports {
        let mut find = Find { store, instance, allowed: &allowed };
        Exports {
            context_create: find.function("proxy_on_context_create"),
            vm_start: find.function("proxy_on_vm_start"),
            configure: find.function("proxy_on_configure"),
            tick: find.function("proxy_on_tick"),
            request_headers: find.headers("proxy_on_request_headers"),
            request_body: find.function("proxy_on_request_body"),
            request_trailers: find.function("proxy_on_request_trailers"),
            response_headers: find.headers("proxy_on_response_headers"),
            response_body: find.function("proxy_on_response_body"),
            response_trailers: find.function("proxy_on_response_trailers"),
            http_call_response: find.function("proxy_on_http_call_response"),
            grpc_initial_metadata: find.function("proxy_on_grpc_receive_initial_metadata"),
            grpc_receive: find.function("proxy_on_grpc_receive"),
            grpc_trailing_metadata: find.function("proxy_on_grpc_receive_trailing_metadata"),
            grpc_close: find.function("proxy_on_grpc_close"),
            queue_ready: find.function("proxy_on_queue_ready"),
            new_connection: find.function("proxy_on_new_connection"),
            downstream_data: find.function("proxy_on_downstream_data"),
            upstream_data: find.function("proxy_on_upstream_data"),
            downstream_close: find.function("proxy_on_downstream_connection_close"),
            upstream_close: find.function("proxy_on_upstream_connection_close"),
            done: find.function("proxy_on_done"),
            log: find.function("proxy_on_log"),
            delete: find.function("proxy_on_delete"),
        }
    }

    pub(crate) fn callbacks(&self) -> Callbacks {
        Callbacks {
            request_headers: self.request_headers.is_some(),
            request_body: self.request_body.is_some(),
            request_trailers: self.request_trailers.is_some(),
            response_headers: self.response_headers.is_some(),
            response_body: self.response_body.is_some(),
            response_trailers: self.response_trailers.is_some(),
            log: self.log.is_some(),
            tick: self.tick.is_some(),
            http_call_response: self.http_call_response.is_some(),
            new_connection: self.new_connection.is_some(),
            downstream_data: self.downstream_data.is_some(),
            upstream_data: self.upstream_data.is_some(),
        }
    }
}

/// An exported function of a type; `None` without an error, which would be costly to make for each export that is missing.
pub(crate) fn typed<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
    instance: &Instance,
    store: &mut Store<Host>,
    name: &str,
) -> Function<P, R> {
    let function = instance.get_func(&mut *store, name)?;
    function.typed(&*store).ok()
}

struct Find<'a, F> {
    store: &'a mut Store<Host>,
    instance: &'a Instance,
    allowed: &'a F,
}

impl<F: Fn(&str) -> bool> Find<'_, F> {
    /// Types were checked when the module was loaded.
    fn function<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(&mut self, name: &str) -> Function<P, R> {
        if !(self.allowed)(name) {
            return None;
        }
        typed(self.instance, self.store, name)
    }

    fn headers(&mut self, name: &str) -> HeadersCallback {
        // What doesn't fit is an error to wasmtime, which costs: it isn't asked for what the type says is no use.
        let params =
            self.instance.get_func(&mut *self.store, name).map(|function| function.ty(&*self.store).params().len());
        match params {
            Some(2) => self.function(name).map_or(HeadersCallback::None, HeadersCallback::Two),
            _ => self.function(name).map_or(HeadersCallback::None, HeadersCallback::Three),
        }
    }
}
