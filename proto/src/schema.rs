//! Envoy's and our messages as tables: what `render` and `audit` look fields up in.
//!
//! `build/schema.rs` writes the tables. They hold no pointers, so that the loader relocates nothing and an untouched
//! page is never read: a process that neither renders nor audits pays nothing for them.

/// A name: offset and length in [`generated::NAMES`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct T(u32, u8);

/// A message.
#[derive(Debug)]
pub(crate) struct M(T, u16, u16, u32, u16, W, C);

/// A field of the message whose range of the table it lies in.
#[derive(Debug)]
pub(crate) struct F(T, u32, K, u8, u16, u8, C, u16, u8);

/// A name that a field of a message may be written with, and the field's position in the message.
#[derive(Debug)]
pub(crate) struct Y(T, u16);

/// An enum: name, first value, number of values.
#[derive(Debug)]
pub(crate) struct E(T, u32, u16);

/// An enum's value.
#[derive(Debug)]
pub(crate) struct V(T, i32);

pub(crate) use {
    C as Class, E as Enum, F as Field, K as Kind, M as Message, T as Text, V as EnumValue, W as WellKnown,
};

/// A field's type, as `FieldDescriptorProto.Type` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "the API as it is now has no field of some of these types")]
pub(crate) enum K {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message,
    Bytes,
    Uint32,
    Enum,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

/// How a field of a binary message starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

/// Which JSON form a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum W {
    /// Its fields.
    None,
    Any,
    Duration,
    Empty,
    ListValue,
    Struct,
    Timestamp,
    Value,
    Wrapper,
}

/// What `supported.txt` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum C {
    Supported,
    /// Supported, and not looked into.
    Opaque,
    Warn,
    Reject,
}

mod generated {
    use super::{C, E, F, K, M, T, V, W, Y};

    include!(concat!(env!("OUT_DIR"), "/schema.rs"));
}

use generated::{ENUMS, FIELDS, INERT, KEYS, MESSAGES, NAMES, VALUES};

/// The message of a full name such as `envoy.config.listener.v3.Listener`.
pub(crate) fn message(full_name: &str) -> Option<&'static Message> {
    let index = MESSAGES.binary_search_by(|message| message.name().cmp(full_name)).ok()?;
    MESSAGES.get(index)
}

impl Text {
    fn get(self) -> &'static str {
        let start = self.0 as usize;
        NAMES.get(start..start + usize::from(self.1)).unwrap_or_default()
    }
}

impl Message {
    /// The full name.
    pub(crate) fn name(&self) -> &'static str {
        self.0.get()
    }

    /// In the order of their numbers.
    pub(crate) fn fields(&self) -> &'static [Field] {
        let start = self.1 as usize;
        FIELDS.get(start..start + usize::from(self.2)).unwrap_or_default()
    }

    /// The field that is written so, in snake_case or camelCase.
    pub(crate) fn field_named(&self, name: &str) -> Option<&'static Field> {
        let start = self.3 as usize;
        let keys = KEYS.get(start..start + usize::from(self.4))?;
        let key = keys.get(keys.binary_search_by(|key| key.0.get().cmp(name)).ok()?)?;
        self.fields().get(usize::from(key.1))
    }

    /// The field with a number.
    pub(crate) fn field_numbered(&self, number: u32) -> Option<&'static Field> {
        let fields = self.fields();
        // Most messages number their fields from 1 without a gap.
        let likely = fields.get((number as usize).wrapping_sub(1)).filter(|field| field.number() == number);
        likely.or_else(|| fields.get(fields.binary_search_by_key(&number, Field::number).ok()?))
    }

    pub(crate) fn well_known(&self) -> WellKnown {
        self.5
    }

    /// Whether the message may stand in an `Any`: `Warn` for what only observes.
    pub(crate) fn class(&self) -> Class {
        self.6
    }
}

impl Field {
    /// In snake_case.
    pub(crate) fn name(&self) -> &'static str {
        self.0.get()
    }

    pub(crate) fn number(&self) -> u32 {
        self.1
    }

    pub(crate) fn kind(&self) -> Kind {
        self.2
    }

    pub(crate) fn is_repeated(&self) -> bool {
        self.3 & 1 != 0
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.3 & 2 != 0
    }

    pub(crate) fn is_map(&self) -> bool {
        self.3 & 4 != 0
    }

    /// Whether a zero that is written differs from a field that is not.
    pub(crate) fn has_presence(&self) -> bool {
        self.3 & 8 != 0
    }

    /// Whether the value must not be shown.
    pub(crate) fn is_sensitive(&self) -> bool {
        self.3 & 16 != 0
    }

    /// The message of a field of kind `Message`; a map's is its entry, with the fields `key` and `value`.
    pub(crate) fn message(&self) -> Option<&'static Message> {
        (self.2 == Kind::Message).then(|| MESSAGES.get(usize::from(self.4))).flatten()
    }

    /// What a map's keys and values are.
    pub(crate) fn map_entry(&self) -> Option<(&'static Field, &'static Field)> {
        if !self.is_map() {
            return None;
        }
        let entry = self.message()?;
        Some((entry.field_numbered(1)?, entry.field_numbered(2)?))
    }

    /// The enum of a field of kind `Enum`.
    pub(crate) fn enumeration(&self) -> Option<&'static Enum> {
        (self.2 == Kind::Enum).then(|| ENUMS.get(usize::from(self.4))).flatten()
    }

    /// A number that is the same for the fields of one oneof.
    pub(crate) fn oneof(&self) -> Option<u8> {
        (self.5 != u8::MAX).then_some(self.5)
    }

    pub(crate) fn class(&self) -> Class {
        self.6
    }

    /// Values that change nothing where the field is not supported.
    pub(crate) fn inert(&self) -> &'static [u64] {
        let start = usize::from(self.7);
        INERT.get(start..start + usize::from(self.8)).unwrap_or_default()
    }
}

impl Enum {
    pub(crate) fn values(&self) -> &'static [EnumValue] {
        let start = self.1 as usize;
        VALUES.get(start..start + usize::from(self.2)).unwrap_or_default()
    }

    /// The full name.
    pub(crate) fn name(&self) -> &'static str {
        self.0.get()
    }
}

impl EnumValue {
    pub(crate) fn name(&self) -> &'static str {
        self.0.get()
    }

    pub(crate) fn number(&self) -> i32 {
        self.1
    }
}

impl Kind {
    pub(crate) fn wire_type(self) -> WireType {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => WireType::Fixed64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => WireType::Fixed32,
            Self::String | Self::Bytes | Self::Message => WireType::Delimited,
            _ => WireType::Varint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_by_name_and_fields_by_name_and_number() {
        let listener = message("envoy.config.listener.v3.Listener").unwrap();
        let chains = listener.field_named("filter_chains").unwrap();
        assert_eq!(chains.number(), 3);
        assert_eq!(listener.field_named("filterChains").unwrap().number(), 3);
        assert_eq!(listener.field_numbered(3).unwrap().name(), "filter_chains");
        assert!(chains.is_repeated() && !chains.is_packed() && !chains.is_map());
        assert_eq!(chains.message().unwrap().name(), "envoy.config.listener.v3.FilterChain");
        assert!(listener.field_named("filter_chain").is_none());
        assert!(listener.field_numbered(0).is_none());
        assert!(listener.field_numbered(u32::MAX).is_none());
        assert!(message("envoy.config.listener.v3.Listene").is_none());
    }

    #[test]
    fn traits_of_fields() {
        let cluster = message("envoy.config.cluster.v3.Cluster").unwrap();
        let field = |name| cluster.field_named(name).unwrap();
        assert!(field("typed_extension_protocol_options").is_map());
        assert!(field("type").has_presence() && field("type").oneof().is_some());
        assert_eq!(field("type").oneof(), field("cluster_type").oneof());
        assert!(!field("name").has_presence());
        assert!(field("lb_policy").enumeration().unwrap().values().iter().any(|value| value.name() == "MAGLEV"));
        let certificate = message("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
        assert!(certificate.field_named("private_key").unwrap().is_sensitive());
        assert!(!certificate.field_named("certificate_chain").unwrap().is_sensitive());
        let policy = message("envoy.config.route.v3.RetryPolicy").unwrap();
        assert!(policy.field_named("retriable_status_codes").unwrap().is_packed());
    }

    #[test]
    fn every_table_is_in_the_order_that_lookups_rely_on() {
        assert!(MESSAGES.is_sorted_by(|a, b| a.name() < b.name()));
        for message in MESSAGES {
            assert!(message.fields().is_sorted_by(|a, b| a.number() < b.number()), "{}", message.name());
            for field in message.fields() {
                assert!(std::ptr::eq(message.field_named(field.name()).unwrap(), field), "{}", field.name());
                assert!(std::ptr::eq(message.field_numbered(field.number()).unwrap(), field), "{}", field.name());
                assert_eq!(field.message().is_some(), field.kind() == Kind::Message);
                assert_eq!(field.enumeration().is_some(), field.kind() == Kind::Enum);
            }
        }
    }
}
