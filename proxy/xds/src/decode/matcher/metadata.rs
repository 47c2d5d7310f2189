//! Metadata to match: `envoy.type.matcher.v3.MetadataMatcher`.

use outrigger_config::{MetadataMatcher, ValueMatcher};
use outrigger_proto::pb;
use pb::envoy::r#type::matcher::v3 as matcher;

use super::super::common::list;
use super::string;
use crate::Diagnostics;

/// Matchers within matchers.
const DEPTH_MAX: usize = 32;

pub(crate) fn metadata(proto: &matcher::MetadataMatcher, d: &mut Diagnostics) -> Option<MetadataMatcher> {
    use matcher::metadata_matcher::path_segment::Segment;
    if proto.filter.is_empty() {
        d.at("filter", |d| d.error("is required"));
    }
    let path = list(&proto.path, "path", d, |segment, d| {
        let key = segment.segment.as_ref().map(|Segment::Key(key)| &**key);
        path_key(key, d)
    });
    let value = d.at("value", |d| value(proto.value.as_ref(), d));
    Some(MetadataMatcher { namespace: proto.filter.clone(), path: path?, value: value?, invert: proto.invert })
}

/// A part of the way to a value.
pub(super) fn path_key(key: Option<&str>, d: &mut Diagnostics) -> Option<String> {
    let key = key.filter(|key| !key.is_empty()).map(str::to_owned);
    if key.is_none() {
        d.at("key", |d| d.error("is required"));
    }
    key
}

pub(super) fn value(proto: Option<&matcher::ValueMatcher>, d: &mut Diagnostics) -> Option<ValueMatcher> {
    match proto {
        Some(value) => value_matcher(value, 0, d),
        None => {
            d.error("is required");
            None
        }
    }
}

fn value_matcher(proto: &matcher::ValueMatcher, depth: usize, d: &mut Diagnostics) -> Option<ValueMatcher> {
    use matcher::double_matcher::MatchPattern as Double;
    use matcher::list_matcher::MatchPattern as List;
    use matcher::value_matcher::MatchPattern as Pattern;
    if depth > DEPTH_MAX {
        d.error(format!("is nested more than {DEPTH_MAX} deep"));
        return None;
    }
    match &proto.match_pattern {
        Some(Pattern::NullMatch(_)) => Some(ValueMatcher::Null),
        Some(Pattern::BoolMatch(value)) => Some(ValueMatcher::Bool(*value)),
        Some(Pattern::PresentMatch(present)) => Some(ValueMatcher::Present(*present)),
        Some(Pattern::StringMatch(matcher)) => d.at("string_match", |d| string(matcher, d)).map(ValueMatcher::String),
        Some(Pattern::DoubleMatch(matcher)) => match &matcher.match_pattern {
            Some(Double::Exact(number)) => Some(ValueMatcher::Number(number.to_bits())),
            Some(Double::Range(range)) => Some(ValueMatcher::Range(range.start.to_bits(), range.end.to_bits())),
            None => {
                d.at("double_match", |d| d.error("has no pattern"));
                None
            }
        },
        Some(Pattern::ListMatch(matcher)) => match &matcher.match_pattern {
            Some(List::OneOf(value)) => {
                let value = d.at("list_match", |d| value_matcher(value, depth + 1, d))?;
                Some(ValueMatcher::OneOf(Box::new(value)))
            }
            None => {
                d.at("list_match", |d| d.error("has no pattern"));
                None
            }
        },
        Some(Pattern::OrMatch(any)) => d
            .at("or_match", |d| {
                list(&any.value_matchers, "value_matchers", d, |value, d| value_matcher(value, depth + 1, d))
            })
            .map(ValueMatcher::Or),
        None => {
            d.error("has no pattern");
            None
        }
    }
}
