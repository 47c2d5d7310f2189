//! Matchers, by example.

use bytes::Bytes;
use outrigger_http::{HeaderName, RequestHead};

use super::{HeaderMatch, HeaderMatchName, HeaderMatcher, QueryMatch, QueryMatcher, Regex, StringMatch, StringMatcher};

fn string(pattern: StringMatch) -> StringMatcher {
    StringMatcher { pattern, ignore_case: false }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn strings_match() {
    let check = |pattern: StringMatch, text: &str, plain: bool, any_case: bool| {
        let matches = |ignore_case| StringMatcher { pattern: pattern.clone(), ignore_case }.matches(text.as_bytes());
        assert_eq!((matches(false), matches(true)), (plain, any_case), "{pattern:?} {text}");
    };
    check(StringMatch::Exact(bytes("ab")), "ab", true, true);
    check(StringMatch::Exact(bytes("ab")), "AB", false, true);
    check(StringMatch::Exact(bytes("ab")), "abc", false, false);
    check(StringMatch::Prefix(bytes("ab")), "ABc", false, true);
    check(StringMatch::Prefix(bytes("ab")), "a", false, false);
    check(StringMatch::Suffix(bytes("bc")), "abc", true, true);
    check(StringMatch::Suffix(bytes("bc")), "c", false, false);
    check(StringMatch::Contains(bytes("b")), "aBc", false, true);
    check(StringMatch::Contains(bytes("")), "", true, true);
    check(StringMatch::Regex(Regex::new("a|ab").unwrap()), "ab", true, true);
    check(StringMatch::Regex(Regex::new("a").unwrap()), "ab", false, false);
}

#[test]
fn regexes_are_bounded_and_replace_every_match() {
    assert!(Regex::new("(a{1000}){1000}").is_err(), "the program would be too large");
    assert!(Regex::new("(").is_err());
    let regex = Regex::new("/([a-z]+)").unwrap();
    assert_eq!(regex.groups(), 1);
    assert_eq!(&regex.replace_all(b"/a/b", b"<${1}>")[..], b"<a><b>");
    assert_eq!(regex, Regex::new("/([a-z]+)").unwrap());
}

#[test]
fn headers_match() {
    let mut head = RequestHead::default();
    for (name, value) in [("x", "a"), ("x", "b"), ("n", "42"), ("empty", "")] {
        head.headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), bytes(value));
    }
    let check = |name: &str, matcher: HeaderMatch, expected: bool, inverted: bool| {
        let name = HeaderMatchName::Header(HeaderName::from_bytes(name.as_bytes()).unwrap());
        let with = |invert, treat_missing_as_empty| {
            let (name, matcher) = (name.clone(), matcher.clone());
            HeaderMatcher { name, matcher, invert, treat_missing_as_empty }.matches(&head)
        };
        assert_eq!((with(false, false), with(true, false)), (expected, inverted), "{name:?} {matcher:?}");
        with(false, true)
    };
    let exact = |text| HeaderMatch::String(string(StringMatch::Exact(bytes(text))));
    check("x", exact("a,b"), true, false);
    check("x", exact("a"), true, false);
    check("x", exact("b"), true, false);
    check("x", exact("c"), false, true);
    check("x", HeaderMatch::Present(true), true, false);
    check("x", HeaderMatch::Present(false), false, true);
    // A missing header matches nothing, inverted or not; but it may count as empty.
    assert!(check("gone", exact(""), false, false));
    assert!(!check("gone", exact("a"), false, false));
    check("gone", HeaderMatch::Present(true), false, true);
    check("empty", exact(""), true, false);
    check("n", HeaderMatch::Range(42, 43), true, false);
    check("n", HeaderMatch::Range(0, 42), false, true);
    check("x", HeaderMatch::Range(0, 42), false, true);
}

#[test]
fn query_parameters_match_by_their_first_value() {
    let check = |matcher: QueryMatch, query: Option<&str>, expected: bool| {
        let matcher = QueryMatcher { name: bytes("a"), matcher };
        assert_eq!(matcher.matches(query.map(str::as_bytes)), expected, "{matcher:?} {query:?}");
    };
    let exact = |text| QueryMatch::String(string(StringMatch::Exact(bytes(text))));
    check(exact("1"), Some("b=2&a=1"), true);
    check(exact("1"), Some("a=2&a=1"), false);
    check(exact(""), Some("a"), true);
    check(exact(""), Some("aa=1"), false);
    check(exact(""), None, false);
    check(QueryMatch::Present(true), Some("a="), true);
    check(QueryMatch::Present(false), None, true);
}
