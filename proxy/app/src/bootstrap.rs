//! Loading the bootstrap: a file in YAML, JSON or binary, and what the command line lays over it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use outrigger_proto::audit::{Finding, Problem, Severity, audit};
use outrigger_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::type_url;
use prost::Message;

use crate::args::Options;
use crate::render_child::Children;

const FILE_BYTES_MAX: u64 = 256 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// YAML or JSON.
    Text,
    Binary,
}

/// A bootstrap in its binary form.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) message: Bytes,
    /// Fields of the texts that no message has, and that were left out (`--allow-unknown-static-fields`), a line each.
    pub(crate) unknown: Vec<String>,
}

/// The bootstrap in its binary form; otherwise every problem, a line each, with where it lies.
pub(crate) async fn load(options: &Options) -> Result<Loaded, Vec<String>> {
    let allow_unknown = options.allow_unknown_static_fields;
    let file = match &options.config_path {
        Some(path) => Some(read_file(path, allow_unknown).await?),
        None => None,
    };
    let yaml = match &options.config_yaml {
        Some(yaml) => {
            let text = Bytes::copy_from_slice(yaml.as_bytes());
            Some(parse("--config-yaml", text, allow_unknown).await?)
        }
        None => None,
    };
    match (file, yaml) {
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(mut file), Some(yaml)) => {
            let message = merge(&file.message, &yaml.message, allow_unknown).map_err(|problem| vec![problem])?;
            file.unknown.extend(yaml.unknown);
            Ok(Loaded { message, unknown: file.unknown })
        }
        (None, None) => Err(vec!["no configuration: --config-path or --config-yaml is required".to_owned()]),
    }
}

async fn read_file(path: &Path, allow_unknown: bool) -> Result<Loaded, Vec<String>> {
    let name = path.display().to_string();
    let fail = |error: std::io::Error| vec![format!("{name}: {error}")];
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(vec![format!("{name}: is larger than {FILE_BYTES_MAX} bytes")]);
    }
    match written(path, &bytes) {
        Written::Text => parse(&name, bytes.into(), allow_unknown).await,
        Written::Binary => Ok(Loaded { message: bytes.into(), unknown: Vec::new() }),
    }
}

/// By the file's extension, and where that says nothing by its bytes: no text holds control characters.
fn written(path: &Path, bytes: &[u8]) -> Written {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => Written::Binary,
        Some("yaml" | "yml" | "json") => Written::Text,
        _ => {
            let is_control = |byte: &u8| *byte < 0x20 && !matches!(*byte, b'\t' | b'\n' | b'\r');
            if std::str::from_utf8(bytes).is_ok() && !bytes.iter().any(is_control) {
                Written::Text
            } else {
                Written::Binary
            }
        }
    }
}

async fn parse(name: &str, text: Bytes, allow_unknown: bool) -> Result<Loaded, Vec<String>> {
    let named = |problems: Vec<String>| problems.iter().map(|problem| format!("{name}: {problem}")).collect();
    match Children.parse_with(type_url::BOOTSTRAP, text, allow_unknown).await {
        Ok((message, unknown)) => Ok(Loaded { message: message.into(), unknown: named(unknown) }),
        Err(problems) => Err(named(problems)),
    }
}

/// Lays one message over another as protobuf merges: its fields win, messages merge, lists are joined.
fn merge(below: &[u8], above: &[u8], allow_unknown: bool) -> Result<Bytes, String> {
    // Decoding drops fields that we don't know, which must not pass for supported ones.
    let name = type_url::message_name(type_url::BOOTSTRAP);
    let counts = |finding: &&Finding| {
        finding.severity == Severity::Reject && !(allow_unknown && matches!(finding.problem, Problem::UnknownField(_)))
    };
    if let Some(finding) = audit(name, below).iter().find(counts) {
        return Err(finding.to_string());
    }
    let mut merged = Bootstrap::decode(below).map_err(|error| error.to_string())?;
    merged.merge(above).map_err(|error| error.to_string())?;
    Ok(merged.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use outrigger_proto::render::{Format, parse};

    use super::*;

    fn yaml(text: &str) -> Vec<u8> {
        parse(type_url::message_name(type_url::BOOTSTRAP), text.as_bytes(), Format::Yaml).unwrap()
    }

    #[test]
    fn the_command_line_wins_and_lists_are_joined() {
        let table = [
            ("node: {id: a, cluster: c}", "node: {id: b}", "node: {id: b, cluster: c}"),
            (
                "static_resources: {clusters: [{name: a}]}",
                "static_resources: {clusters: [{name: b}]}",
                "static_resources: {clusters: [{name: a}, {name: b}]}",
            ),
            (
                "admin: {address: {socket_address: {address: 1.2.3.4, port_value: 1}}}",
                "admin: {address: {socket_address: {port_value: 2}}}",
                "admin: {address: {socket_address: {address: 1.2.3.4, port_value: 2}}}",
            ),
            ("node: {id: a}", "{}", "node: {id: a}"),
            ("{}", "node: {id: a}", "node: {id: a}"),
        ];
        for (below, above, expected) in table {
            let merged = merge(&yaml(below), &yaml(above), false).unwrap();
            let (merged, expected) = (Bootstrap::decode(merged).unwrap(), Bootstrap::decode(yaml(expected).as_slice()));
            assert_eq!(merged, expected.unwrap(), "{below} + {above}");
        }
    }

    #[test]
    fn what_a_merge_would_drop_is_told() {
        // Field 1000 of type varint.
        let unknown = [0xc0, 0x3e, 0x01];
        assert!(merge(&unknown, &yaml("node: {id: a}"), false).unwrap_err().contains("1000"));
        assert_eq!(merge(&unknown, &yaml("node: {id: a}"), true).unwrap(), yaml("node: {id: a}"));
        assert!(merge(&[0xff], &[], true).is_err());
    }

    #[test]
    fn files_are_told_apart() {
        for (name, bytes, expected) in [
            ("a.pb", b"node: {}".as_slice(), Written::Binary),
            ("a.yaml", &[0xff], Written::Text),
            ("a.json", b"{}", Written::Text),
            ("a", b"node:\n\tid: x\r\n", Written::Text),
            ("a.conf", &[0x0a, 0x03, 0x0a, 0x01, 0x61], Written::Binary),
            ("a", &[0xff, 0xfe], Written::Binary),
            ("a", b"", Written::Text),
        ] {
            assert_eq!(written(Path::new(name), bytes), expected, "{name} {bytes:?}");
        }
    }
}
