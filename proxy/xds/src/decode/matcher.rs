//! Strings, headers, query parameters and paths to match.

mod metadata;
mod tree;

use bytes::Bytes;
use outrigger_config::{
    CookieMatcher, HeaderMatch, HeaderMatchName, HeaderMatcher, PathMatcher, QueryMatch, QueryMatcher, Regex,
    StringMatch, StringMatcher, UriTemplate,
};
use outrigger_http::HeaderName;
use outrigger_proto::pb;
use outrigger_proto::type_url::message_name;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::route::v3 as route;
use pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use pb::envoy::r#type::matcher::v3 as matcher;
use pb::google::protobuf::Any;
use prost::{Message, Name};

use super::access_log::message;
use crate::Diagnostics;

pub(crate) use metadata::metadata;
pub(crate) use tree::match_tree;

/// The longest regular expression.
const REGEX_BYTES_MAX: usize = 16 << 10;

pub(crate) fn regex(regex: &matcher::RegexMatcher, diagnostics: &mut Diagnostics) -> Option<Regex> {
    diagnostics.at("regex", |d| {
        if regex.regex.is_empty() {
            d.error("is required");
            return None;
        }
        if regex.regex.len() > REGEX_BYTES_MAX {
            d.error(format!("is longer than {REGEX_BYTES_MAX} bytes"));
            return None;
        }
        Regex::new(&regex.regex).map_err(|problem| d.error(format!("is no regular expression: {problem}"))).ok()
    })
}

/// A pattern with its substitution, from RE2's `\1` to this proxy's `${1}`.
pub(crate) fn rewrite(
    rewrite: &matcher::RegexMatchAndSubstitute,
    diagnostics: &mut Diagnostics,
) -> Option<(Regex, Bytes)> {
    let pattern = diagnostics.at("pattern", |d| {
        let Some(pattern) = &rewrite.pattern else {
            d.error("is required");
            return None;
        };
        regex(pattern, d)
    });
    let groups = pattern.as_ref().map_or(0, Regex::groups);
    let substitution = diagnostics
        .at("substitution", |d| substitution(&rewrite.substitution, groups).map_err(|text| d.error(text)).ok());
    Some((pattern?, substitution?))
}

fn substitution(text: &str, groups: usize) -> Result<Bytes, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit @ '0'..='9') => {
                    let group = digit.to_digit(10).unwrap_or_default() as usize;
                    if group > groups {
                        return Err(format!("\\{digit} names a group that the pattern doesn't have"));
                    }
                    out.push_str(&format!("${{{digit}}}"));
                }
                _ => return Err("a backslash is followed by a digit or a backslash".to_owned()),
            },
            '\n' | '\r' | '\0' => return Err("holds a line break or NUL".to_owned()),
            c => out.push(c),
        }
    }
    Ok(Bytes::from(out))
}

pub(crate) fn string(matcher: &matcher::StringMatcher, diagnostics: &mut Diagnostics) -> Option<StringMatcher> {
    use matcher::string_matcher::MatchPattern as Pattern;
    let text = |text: &str, field: &'static str, d: &mut Diagnostics| {
        // An empty affix or part matches everything: nobody means that.
        if text.is_empty() && field != "exact" {
            d.at(field, |d| d.error("is required"));
        }
        Bytes::copy_from_slice(text.as_bytes())
    };
    let pattern = match &matcher.match_pattern {
        Some(Pattern::Exact(exact)) => StringMatch::Exact(text(exact, "exact", diagnostics)),
        Some(Pattern::Prefix(prefix)) => StringMatch::Prefix(text(prefix, "prefix", diagnostics)),
        Some(Pattern::Suffix(suffix)) => StringMatch::Suffix(text(suffix, "suffix", diagnostics)),
        Some(Pattern::Contains(part)) => StringMatch::Contains(text(part, "contains", diagnostics)),
        Some(Pattern::SafeRegex(pattern)) => StringMatch::Regex(diagnostics.at("safe_regex", |d| regex(pattern, d))?),
        Some(Pattern::Custom(_)) => {
            diagnostics.at("custom", |d| d.error("is not supported"));
            return None;
        }
        None => {
            diagnostics.error("has no pattern");
            return None;
        }
    };
    Some(StringMatcher { pattern, ignore_case: matcher.ignore_case })
}

#[expect(deprecated, reason = "the older forms are still in use")]
pub(crate) fn header(proto: &route::HeaderMatcher, diagnostics: &mut Diagnostics) -> Option<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let name = diagnostics.at("name", |d| header_match_name(&proto.name, d));
    let plain = |pattern| HeaderMatch::String(StringMatcher { pattern, ignore_case: false });
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let matcher = match &proto.header_match_specifier {
        None => Some(HeaderMatch::Present(true)),
        Some(Specifier::PresentMatch(present)) => Some(HeaderMatch::Present(*present)),
        Some(Specifier::ExactMatch(text)) => Some(plain(StringMatch::Exact(bytes(text)))),
        Some(Specifier::PrefixMatch(text)) => Some(plain(StringMatch::Prefix(bytes(text)))),
        Some(Specifier::SuffixMatch(text)) => Some(plain(StringMatch::Suffix(bytes(text)))),
        Some(Specifier::ContainsMatch(text)) => Some(plain(StringMatch::Contains(bytes(text)))),
        Some(Specifier::SafeRegexMatch(pattern)) => {
            diagnostics.at("safe_regex_match", |d| regex(pattern, d)).map(|regex| plain(StringMatch::Regex(regex)))
        }
        Some(Specifier::RangeMatch(range)) => {
            if range.start >= range.end {
                diagnostics.at("range_match", |d| d.error("is empty"));
            }
            Some(HeaderMatch::Range(range.start, range.end))
        }
        Some(Specifier::StringMatch(matcher)) => {
            diagnostics.at("string_match", |d| string(matcher, d)).map(HeaderMatch::String)
        }
    };
    Some(HeaderMatcher {
        name: name?,
        matcher: matcher?,
        invert: proto.invert_match,
        treat_missing_as_empty: proto.treat_missing_header_as_empty,
    })
}

fn header_match_name(name: &str, diagnostics: &mut Diagnostics) -> Option<HeaderMatchName> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":method" => HeaderMatchName::Method,
        ":path" => HeaderMatchName::Path,
        ":authority" | "host" => HeaderMatchName::Authority,
        ":scheme" => HeaderMatchName::Scheme,
        ":status" => HeaderMatchName::Status,
        _ => HeaderMatchName::Header(header_name(name, diagnostics)?),
    })
}

pub(crate) fn header_name(name: &str, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    parsed.map_err(|_| diagnostics.error(format!("{name:?} is no header name"))).ok()
}

pub(crate) fn query(proto: &route::QueryParameterMatcher, diagnostics: &mut Diagnostics) -> Option<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    if proto.name.is_empty() || proto.name.len() > 1024 {
        diagnostics.at("name", |d| d.error("is required, of 1024 bytes at most"));
    }
    let matcher = match &proto.query_parameter_match_specifier {
        None => QueryMatch::Present(true),
        Some(Specifier::PresentMatch(present)) => QueryMatch::Present(*present),
        Some(Specifier::StringMatch(matcher)) => {
            QueryMatch::String(diagnostics.at("string_match", |d| string(matcher, d))?)
        }
    };
    Some(QueryMatcher { name: Bytes::copy_from_slice(proto.name.as_bytes()), matcher })
}

pub(crate) fn cookie(proto: &route::CookieMatcher, diagnostics: &mut Diagnostics) -> Option<CookieMatcher> {
    if proto.name.is_empty() || proto.name.len() > 1024 {
        diagnostics.at("name", |d| d.error("is required, of 1024 bytes at most"));
    }
    let matcher = diagnostics.at("string_match", |d| match &proto.string_match {
        Some(matcher) => string(matcher, d),
        None => {
            d.error("is required");
            None
        }
    });
    let name = Bytes::copy_from_slice(proto.name.as_bytes());
    Some(CookieMatcher { name, matcher: matcher?, invert: proto.invert_match })
}

fn template(policy: &core::TypedExtensionConfig, diagnostics: &mut Diagnostics) -> Option<UriTemplate> {
    diagnostics.at("typed_config", |d| {
        let config: UriTemplateMatchConfig = extension(policy.typed_config.as_ref(), d)?;
        d.at("path_template", |d| UriTemplate::new(&config.path_template).map_err(|problem| d.error(problem)).ok())
    })
}

/// The message of an extension point that knows one type.
pub(crate) fn extension<M: Message + Default + Name>(config: Option<&Any>, d: &mut Diagnostics) -> Option<M> {
    let Some(config) = config else {
        d.error("is required");
        return None;
    };
    let found = message_name(&config.type_url);
    if found != M::full_name() {
        d.error(format!("type {found} is not supported, only {}", M::NAME));
        return None;
    }
    message(config, d)
}

pub(crate) fn path(
    specifier: Option<&route::route_match::PathSpecifier>,
    diagnostics: &mut Diagnostics,
) -> Option<PathMatcher> {
    use route::route_match::PathSpecifier as Specifier;
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Some(match specifier {
        Some(Specifier::Prefix(prefix)) => PathMatcher::Prefix(bytes(prefix)),
        Some(Specifier::Path(path)) => {
            if path.contains(['?', '#']) {
                diagnostics.at("path", |d| d.error("holds a ? or #, which no path does"));
            }
            PathMatcher::Exact(bytes(path))
        }
        Some(Specifier::PathSeparatedPrefix(prefix)) => {
            if prefix.len() < 2 || !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                diagnostics.at("path_separated_prefix", |d| {
                    d.error("is not a path such as /a/b: it starts with / and ends with no /, and has no ? or #");
                });
            }
            PathMatcher::SeparatedPrefix(bytes(prefix))
        }
        Some(Specifier::SafeRegex(pattern)) => PathMatcher::Regex(diagnostics.at("safe_regex", |d| regex(pattern, d))?),
        Some(Specifier::ConnectMatcher(_)) => PathMatcher::Connect,
        Some(Specifier::PathMatchPolicy(policy)) => {
            PathMatcher::Template(diagnostics.at("path_match_policy", |d| template(policy, d))?)
        }
        None => {
            diagnostics.error("names no path: prefix, path, path_separated_prefix, safe_regex or connect_matcher");
            return None;
        }
    })
}
