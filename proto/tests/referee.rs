//! `render` against `prost-reflect`, which reads and writes protobuf's JSON from descriptors: the same texts must give the
//! same messages, and the same messages the same texts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's failure is a panic")]

use std::sync::OnceLock;

use outrigger_proto::render::{Format, Style, parse, to_json};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value, json};

fn descriptor(name: &str) -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let bytes = &include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))[..];
    POOL.get_or_init(|| DescriptorPool::decode(bytes).unwrap()).get_message_by_name(name).unwrap()
}

fn reference_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
}

/// 5 and 5.0 are one number.
fn normal(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        Value::Object(members) => members.into_iter().map(|(key, value)| (key, normal(value))).collect(),
        other => other,
    }
}

/// The message that a text is, checked both ways against the reference.
#[track_caller]
fn check(name: &str, text: &str, format: Format) -> DynamicMessage {
    let bytes = parse(name, text.as_bytes(), format).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    let message = DynamicMessage::decode(descriptor(name), bytes.as_slice()).unwrap();
    assert_eq!(message.encoded_len(), bytes.len(), "nothing is written that a library would leave out: {text}");
    for style in [Style::Compact, Style::Pretty] {
        let printed = to_json(name, &bytes, style).unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        if !printed.to_string().contains("[redacted]") && !printed.to_string().contains("W3JlZGFjdGVkXQ==") {
            assert_eq!(normal(printed), normal(reference_json(&message)));
        }
    }
    message
}

#[track_caller]
fn check_json(name: &str, text: &str) {
    let message = check(name, text, Format::Json);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let reference = DynamicMessage::deserialize(descriptor(name), &mut deserializer).unwrap();
    // On the wire a default that was written is one that was not, and as text NaN equals itself.
    let reference = DynamicMessage::decode(descriptor(name), reference.encode_to_vec().as_slice()).unwrap();
    assert_eq!(normal(reference_json(&message)), normal(reference_json(&reference)), "{text}");
    assert_eq!(message.encoded_len(), reference.encoded_len(), "{text}");
}

#[test]
fn a_bootstrap_as_people_write_it() {
    let yaml = include_str!("bootstrap.yaml");
    let message = check("envoy.config.bootstrap.v3.Bootstrap", yaml, Format::Yaml);
    let expected: Value = serde_json::from_str(include_str!("bootstrap.json")).unwrap();
    assert_eq!(normal(reference_json(&message)), normal(expected));
    // What we print we read back as the same.
    let printed = to_json("envoy.config.bootstrap.v3.Bootstrap", &message.encode_to_vec(), Style::Pretty).unwrap();
    assert!(check("envoy.config.bootstrap.v3.Bootstrap", &printed, Format::Auto) == message, "{printed}");
}

#[test]
fn json_in_every_form() {
    for text in [
        "{}",
        r#"{"name": "c", "connectTimeout": "0.25s", "lbPolicy": "RANDOM", "perConnectionBufferLimitBytes": 32768}"#,
        r#"{"name": "\u00e4\ud83d\ude00\n\/", "connect_timeout": "-1.500s", "lb_policy": 2}"#,
        r#"{"upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 0, "keepalive_probes": "7"}}}"#,
        r#"{"metadata": {"filter_metadata": {"a": {"n": null, "b": true, "t": "x", "l": [1, 2.5, -1e3, []], "o": {}}}}}"#,
        r#"{"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}"#,
        r#"{"health_checks": [{"http_health_check": {"path": "/", "expected_statuses": [{"start": "200", "end": 201}]}}]}"#,
        r#"{"typed_extension_protocol_options": {"k": {"@type": "type.googleapis.com/google.protobuf.Duration",
            "value": "1s"}, "j": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"x": 1}}}}"#,
    ] {
        check_json("envoy.config.cluster.v3.Cluster", text);
    }
    let text = r#"{"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "x/y.Z", "value": {"a": 1}}"#;
    check_json("google.protobuf.Any", text);
    check_json("google.protobuf.Any", &text.replace("xds.type.v3", "udpa.type.v1"));
    for text in [r#"{"inline_bytes": "AAEC/+8="}"#, r#"{"inline_bytes": "AAEC_-8"}"#, r#"{"inline_string": ""}"#] {
        check_json("envoy.config.core.v3.DataSource", text);
    }
    check_json("envoy.admin.v3.UpdateFailureState", r#"{"last_update_attempt": "2026-01-31T12:00:00.5Z"}"#);
    check_json("envoy.type.v3.Percent", r#"{"value": 1e300}"#);
    check_json("envoy.config.route.v3.RetryPolicy", r#"{"retriable_status_codes": [503, 0, "7"]}"#);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: u64) -> Value {
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.any(depth),
            "google.protobuf.Struct" => return json!({"a b": self.value(depth), "": self.value(depth)}),
            "google.protobuf.Value" => return self.value(depth),
            "google.protobuf.ListValue" => return json!([self.value(depth)]),
            "google.protobuf.Duration" => return json!(*self.pick(&["0s", "1s", "-0.000000001s", "2.5s"])),
            "google.protobuf.Timestamp" => {
                return json!(*self.pick(&[
                    "1970-01-01T00:00:00Z",
                    "1969-12-31T23:59:59.999Z",
                    "2024-02-29T01:02:03.000004Z"
                ]));
            }
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                return self.single(&descriptor.get_field(1).unwrap(), depth);
            }
            _ => {}
        }
        let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
        let mut members = Map::new();
        let mut oneofs = Vec::new();
        for _ in 0..if fields.is_empty() { 0 } else { self.below(5) } {
            let field = self.pick(&fields).clone();
            if let Some(oneof) = field.containing_oneof() {
                if oneofs.contains(&oneof.name().to_owned()) {
                    continue;
                }
                oneofs.push(oneof.name().to_owned());
            }
            if members.contains_key(field.name()) || members.contains_key(field.json_name()) {
                continue;
            }
            if depth == 0 && matches!(field.kind(), Kind::Message(_)) {
                continue;
            }
            let name = if self.below(2) == 0 { field.name() } else { field.json_name() };
            let value = self.field(&field, depth);
            members.insert(name.to_owned(), value);
        }
        Value::Object(members)
    }

    fn any(&mut self, depth: u64) -> Value {
        const TYPES: [&str; 5] = [
            "envoy.extensions.filters.http.router.v3.Router",
            "google.protobuf.StringValue",
            "google.protobuf.Struct",
            "envoy.config.route.v3.FilterConfig",
            "outrigger.filters.http.wasm.v1.Wasm",
        ];
        let name = *self.pick(&TYPES);
        let value = self.message(&descriptor(name), depth.saturating_sub(1));
        let url = format!("type.googleapis.com/{name}");
        match value {
            Value::Object(mut members) if !name.starts_with("google.protobuf.") => {
                members.insert("@type".to_owned(), json!(url));
                Value::Object(members)
            }
            value => json!({"@type": url, "value": value}),
        }
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => json!(self.below(1000) as f64 / 8.0),
            2 => json!(*self.pick(&["", "true", "1", "a\"b\\\n\t\u{1}\u{7f}ö"])),
            3 => json!(self.below(2) == 0),
            4 => json!([self.value(depth - 1), self.value(depth - 1)]),
            _ => json!({"k": self.value(depth - 1), "j": self.value(depth - 1)}),
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u64) -> Value {
        let next = depth.saturating_sub(1);
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { panic!("a map's entry is a message") };
            let value = entry.map_entry_value_field();
            let keys = match entry.map_entry_key_field().kind() {
                Kind::String => ["b", ""],
                Kind::Bool => ["true", "false"],
                _ => ["7", "0"],
            };
            return Value::Object(keys.iter().map(|key| ((*key).to_owned(), self.single(&value, next))).collect());
        }
        if field.is_list() {
            return (0..self.below(3)).map(|_| self.single(field, next)).collect();
        }
        self.single(field, next)
    }

    fn single(&mut self, field: &FieldDescriptor, depth: u64) -> Value {
        match field.kind() {
            Kind::Message(message) => self.message(&message, depth),
            Kind::Enum(enumeration) => {
                let values: Vec<_> = enumeration.values().collect();
                let value = self.pick(&values).clone();
                if enumeration.full_name() == "google.protobuf.NullValue" { Value::Null } else { json!(value.name()) }
            }
            Kind::Bool => json!(self.below(2) == 0),
            Kind::String => {
                json!(*self.pick(&["", "x", "ä\u{0}\"", "a longer text that is not in any way special, only long"]))
            }
            Kind::Bytes => json!(*self.pick(&["", "AA==", "AAEC", "/+8="])),
            // The reference writes infinities in wrappers as null.
            Kind::Double | Kind::Float => json!(self.below(1 << 16) as f64 / -16.0),
            Kind::Uint32 | Kind::Fixed32 => json!(*self.pick(&[0, 1, 127, 128, u32::MAX])),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!(*self.pick(&[0, 1, -1, i32::MIN, i32::MAX])),
            Kind::Uint64 | Kind::Fixed64 => json!(self.pick(&[0, 1, u64::MAX]).to_string()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!(self.pick(&[0, -1, i64::MIN, i64::MAX]).to_string()),
        }
    }
}

#[test]
fn random_messages() {
    const MESSAGES: [&str; 9] = [
        "envoy.config.bootstrap.v3.Bootstrap",
        "envoy.config.listener.v3.Listener",
        "envoy.config.route.v3.RouteConfiguration",
        "envoy.config.route.v3.Route",
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "envoy.admin.v3.ConfigDump",
        "outrigger.filters.http.wasm.v1.Wasm",
    ];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..300 {
        for name in MESSAGES {
            let text = random.message(&descriptor(name), 6).to_string();
            check_json(name, &text);
        }
    }
}
