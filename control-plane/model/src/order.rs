//! Who goes first: Gateway API's precedence of hosts and of matches, and the order of filters.

use std::cmp::{Ordering, Reverse};

use crate::filter::WasmFilter;
use crate::ids::ObjectId;
use crate::route::{Match, PathMatch};

/// Exact before wildcard, long before short, `*` last; ties by text, so that the order is total.
pub(crate) fn compare_domains(a: &str, b: &str) -> Ordering {
    fn rank(domain: &str) -> (bool, Reverse<usize>, &str) {
        (domain.starts_with('*'), Reverse(domain.len()), domain)
    }
    rank(a).cmp(&rank(b))
}

/// The place of one match among those of a host. Smaller serves first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence<'a> {
    path_kind: u8,
    path_chars: Reverse<usize>,
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// Oldest first; one that has no time comes after those that do.
    created: (bool, u64),
    route: &'a ObjectId,
    rule: usize,
    index: usize,
}

impl<'a> Precedence<'a> {
    pub(crate) fn new(matcher: &Match, created: Option<u64>, route: &'a ObjectId, rule: usize, index: usize) -> Self {
        let (path_kind, path) = match &matcher.path {
            PathMatch::Exact(path) => (0, path),
            PathMatch::Prefix(path) => (1, path),
            PathMatch::Regex(path) => (2, path),
        };
        Self {
            path_kind,
            path_chars: Reverse(path.chars().count()),
            without_method: matcher.method.is_none(),
            headers: Reverse(matcher.headers.len()),
            query: Reverse(matcher.query.len()),
            created: (created.is_none(), created.unwrap_or(0)),
            route,
            rule,
            index,
        }
    }
}

/// Phase, then priority (high first), then namespace and name.
pub(crate) fn compare_filters(a: &WasmFilter, b: &WasmFilter) -> Ordering {
    let rank = |filter: &WasmFilter| (filter.phase, Reverse(filter.priority));
    rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::ValueMatch;

    #[test]
    fn exact_hosts_come_before_wildcards_and_long_before_short() {
        let mut domains = ["*", "*.example", "a.example", "*.b.example", "b.a.example", "c.a.example"];
        domains.sort_by(|a, b| compare_domains(a, b));
        assert_eq!(domains, ["b.a.example", "c.a.example", "a.example", "*.b.example", "*.example", "*"]);
    }

    fn matcher(path: PathMatch, method: bool, headers: usize, query: usize) -> Match {
        let values = |n: usize| (0..n).map(|i| (format!("n{i}").into(), ValueMatch::Exact("v".into()))).collect();
        Match { path, method: method.then(|| "GET".into()), headers: values(headers), query: values(query) }
    }

    #[test]
    fn matches_follow_gateway_api() {
        let (old, young) = (ObjectId::new("b", "b"), ObjectId::new("a", "a"));
        let ranked = [
            (matcher(PathMatch::Exact("/a".into()), false, 0, 0), None, &young),
            (matcher(PathMatch::Prefix("/aaa".into()), false, 0, 0), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), true, 0, 0), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 2, 0), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 1, 3), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 1, 1), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 0, 1), Some(1), &old),
            (matcher(PathMatch::Prefix("/aa".into()), false, 0, 1), Some(2), &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 0, 1), None, &young),
            (matcher(PathMatch::Prefix("/aa".into()), false, 0, 1), None, &old),
            (matcher(PathMatch::Prefix("/".into()), true, 9, 9), Some(0), &young),
            (matcher(PathMatch::Regex("/longer.*".into()), true, 9, 9), Some(0), &young),
            (matcher(PathMatch::Regex("/.*".into()), true, 9, 9), Some(0), &young),
        ];
        let places: Vec<_> = ranked.iter().map(|(m, created, id)| Precedence::new(m, *created, id, 0, 0)).collect();
        for (i, pair) in places.windows(2).enumerate() {
            assert!(pair[0] < pair[1], "{i}: {pair:#?}");
        }
    }
}
