//! Flattens descriptors into the tables that `src/schema.rs` reads: messages by full name, their fields by number, a
//! second index of the fields by name, enums. All names lie in one string, and everything else is small integers, so
//! that the tables need no relocation and only those pages are read that a lookup touches.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write;

use crate::descriptor::{EnumType, FieldType, File, MessageType};
use crate::supported::{Class, Supported, at};

const TYPE_MESSAGE: u32 = 11;
const TYPE_ENUM: u32 = 14;
const LABEL_REPEATED: i32 = 3;

/// Names of `Kind` in `src/schema.rs`, by `FieldDescriptorProto.Type`.
const KINDS: [&str; 19] = [
    "", "Double", "Float", "Int64", "Uint64", "Int32", "Fixed64", "Fixed32", "Bool", "String", "Group", "Message",
    "Bytes", "Uint32", "Enum", "Sfixed32", "Sfixed64", "Sint32", "Sint64",
];

/// Messages with a JSON form of their own, and its name in `WellKnown`.
const WELL_KNOWN: [(&str, &str); 15] = [
    ("Any", "Any"),
    ("BoolValue", "Wrapper"),
    ("BytesValue", "Wrapper"),
    ("DoubleValue", "Wrapper"),
    ("Duration", "Duration"),
    ("Empty", "Empty"),
    ("FloatValue", "Wrapper"),
    ("Int32Value", "Wrapper"),
    ("Int64Value", "Wrapper"),
    ("ListValue", "ListValue"),
    ("StringValue", "Wrapper"),
    ("Struct", "Struct"),
    ("Timestamp", "Timestamp"),
    ("UInt32Value", "Wrapper"),
    ("UInt64Value", "Wrapper"),
];

fn well_known(name: &str) -> &'static str {
    let Some(short) = name.strip_prefix("google.protobuf.") else { return "None" };
    if short == "Value" {
        return "Value";
    }
    WELL_KNOWN.iter().find(|(message, _)| *message == short).map_or("None", |(_, form)| form)
}

/// Every message and enum of the files, by full name.
#[derive(Default)]
struct Types<'a> {
    messages: BTreeMap<String, &'a MessageType>,
    enums: BTreeMap<String, &'a EnumType>,
}

impl<'a> Types<'a> {
    fn collect(files: &'a [File]) -> Self {
        let mut types = Self::default();
        for file in files.iter().filter(|file| wanted(&file.name)) {
            types.add(&file.package, &file.message, &file.enumeration);
        }
        types
    }

    fn add(&mut self, scope: &str, messages: &'a [MessageType], enums: &'a [EnumType]) {
        for one in enums {
            self.enums.insert(format!("{scope}.{}", one.name), one);
        }
        for one in messages {
            let name = format!("{scope}.{}", one.name);
            self.add(&name, &one.nested, &one.enumeration);
            self.messages.insert(name, one);
        }
    }

    /// A map is a repeated field of a message that the compiler named after it, with the fields `key` and `value`.
    fn is_map(&self, owner: &str, field: &FieldType) -> bool {
        let target = field.type_name.trim_start_matches('.');
        let generated = target.strip_prefix(owner).is_some_and(|rest| rest.ends_with("Entry"));
        generated
            && field.label == LABEL_REPEATED
            && self.messages.get(target).is_some_and(|entry| {
                entry.field.len() == 2 && entry.field[0].name == "key" && entry.field[1].name == "value"
            })
    }
}

/// Descriptors themselves and their annotations are never configuration.
fn wanted(file: &str) -> bool {
    file != "google/protobuf/descriptor.proto" && !file.starts_with("validate/")
}

/// All names, each once, in one string.
#[derive(Default)]
struct Names {
    text: String,
    known: HashMap<String, u32>,
}

impl Names {
    fn add(&mut self, name: &str) -> Result<String, Box<dyn Error>> {
        let start = match self.known.get(name) {
            Some(start) => *start,
            None => {
                let start = u32::try_from(self.text.len())?;
                self.text.push_str(name);
                self.known.insert(name.to_owned(), start);
                start
            }
        };
        Ok(format!("T({start},{})", u8::try_from(name.len())?))
    }
}

/// The Rust source of the tables.
pub(crate) fn generate(files: &[File], supported: &Supported) -> Result<String, Box<dyn Error>> {
    let types = Types::collect(files);
    check(&types, supported)?;
    let message_index: HashMap<&str, usize> = types.messages.keys().map(String::as_str).zip(0..).collect();
    let enum_index: HashMap<&str, usize> = types.enums.keys().map(String::as_str).zip(0..).collect();

    let mut names = Names::default();
    let (mut messages, mut fields, mut keys, mut inert) = (String::new(), String::new(), String::new(), String::new());
    let (mut field_count, mut key_count, mut inert_count) = (0, 0, 0);
    for (name, message) in &types.messages {
        let entry = supported.get(name);
        let mut own: Vec<&FieldType> = message.field.iter().collect();
        own.sort_by_key(|field| field.number);
        let mut own_keys: BTreeMap<&str, usize> = BTreeMap::new();
        for (position, field) in own.iter().enumerate() {
            own_keys.insert(&field.json_name, position);
            own_keys.insert(&field.name, position);
            let target = match field.kind {
                TYPE_MESSAGE => index(&message_index, field)?,
                TYPE_ENUM => index(&enum_index, field)?,
                _ => 0,
            };
            let values = inert_values(&types, entry, field)?;
            let class = entry.map_or(Class::Reject, |entry| entry.class(&field.name));
            writeln!(
                fields,
                "F({},{},K::{},{},{},{},C::{class:?},{},{}),",
                names.add(&field.name)?,
                field.number,
                KINDS.get(field.kind as usize).ok_or("unknown field type")?,
                flags(&types, name, field),
                u16::try_from(target)?,
                oneof(field)?,
                u16::try_from(inert_count)?,
                u8::try_from(values.len())?,
            )?;
            for value in values {
                write!(inert, "{value},")?;
                inert_count += 1;
            }
        }
        writeln!(
            messages,
            "M({},{field_count},{},{key_count},{},W::{},{}),",
            names.add(name)?,
            u16::try_from(own.len())?,
            u16::try_from(own_keys.len())?,
            well_known(name),
            class_of_message(supported, name),
        )?;
        for (key, position) in &own_keys {
            writeln!(keys, "Y({},{position}),", names.add(key)?)?;
            key_count += 1;
        }
        field_count += own.len();
    }
    let (enums, values) = enumerations(&types, &mut names)?;
    u16::try_from(types.messages.len().max(types.enums.len()))?;

    Ok([
        format!("pub(crate) static NAMES: &str = {:?};\n", names.text),
        table("MESSAGES", "M", &messages),
        table("FIELDS", "F", &fields),
        table("KEYS", "Y", &keys),
        table("ENUMS", "E", &enums),
        table("VALUES", "V", &values),
        table("INERT", "u64", &inert),
    ]
    .concat())
}

fn table(name: &str, kind: &str, rows: &str) -> String {
    format!("pub(crate) static {name}: &[{kind}] = &[\n{rows}];\n")
}

fn index(of: &HashMap<&str, usize>, field: &FieldType) -> Result<usize, Box<dyn Error>> {
    let name = field.type_name.trim_start_matches('.');
    of.get(name).copied().ok_or_else(|| format!("field {} is of the unknown type {name}", field.name).into())
}

/// The bits that `src/schema.rs` names.
fn flags(types: &Types<'_>, owner: &str, field: &FieldType) -> u8 {
    let repeated = field.label == LABEL_REPEATED;
    let numeric = !matches!(KINDS.get(field.kind as usize).copied(), Some("String" | "Bytes" | "Message" | "Group"));
    let unpacked = field.options.as_ref().is_some_and(|options| options.packed == Some(false));
    let sensitive = field.options.as_ref().is_some_and(|options| options.sensitive);
    u8::from(repeated)
        | u8::from(repeated && numeric && !unpacked) << 1
        | u8::from(types.is_map(owner, field)) << 2
        | u8::from(field.oneof_index.is_some()) << 3
        | u8::from(sensitive) << 4
}

/// 255 where there is none: a `proto3_optional` field stands alone in its oneof, so there is nothing to clash with.
fn oneof(field: &FieldType) -> Result<u8, Box<dyn Error>> {
    match field.oneof_index {
        Some(index) if !field.proto3_optional => Ok(u8::try_from(index)?),
        _ => Ok(u8::MAX),
    }
}

fn class_of_message(supported: &Supported, name: &str) -> &'static str {
    match supported.get(name) {
        Some(entry) if entry.class("*") == Class::Warn && entry.classes.len() == 1 => "C::Warn",
        Some(_) => "C::Supported",
        None if well_known(name) != "None" => "C::Supported",
        None => "C::Reject",
    }
}

/// The enums' and their values' rows.
fn enumerations(types: &Types<'_>, names: &mut Names) -> Result<(String, String), Box<dyn Error>> {
    let (mut enums, mut values, mut count) = (String::new(), String::new(), 0);
    for (name, one) in &types.enums {
        writeln!(enums, "E({},{count},{}),", names.add(name)?, u16::try_from(one.value.len())?)?;
        for value in &one.value {
            writeln!(values, "V({},{}),", names.add(&value.name)?, value.number)?;
            count += 1;
        }
    }
    Ok((enums, values))
}

/// Everything that `supported.txt` names exists, and every message below a supported field is described there.
fn check(types: &Types<'_>, supported: &Supported) -> Result<(), Box<dyn Error>> {
    for (name, entry) in supported {
        let message = types.messages.get(name).ok_or_else(|| at(entry.line, &format!("there is no message {name}")))?;
        let named = entry.classes.iter().map(|(field, (_, line))| (field, line));
        for (field, line) in named.chain(entry.inert.iter().map(|(field, _, line)| (field, line))) {
            if field != "*" && !message.field.iter().any(|one| one.name == *field) {
                return Err(at(*line, &format!("{name} has no field {field}")));
            }
        }
        for field in message.field.iter().filter(|field| field.kind == TYPE_MESSAGE) {
            if entry.class(&field.name) == Class::Supported {
                below(types, supported, name, field, entry.line)?;
            }
        }
    }
    Ok(())
}

fn below(
    types: &Types<'_>,
    supported: &Supported,
    owner: &str,
    field: &FieldType,
    line: usize,
) -> Result<(), Box<dyn Error>> {
    let mut target = field.type_name.trim_start_matches('.');
    if types.is_map(owner, field) {
        let value = types.messages.get(target).and_then(|entry| entry.field.get(1));
        match value {
            Some(value) if value.kind == TYPE_MESSAGE => target = value.type_name.trim_start_matches('.'),
            _ => return Ok(()),
        }
    }
    if well_known(target) == "None" && !supported.contains_key(target) {
        let problem = format!("field {} of {owner} is supported, so describe its message {target} as well", field.name);
        return Err(at(line, &problem));
    }
    Ok(())
}

/// The numbers that change nothing: as `src/audit.rs` reads them from a scalar, a wrapper or a duration (nanoseconds).
fn inert_values(
    types: &Types<'_>,
    entry: Option<&crate::supported::Entry>,
    field: &FieldType,
) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut values = Vec::new();
    for (name, literal, line) in entry.into_iter().flat_map(|entry| &entry.inert) {
        if *name != field.name {
            continue;
        }
        let value = match literal.as_str() {
            "false" | "{}" => Some(0),
            "true" => Some(1),
            number if number.ends_with('s') && number[..number.len() - 1].parse::<u64>().is_ok() => {
                number[..number.len() - 1].parse::<u64>().ok().map(|seconds| seconds * 1_000_000_000)
            }
            other => other.parse().ok().or_else(|| enum_number(types, field, other)),
        };
        values
            .push(value.ok_or_else(|| at(*line, &format!("`{literal}` is no value that {name} can be compared to")))?);
    }
    Ok(values)
}

fn enum_number(types: &Types<'_>, field: &FieldType, literal: &str) -> Option<u64> {
    let values = &types.enums.get(field.type_name.trim_start_matches('.'))?.value;
    values.iter().find(|value| value.name == literal).and_then(|value| u64::try_from(value.number).ok())
}
