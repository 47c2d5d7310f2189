//! What can be asked of a stream by name: Envoy's attributes (`request.path`, `xds.route_metadata`), and expressions over
//! them in CEL.
//!
//! Filters' guests read attributes one by one, as properties; access logs, formats and RBAC ask by expressions. The values
//! are the same. Nothing here does I/O or knows a configuration.

mod expression;
mod messages;
mod names;
mod node;
mod stream;
mod value;
pub mod wire;

pub use expression::{Ast, Expression, ExpressionError, Outcome, ast};
pub use names::{ROOTS, fields_of};
pub use node::{Node, node, set_node};
pub use stream::{Objects, of_connection, of_stream};
pub use value::{Lookup, Property};

/// What a path leads to in a stream, which may be a connection that is no request, in this process's node.
#[must_use]
pub fn lookup(state: &outrigger_http::StreamState, path: &[&str]) -> Lookup {
    match path {
        ["xds", "node", rest @ ..] => node::node().map_or(Lookup::Absent, |node| node.lookup(rest)),
        // Only requests have a path, or an authority where they have none.
        _ if state.request.path.is_empty() && state.request.authority.is_empty() => of_connection(state, None, path),
        _ => of_stream(state, None, path),
    }
}
