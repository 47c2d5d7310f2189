//! Matchers as a reader of the configuration would write them.

use crate::{HeaderMatch, HeaderMatchName, HeaderMatcher, PathMatcher, StringMatch, StringMatcher};

/// Entries of a list that are told.
const LIST_MAX: usize = 8;

pub(super) fn of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn list(items: &[String]) -> String {
    let mut text = items.iter().take(LIST_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if items.len() > LIST_MAX {
        text.push_str(&format!(" and {} more", items.len() - LIST_MAX));
    }
    format!("[{text}]")
}

pub(super) fn path(matcher: &PathMatcher) -> String {
    match matcher {
        PathMatcher::Exact(path) => format!("path {:?}", of(path)),
        PathMatcher::Prefix(prefix) => format!("prefix {:?}", of(prefix)),
        PathMatcher::SeparatedPrefix(prefix) => format!("path_separated_prefix {:?}", of(prefix)),
        PathMatcher::Regex(regex) => format!("safe_regex {:?}", regex.pattern()),
        PathMatcher::Template(_) => "path_match_policy (a URI template)".to_owned(),
        PathMatcher::Connect => "connect_matcher".to_owned(),
    }
}

pub(super) fn header(matcher: &HeaderMatcher) -> String {
    let name = match &matcher.name {
        HeaderMatchName::Header(name) => name.as_str().to_owned(),
        HeaderMatchName::Method => ":method".to_owned(),
        HeaderMatchName::Path => ":path".to_owned(),
        HeaderMatchName::Authority => ":authority".to_owned(),
        HeaderMatchName::Scheme => ":scheme".to_owned(),
        HeaderMatchName::Status => ":status".to_owned(),
    };
    let wanted = match &matcher.matcher {
        HeaderMatch::Present(present) => format!("present: {present}"),
        HeaderMatch::String(matcher) => string(matcher),
        HeaderMatch::Range(start, end) => format!("range {start}..{end}"),
    };
    format!("{name} ({}{wanted})", if matcher.invert { "not " } else { "" })
}

fn string(matcher: &StringMatcher) -> String {
    let (kind, value) = match &matcher.pattern {
        StringMatch::Exact(value) => ("exact", of(value)),
        StringMatch::Prefix(value) => ("prefix", of(value)),
        StringMatch::Suffix(value) => ("suffix", of(value)),
        StringMatch::Contains(value) => ("contains", of(value)),
        StringMatch::Regex(regex) => ("regex", regex.pattern().to_owned()),
    };
    format!("{kind} {value:?}")
}
