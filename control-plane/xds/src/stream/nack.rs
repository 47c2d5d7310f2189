//! Reads a rejection: which resources, and why.
//!
//! xDS has no field for the names of rejected resources. Our own proxy writes a line for each, `TYPE NAME: what is
//! wrong`; Envoy's texts hold the name somewhere, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 8 * 1024;

/// A rejection, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    /// Each rejected resource with its reason.
    pub(super) names: BTreeMap<Arc<str>, Arc<str>>,
    /// The client says exactly which resources it rejected: it took the others.
    pub(super) exact: bool,
}

/// Finds the rejected ones among the resources `sent`.
pub(super) fn parse(message: &str, sent: &[Arc<str>]) -> Rejection {
    let mut lines: BTreeMap<Arc<str>, Vec<&str>> = BTreeMap::new();
    for line in message.lines() {
        if let Some((name, reason)) = named_line(line, sent) {
            lines.entry(name).or_default().push(reason);
        }
    }
    if !lines.is_empty() {
        let names = lines.into_iter().map(|(name, reasons)| (name, bounded(&reasons.join("\n")))).collect();
        return Rejection { names, exact: true };
    }
    let reason = bounded(message.trim());
    let mentioned: Vec<_> = sent.iter().filter(|name| mentions(message, name)).collect();
    let guilty = if mentioned.is_empty() { sent.iter().collect() } else { mentioned };
    let names = guilty.into_iter().map(|name| (Arc::clone(name), Arc::clone(&reason))).collect();
    Rejection { names, exact: false }
}

/// `TYPE NAME: reason`. Names hold colons themselves, so the known names are tried, the longest first.
fn named_line<'a>(line: &'a str, sent: &[Arc<str>]) -> Option<(Arc<str>, &'a str)> {
    let (kind, rest) = line.trim().split_once(' ')?;
    if kind.is_empty() || kind.ends_with(':') {
        return None;
    }
    let fits = |name: &&Arc<str>| rest.strip_prefix(name.as_ref()).is_some_and(|rest| rest.starts_with(": "));
    let name = sent.iter().filter(fits).max_by_key(|name| name.len())?;
    Some((Arc::clone(name), rest.get(name.len() + 2..)?.trim()))
}

/// The name stands in the text as a word of its own: `shop/api:8` is not mentioned by `shop/api:80`.
fn mentions(message: &str, name: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == '/';
    !name.is_empty()
        && message.match_indices(name).any(|(at, _)| {
            let before = message[..at].chars().next_back();
            let after = message[at + name.len()..].chars().next();
            !before.is_some_and(inner) && !after.is_some_and(inner)
        })
}

/// At most [`REASON_BYTES_MAX`] bytes, cut between characters.
pub(super) fn bounded(text: &str) -> Arc<str> {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &[(&str, &str)], exact: bool) {
        let sent: Vec<Arc<str>> = ["shop/api:8", "shop/api:80", "shop/keys"].map(Into::into).to_vec();
        let rejection = parse(message, &sent);
        let names: Vec<_> = rejection.names.iter().map(|(name, reason)| (name.as_ref(), reason.as_ref())).collect();
        assert_eq!(names, expected, "{message}");
        assert_eq!(rejection.exact, exact, "{message}");
    }

    #[test]
    fn rejections() {
        check("Cluster shop/api:80: lb_policy: no", &[("shop/api:80", "lb_policy: no")], true);
        check(
            "Cluster shop/api:8: a\nCluster shop/api:80: b: c\nCluster other: d",
            &[("shop/api:8", "a"), ("shop/api:80", "b: c")],
            true,
        );
        check("Cluster shop/api:8: a\nCluster shop/api:8: b", &[("shop/api:8", "a\nb")], true);
        let envoy = "Error adding/updating cluster(s) shop/api:80: bad";
        check(envoy, &[("shop/api:80", envoy)], false);
        check("Unable", &[("shop/api:8", "Unable"), ("shop/api:80", "Unable"), ("shop/keys", "Unable")], false);
        check("", &[("shop/api:8", ""), ("shop/api:80", ""), ("shop/keys", "")], false);
        check("Wasm shop/keys: traps", &[("shop/keys", "traps")], true);
    }

    #[test]
    fn reasons_are_bounded() {
        let long = "é".repeat(REASON_BYTES_MAX);
        assert_eq!(bounded(&format!("x{long}")).len(), REASON_BYTES_MAX - 1);
    }
}
