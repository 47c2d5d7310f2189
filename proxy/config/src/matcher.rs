//! Compiled matchers for strings, headers, query parameters and paths (`envoy.type.matcher.v3`, `RouteMatch`).

mod metadata;
mod re2;
mod template;
mod tree;

use std::borrow::Cow;

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, RequestHead, ResponseHead};

pub use metadata::{MetadataMatcher, ValueMatcher};
pub use template::{UriTemplate, UriTemplateRewrite};
pub use tree::{Branches, Input, MatchTree, OnMatch, Predicate};

/// A regular expression that must match the whole input, as Envoy's `safe_regex` does.
/// The syntax is RE2's: see `re2`.
#[derive(Debug, Clone)]
pub struct Regex {
    pattern: String,
    full: regex::bytes::Regex,
    partial: regex::bytes::Regex,
}

impl Regex {
    /// The compiled program may take this much memory.
    pub const PROGRAM_BYTES_MAX: usize = 1 << 20;

    /// The error says what is wrong in one line.
    pub fn new(pattern: &str) -> Result<Regex, String> {
        let translated = re2::translate(pattern)?;
        let build = |text: &str| {
            let built = regex::bytes::RegexBuilder::new(text).size_limit(Regex::PROGRAM_BYTES_MAX).build();
            built.map_err(|error| last_line(&error.to_string()))
        };
        let partial = build(&translated)?;
        let full = build(&format!(r"\A(?:{translated})\z"))?;
        Ok(Regex { pattern: pattern.to_owned(), full, partial })
    }

    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.full.is_match(text)
    }

    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// How many groups can be referred to.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.partial.captures_len() - 1
    }

    /// Replaces every match; `substitution` uses RE2's `\1`, which the constructor of the rewrite has translated to
    /// this crate's `${1}`.
    #[must_use]
    pub fn replace_all(&self, text: &[u8], substitution: &[u8]) -> Bytes {
        Bytes::from(self.partial.replace_all(text, substitution).into_owned())
    }
}

/// The crate shows the expression over several lines; the last one says what is wrong.
fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher {
    pub pattern: StringMatch,
    /// Not used by [`StringMatch::Regex`].
    pub ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    Exact(Bytes),
    Prefix(Bytes),
    Suffix(Bytes),
    Contains(Bytes),
    Regex(Regex),
}

impl StringMatcher {
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| if self.ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.pattern {
            StringMatch::Exact(want) => same(text, want),
            StringMatch::Prefix(want) => text.len() >= want.len() && same(&text[..want.len()], want),
            StringMatch::Suffix(want) => text.len() >= want.len() && same(&text[text.len() - want.len()..], want),
            StringMatch::Contains(want) => want.is_empty() || text.windows(want.len()).any(|window| same(window, want)),
            StringMatch::Regex(regex) => regex.matches(text),
        }
    }
}

/// `envoy.config.route.v3.HeaderMatcher`. Pseudo headers (`:method`, `:path`, `:authority`, `:scheme`) match too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatcher {
    pub name: HeaderMatchName,
    pub matcher: HeaderMatch,
    pub invert: bool,
    pub treat_missing_as_empty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderMatchName {
    Header(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
    /// `:status`, of an answer.
    Status,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderMatch {
    Present(bool),
    String(StringMatcher),
    /// `start..end` of a decimal integer.
    Range(i64, i64),
}

impl HeaderMatchName {
    /// Of a request's head; `None`: a header, or what requests don't have.
    fn pseudo<'h>(&self, head: &'h RequestHead) -> Option<&'h [u8]> {
        match self {
            HeaderMatchName::Method => Some(head.method.as_bytes()),
            HeaderMatchName::Path => Some(&head.path),
            HeaderMatchName::Authority => Some(&head.authority),
            HeaderMatchName::Scheme => Some(head.scheme.as_str().as_bytes()),
            HeaderMatchName::Status | HeaderMatchName::Header(_) => None,
        }
    }

    /// All values of a request's header, with commas between them.
    fn joined<'h>(&'h self, head: &'h RequestHead) -> Option<Cow<'h, [u8]>> {
        let HeaderMatchName::Header(name) = self else { return self.pseudo(head).map(Cow::Borrowed) };
        let mut values = head.headers.get_all(name);
        match (values.next()?, values.next()) {
            (only, None) => Some(Cow::Borrowed(only)),
            (first, Some(second)) => {
                let all: Vec<&[u8]> = [first, second].into_iter().chain(values).map(|value| &value[..]).collect();
                Some(Cow::Owned(all.join(&b","[..])))
            }
        }
    }
}

impl HeaderMatcher {
    /// Of a request.
    #[must_use]
    pub fn matches(&self, head: &RequestHead) -> bool {
        match &self.name {
            HeaderMatchName::Header(name) => self.matches_header(name, &head.headers),
            other => self.matches_value(other.pseudo(head)),
        }
    }

    /// Of an answer.
    #[must_use]
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        match &self.name {
            HeaderMatchName::Header(name) => self.matches_header(name, &head.headers),
            HeaderMatchName::Status => self.matches_value(Some(head.status.to_string().as_bytes())),
            _ => self.matches_value(None),
        }
    }

    /// Of several values of a header each is looked at, and all of them joined by a comma, as Envoy does since 1.39.
    fn matches_header(&self, name: &HeaderName, headers: &Headers) -> bool {
        let mut values = headers.get_all(name);
        match (values.next(), values.next()) {
            (None, _) => self.matches_value(None),
            (Some(value), None) => self.matches_value(Some(value)),
            (Some(first), Some(second)) => {
                let all: Vec<&[u8]> = [first, second].into_iter().chain(values).map(|value| &value[..]).collect();
                let one = |value: &[u8]| self.matches_value(Some(value)) != self.invert;
                // Inverted: none of them.
                (all.iter().any(|value| one(value)) || one(&all.join(&b","[..]))) != self.invert
            }
        }
    }

    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        if let HeaderMatch::Present(present) = self.matcher {
            let found = value.is_some() || self.treat_missing_as_empty;
            return (found == present) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.treat_missing_as_empty => b"",
            // A header that is missing matches nothing, inverted or not.
            None => return false,
        };
        let matches = match &self.matcher {
            HeaderMatch::Present(_) => true,
            HeaderMatch::String(matcher) => matcher.matches(value),
            HeaderMatch::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        };
        matches != self.invert
    }
}

/// `envoy.config.route.v3.QueryParameterMatcher`; names and values are matched as they stand in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatcher {
    pub name: Bytes,
    pub matcher: QueryMatch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryMatch {
    Present(bool),
    String(StringMatcher),
}

impl QueryMatcher {
    /// The first parameter of the name decides.
    #[must_use]
    pub fn matches(&self, query: Option<&[u8]>) -> bool {
        let value = query.unwrap_or_default().split(|byte| *byte == b'&').find_map(|pair| {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            (name == &self.name[..]).then_some(value)
        });
        match &self.matcher {
            QueryMatch::Present(present) => value.is_some() == *present,
            QueryMatch::String(matcher) => value.is_some_and(|value| matcher.matches(value)),
        }
    }
}

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieMatcher {
    pub name: Bytes,
    pub matcher: StringMatcher,
    pub invert: bool,
}

impl CookieMatcher {
    #[must_use]
    pub fn matches(&self, headers: &Headers) -> bool {
        let matches = cookie(headers, &self.name).is_some_and(|value| self.matcher.matches(value));
        matches != self.invert
    }
}

/// The value of a request's cookie, its quotes left out.
#[must_use]
pub fn cookie<'h>(headers: &'h Headers, name: &[u8]) -> Option<&'h [u8]> {
    let pairs = headers.get_all(&HeaderName::COOKIE).flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = (&pair[..at], &pair[at + 1..]);
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (found == name).then_some(quoted.unwrap_or(value))
    })
}

/// The path part of a `RouteMatch`; the query is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatcher {
    Exact(Bytes),
    Prefix(Bytes),
    /// `path_separated_prefix`: the prefix, then nothing or `/`. Stored without a trailing slash.
    SeparatedPrefix(Bytes),
    Regex(Regex),
    /// `path_match_policy`: a URI template.
    Template(UriTemplate),
    /// `connect_matcher`: CONNECT requests.
    Connect,
}

impl PathMatcher {
    /// `ignore_case` is the negation of `case_sensitive`; a regex ignores it.
    #[must_use]
    pub fn matches(&self, path: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &[u8]| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        match self {
            PathMatcher::Exact(want) => same(path, want),
            PathMatcher::Prefix(want) => path.len() >= want.len() && same(&path[..want.len()], want),
            PathMatcher::SeparatedPrefix(want) => {
                path.len() >= want.len()
                    && same(&path[..want.len()], want)
                    && (path.len() == want.len() || path[want.len()] == b'/')
            }
            PathMatcher::Regex(regex) => regex.matches(path),
            PathMatcher::Template(template) => template.matches(path),
            PathMatcher::Connect => false,
        }
    }
}

#[cfg(test)]
#[path = "matcher/tests.rs"]
mod tests;
