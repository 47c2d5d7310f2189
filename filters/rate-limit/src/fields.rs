//! The values of `RateLimit-Policy` and `RateLimit`: lists of strings with parameters (RFC 9651). Limit names have no
//! character that a string would have to escape.

use std::fmt::Write;

use crate::bucket::{Left, Wait};
use crate::limit::Limit;

/// `"name";q=10;w=60, …`
pub(crate) fn policies(limits: &[Limit]) -> String {
    list(limits, |out, limit| {
        let (requests, seconds, burst) = limit.quota;
        write!(out, "\"{}\";q={requests};w={seconds}", limit.name)?;
        if burst == requests { Ok(()) } else { write!(out, ";burst={burst}") }
    })
}

/// `"name";r=9;t=1, …`
pub(crate) fn left(left: &[(&str, Left)]) -> String {
    list(left, |out, (name, left)| write!(out, "\"{name}\";r={};t={}", left.requests, left.seconds()))
}

/// `"name";r=0;t=1, …`
pub(crate) fn refused(refused: &[(&str, Wait)]) -> String {
    list(refused, |out, (name, wait)| write!(out, "\"{name}\";r=0;t={}", wait.seconds()))
}

fn list<T>(items: &[T], mut item: impl FnMut(&mut String, &T) -> std::fmt::Result) -> String {
    let mut out = String::new();
    for (at, value) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        // Writing to a string does not fail.
        let _written = item(&mut out, value);
    }
    out
}
