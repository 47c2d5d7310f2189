//! Conditions: expressions that say yes or no.

use outrigger_attributes::Expression;
use outrigger_http::StreamState;

/// Whether an expression is true of a stream; one that can't be evaluated isn't.
pub(crate) fn holds(expression: &Expression, state: &StreamState) -> bool {
    let outcome = expression.evaluate(&|path| outrigger_attributes::lookup(state, path));
    outcome.and_then(|outcome| outcome.as_bool()) == Some(true)
}
