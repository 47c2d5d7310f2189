//! `envoy.type.matcher.v3.MetadataMatcher`: what filters have noted about a stream, or what its route has.

use outrigger_http::{Metadata, MetadataValue, StreamMetadata};

use super::StringMatcher;

/// A value of the stream's dynamic metadata, by namespace and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataMatcher {
    pub namespace: String,
    /// Never empty.
    pub path: Vec<String>,
    pub value: ValueMatcher,
    pub invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatcher {
    Null,
    Bool(bool),
    /// The bits of the number, which compare as it does.
    Number(u64),
    /// `start..end`, as bits.
    Range(u64, u64),
    String(StringMatcher),
    Present(bool),
    /// A list with a value that matches.
    OneOf(Box<ValueMatcher>),
    Or(Vec<ValueMatcher>),
}

impl MetadataMatcher {
    #[must_use]
    pub fn matches(&self, metadata: Option<&StreamMetadata>) -> bool {
        self.value.matches(self.find(metadata)) != self.invert
    }

    /// The same in metadata that isn't a stream's own.
    #[must_use]
    pub fn matches_in(&self, metadata: Option<&Metadata>) -> bool {
        self.value.matches(metadata.and_then(|metadata| self.find_in(metadata))) != self.invert
    }

    /// The same without the inversion; `None`: there is no value.
    pub(crate) fn holds(&self, metadata: Option<&StreamMetadata>) -> Option<bool> {
        self.find(metadata).map(|value| self.value.matches(Some(value)))
    }

    fn find<'m>(&self, metadata: Option<&'m StreamMetadata>) -> Option<&'m MetadataValue> {
        self.find_in(&metadata?.dynamic)
    }

    fn find_in<'m>(&self, metadata: &'m Metadata) -> Option<&'m MetadataValue> {
        let (first, rest) = self.path.split_first()?;
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        metadata.get(&self.namespace, first)?.walk(&rest)
    }
}

impl ValueMatcher {
    fn matches(&self, value: Option<&MetadataValue>) -> bool {
        match (self, value) {
            (ValueMatcher::Present(present), value) => value.is_some() == *present,
            (ValueMatcher::Or(any), value) => any.iter().any(|one| one.matches(value)),
            (ValueMatcher::Null, Some(MetadataValue::Null)) => true,
            (ValueMatcher::Bool(want), Some(MetadataValue::Bool(found))) => want == found,
            #[expect(clippy::float_cmp, reason = "the configuration asks for this very number")]
            (ValueMatcher::Number(want), Some(MetadataValue::Number(found))) => {
                f64::from_bits(*want) == f64::from_bits(*found)
            }
            (ValueMatcher::Range(start, end), Some(MetadataValue::Number(found))) => {
                (f64::from_bits(*start)..f64::from_bits(*end)).contains(&f64::from_bits(*found))
            }
            (ValueMatcher::String(matcher), Some(MetadataValue::String(found))) => matcher.matches(found.as_bytes()),
            (ValueMatcher::OneOf(matcher), Some(MetadataValue::List(found))) => {
                found.iter().any(|value| matcher.matches(Some(value)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StringMatch;

    #[test]
    fn values_by_namespace_and_path() {
        let mut dynamic = Metadata::default();
        dynamic.set("ns", "role", MetadataValue::String("admin".into()));
        dynamic.set("ns", "level", MetadataValue::number(3.0));
        dynamic.set("ns", "groups", MetadataValue::List([MetadataValue::String("a".into())].into()));
        let metadata = StreamMetadata { dynamic, ..StreamMetadata::default() };
        let text = |text: &'static str| {
            let pattern = StringMatch::Exact(bytes::Bytes::from_static(text.as_bytes()));
            ValueMatcher::String(StringMatcher { pattern, ignore_case: false })
        };
        let check = |key: &str, value: ValueMatcher, expected: bool| {
            let path = vec![key.to_owned()];
            let mut matcher = MetadataMatcher { namespace: "ns".to_owned(), path, value, invert: false };
            assert_eq!(matcher.matches(Some(&metadata)), expected, "{matcher:?}");
            matcher.invert = true;
            assert_eq!(matcher.matches(Some(&metadata)), !expected);
        };
        check("role", text("admin"), true);
        check("role", text("guest"), false);
        check("none", text("admin"), false);
        check("none", ValueMatcher::Present(false), true);
        check("level", ValueMatcher::Number(3.0_f64.to_bits()), true);
        check("level", ValueMatcher::Range(3.0_f64.to_bits(), 4.0_f64.to_bits()), true);
        check("level", ValueMatcher::Range(1.0_f64.to_bits(), 3.0_f64.to_bits()), false);
        check("groups", ValueMatcher::OneOf(Box::new(text("a"))), true);
        check("role", ValueMatcher::Or(vec![text("guest"), text("admin")]), true);
    }
}
