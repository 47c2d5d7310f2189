//! The part of `descriptor.proto` that the tables need.
//!
//! `prost-types` has these messages too, but drops extensions when it decodes, and one extension matters:
//! `udpa.annotations.sensitive`.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub(crate) file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct File {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) package: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) message: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) enumeration: Vec<EnumType>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) field: Vec<FieldType>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nested: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) enumeration: Vec<EnumType>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) oneof: Vec<Oneof>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Oneof {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) number: u32,
    /// 1 optional, 2 required, 3 repeated.
    #[prost(int32, tag = "4")]
    pub(crate) label: i32,
    /// `FieldDescriptorProto.Type`, 1 (double) to 18 (sint64).
    #[prost(uint32, tag = "5")]
    pub(crate) kind: u32,
    /// With a leading dot.
    #[prost(string, tag = "6")]
    pub(crate) type_name: String,
    #[prost(message, optional, tag = "8")]
    pub(crate) options: Option<FieldOptions>,
    #[prost(uint32, optional, tag = "9")]
    pub(crate) oneof_index: Option<u32>,
    #[prost(string, tag = "10")]
    pub(crate) json_name: String,
    #[prost(bool, tag = "17")]
    pub(crate) proto3_optional: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldOptions {
    #[prost(bool, optional, tag = "2")]
    pub(crate) packed: Option<bool>,
    /// `udpa.annotations.sensitive`.
    #[prost(bool, tag = "76569463")]
    pub(crate) sensitive: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) value: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumValue {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) number: i32,
}
