//! Access logs, and the formats that they and local replies share.

mod filter;

use std::path::Path;
use std::sync::Arc;

use outrigger_config::{AccessLog, AccessLogFormat, AccessLogSink, Format, JsonNode};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::accesslog::v3 as accesslog;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::access_loggers::{file::v3 as file, stream::v3 as stream, wasm::v3 as wasm};
use pb::google::protobuf::{Any, Struct, Value, value::Kind};
use prost::Message;

use crate::Diagnostics;

/// Loggers that only observe: without them fewer lines are written.
const IGNORED: &[&str] = &[
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
];

/// JSON formats may be nested this deep.
const DEPTH_MAX: usize = 16;

pub(crate) fn access_logs(logs: &[accesslog::AccessLog], diagnostics: &mut Diagnostics) -> Vec<AccessLog> {
    let logs = logs.iter().enumerate();
    logs.filter_map(|(index, log)| diagnostics.at_index("access_log", index, |d| access_log(log, d))).collect()
}

fn access_log(log: &accesslog::AccessLog, diagnostics: &mut Diagnostics) -> Option<AccessLog> {
    let Some(accesslog::access_log::ConfigType::TypedConfig(config)) = &log.config_type else {
        diagnostics.at("typed_config", |d| d.error("is required"));
        return None;
    };
    let name: Arc<str> = Arc::from(log.name.as_str());
    let filter = log.filter.as_ref().map(|filter| diagnostics.at("filter", |d| filter::filter(filter, 0, d)));
    let found = diagnostics.at("typed_config", |d| logger(&name, config, d))?;
    Some(AccessLog { filter: filter.flatten(), ..found })
}

fn logger(logger_name: &Arc<str>, config: &Any, diagnostics: &mut Diagnostics) -> Option<AccessLog> {
    match type_url::message_name(&config.type_url) {
        name if name == type_url::message_name(type_url::FILE_ACCESS_LOG) => {
            let config: file::FileAccessLog = message(config, diagnostics)?;
            file_log(config, diagnostics)
        }
        name if name == type_url::message_name(type_url::STDOUT_ACCESS_LOG) => {
            use stream::stdout_access_log::AccessLogFormat as Proto;
            let config: stream::StdoutAccessLog = message(config, diagnostics)?;
            let format = config.access_log_format.map(|Proto::LogFormat(format)| format);
            let format = log_format(format.as_ref(), diagnostics)?;
            Some(AccessLog { sink: AccessLogSink::Stdout, format, filter: None })
        }
        name if name == type_url::message_name(type_url::STDERR_ACCESS_LOG) => {
            use stream::stderr_access_log::AccessLogFormat as Proto;
            let config: stream::StderrAccessLog = message(config, diagnostics)?;
            let format = config.access_log_format.map(|Proto::LogFormat(format)| format);
            let format = log_format(format.as_ref(), diagnostics)?;
            Some(AccessLog { sink: AccessLogSink::Stderr, format, filter: None })
        }
        name if name == type_url::message_name(type_url::WASM_ACCESS_LOG) => {
            let config: wasm::WasmAccessLog = message(config, diagnostics)?;
            let plugin = super::wasm::plugin_of(logger_name, config.config.as_ref(), diagnostics)?;
            let format = AccessLogFormat::Json(Vec::new());
            Some(AccessLog { sink: AccessLogSink::Wasm(Arc::new(plugin)), format, filter: None })
        }
        name if IGNORED.contains(&name) => {
            diagnostics.ignore(format!("type {name} is not supported; it only observes and is ignored"));
            None
        }
        name => {
            diagnostics.error(format!("type {name} is not supported"));
            None
        }
    }
}

/// The message in an `Any` whose type has been looked at.
pub(crate) fn message<M: Message + Default>(config: &Any, diagnostics: &mut Diagnostics) -> Option<M> {
    M::decode(&config.value[..]).map_err(|error| diagnostics.error(format!("malformed message: {error}"))).ok()
}

#[expect(deprecated, reason = "the older forms are still in use")]
fn file_log(config: file::FileAccessLog, diagnostics: &mut Diagnostics) -> Option<AccessLog> {
    use file::file_access_log::AccessLogFormat as Proto;
    let sink = match config.path.as_str() {
        "" => {
            diagnostics.at("path", |d| d.error("is required"));
            return None;
        }
        "/dev/stdout" => AccessLogSink::Stdout,
        "/dev/stderr" => AccessLogSink::Stderr,
        path => AccessLogSink::File(Arc::from(Path::new(path))),
    };
    let format = match config.access_log_format {
        None => Some(AccessLogFormat::envoy_default()),
        // As Envoy does: the empty text of the older form is the default format.
        Some(Proto::Format(text)) if text.is_empty() => Some(AccessLogFormat::envoy_default()),
        Some(Proto::Format(text)) => diagnostics.at("format", |d| parse(&text, d)).map(AccessLogFormat::Text),
        Some(Proto::JsonFormat(fields)) => diagnostics.at("json_format", |d| json(&fields, false, d)),
        Some(Proto::TypedJsonFormat(fields)) => diagnostics.at("typed_json_format", |d| json(&fields, false, d)),
        Some(Proto::LogFormat(format)) => log_format(Some(&format), diagnostics),
    };
    Some(AccessLog { sink, format: format?, filter: None })
}

fn log_format(
    format: Option<&core::SubstitutionFormatString>,
    diagnostics: &mut Diagnostics,
) -> Option<AccessLogFormat> {
    let Some(proto) = format else { return Some(AccessLogFormat::envoy_default()) };
    diagnostics.at("log_format", |d| {
        use core::substitution_format_string::Format as Proto;
        if let Some(Proto::JsonFormat(fields)) = &proto.format {
            return d.at("json_format", |d| json(fields, proto.omit_empty_values, d));
        }
        let format = text_format(proto, d)?;
        let format = if proto.omit_empty_values { format.omit_empty() } else { format };
        Some(AccessLogFormat::Text(format))
    })
}

#[expect(deprecated, reason = "text_format is what everybody uses")]
fn text_format(proto: &core::SubstitutionFormatString, diagnostics: &mut Diagnostics) -> Option<Format> {
    use core::substitution_format_string::Format as Proto;
    match &proto.format {
        Some(Proto::TextFormat(text)) => diagnostics.at("text_format", |d| parse(text, d)),
        Some(Proto::TextFormatSource(source)) => diagnostics.at("text_format_source", |d| {
            let text = super::common::data_source(source, Format::TEXT_BYTES_MAX, d)?;
            match std::str::from_utf8(&text) {
                Ok(text) => parse(text, d),
                Err(_) => {
                    d.error("is not UTF-8");
                    None
                }
            }
        }),
        Some(Proto::JsonFormat(_)) => {
            diagnostics.at("json_format", |d| d.error("is not supported here"));
            None
        }
        None => {
            diagnostics.error("has no format");
            None
        }
    }
}

/// The format of a body, which is evaluated for each answer.
pub(crate) fn body_format(proto: &core::SubstitutionFormatString, diagnostics: &mut Diagnostics) -> Option<Format> {
    text_format(proto, diagnostics).map(Format::for_values)
}

fn parse(text: &str, diagnostics: &mut Diagnostics) -> Option<Format> {
    Format::parse(text).map_err(|error| diagnostics.error(error.to_string())).ok()
}

fn json(fields: &Struct, omit_empty: bool, diagnostics: &mut Diagnostics) -> Option<AccessLogFormat> {
    json_fields(fields, omit_empty, 0, diagnostics).map(AccessLogFormat::Json)
}

fn json_fields(
    fields: &Struct,
    omit_empty: bool,
    depth: usize,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(String, JsonNode)>> {
    if depth > DEPTH_MAX {
        diagnostics.error("is nested too deep");
        return None;
    }
    let mut names: Vec<(&String, &Value)> = fields.fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let mut nodes = Vec::with_capacity(names.len());
    for (name, value) in names {
        let node = diagnostics.at(name.clone(), |d| json_node(value, omit_empty, depth, d))?;
        nodes.push((name.clone(), node));
    }
    Some(nodes)
}

fn json_node(value: &Value, omit_empty: bool, depth: usize, diagnostics: &mut Diagnostics) -> Option<JsonNode> {
    Some(match &value.kind {
        Some(Kind::StringValue(text)) => {
            let format = parse(text, diagnostics)?;
            JsonNode::Value(if omit_empty { format.omit_empty() } else { format })
        }
        Some(Kind::NumberValue(number)) => JsonNode::Number(json_number(*number)),
        Some(Kind::BoolValue(value)) => JsonNode::Bool(*value),
        Some(Kind::NullValue(_)) | None => JsonNode::Null,
        Some(Kind::StructValue(fields)) => JsonNode::Object(json_fields(fields, omit_empty, depth + 1, diagnostics)?),
        Some(Kind::ListValue(list)) => {
            if depth > DEPTH_MAX {
                diagnostics.error("is nested too deep");
                return None;
            }
            let nodes = list.values.iter().map(|value| json_node(value, omit_empty, depth + 1, diagnostics));
            JsonNode::Array(nodes.collect::<Option<_>>()?)
        }
    })
}

/// A number as JSON has it: whole ones without a point, and null for what JSON has no number for.
pub(crate) fn json_number(number: f64) -> String {
    if number.is_finite() { number.to_string() } else { "null".to_owned() }
}
