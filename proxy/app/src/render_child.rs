//! The child that renders: YAML or JSON to a binary message, or a binary message to JSON.
//!
//! Reading a large text leaves many times its size behind, and the text may be hostile; both end with the child.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::render::{self, Format, Style};
use outrigger_proto::type_url;
use outrigger_xds::Render;
use serde_json::Value;

use crate::args::{Form, RenderArgs};
use crate::child::{self, Ended, Job, Output, PARENT};
use crate::system;

/// Exit code where the input is at fault; the problems are on standard error, a line each.
const REFUSED: u8 = 2;
const INPUT_BYTES_MAX: u64 = 256 << 20;
const MEMORY_BYTES_MAX: u64 = 8 << 30;
const CPU_TIME_MAX: Duration = Duration::from_secs(120);
/// How long the proxy waits for a child that renders a configuration.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Runs in the child.
pub(crate) fn run(arguments: &RenderArgs) -> ExitCode {
    match render(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            // The parent reads them.
            _ = writeln!(std::io::stderr(), "{}", problems.join("\n"));
            ExitCode::from(REFUSED)
        }
    }
}

fn render(arguments: &RenderArgs) -> Result<(), Vec<String>> {
    let whole = |error: std::io::Error| vec![error.to_string()];
    bound().map_err(whole)?;
    let mut input = Vec::new();
    std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input).map_err(whole)?;
    if input.len() as u64 > INPUT_BYTES_MAX {
        return Err(vec![format!("is larger than {INPUT_BYTES_MAX} bytes")]);
    }
    let message = type_url::message_name(&arguments.type_url);
    let output = match arguments.from {
        Form::Yaml => from_text(message, &input, arguments.allow_unknown)?,
        Form::Binary => to_json(message, &input, arguments.mask.as_deref()).map_err(|problem| vec![problem])?,
    };
    drop(input);
    std::io::stdout().lock().write_all(&output).map_err(whole)
}

fn from_text(message: &str, text: &[u8], allow_unknown: bool) -> Result<Vec<u8>, Vec<String>> {
    let lines = |problems: Vec<render::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    if !allow_unknown {
        return render::parse(message, text, Format::Auto).map_err(lines);
    }
    let (bytes, unknown) = render::parse_lenient(message, text, Format::Auto).map_err(lines)?;
    for line in lines(unknown) {
        // The parent reads them.
        _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(bytes)
}

fn bound() -> std::io::Result<()> {
    system::disable_core_files()?;
    system::limit_cpu_time(CPU_TIME_MAX)?;
    system::limit_address_space(MEMORY_BYTES_MAX)?;
    let parent = std::env::var(PARENT).ok().and_then(|parent| parent.parse().ok());
    if let Some(parent) = parent {
        system::end_with_parent(parent)?;
        system::first_to_be_killed()?;
    }
    Ok(())
}

fn to_json(message: &str, bytes: &[u8], mask: Option<&str>) -> Result<Vec<u8>, String> {
    let text = render::to_json(message, bytes, Style::Pretty).map_err(|error| error.to_string())?;
    let Some(mask) = mask else { return Ok((text + "\n").into_bytes()) };
    let mut value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.trim().split('.').collect()).collect();
    if let Some(configs) = value.get_mut("configs").and_then(Value::as_array_mut) {
        configs.iter_mut().for_each(|config| keep(config, &paths));
    }
    let mut text = serde_json::to_vec_pretty(&value).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

/// Leaves of a message only what the paths of a field mask name, and its type.
fn keep(value: &mut Value, paths: &[Vec<&str>]) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            if key == "@type" {
                return true;
            }
            let below: Vec<Vec<&str>> = paths
                .iter()
                .filter(|path| path.first() == Some(&key.as_str()))
                .map(|path| path[1..].to_vec())
                .collect();
            if below.is_empty() {
                return false;
            }
            if below.iter().all(|path| !path.is_empty()) {
                keep(value, &below);
            }
            true
        }),
        Value::Array(values) => values.iter_mut().for_each(|value| keep(value, paths)),
        _ => {}
    }
}

/// Renders in children, for the files that the bootstrap or a resource names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Children;

impl Children {
    /// YAML or JSON to the binary form of a message; otherwise every problem.
    pub(crate) async fn parse(self, type_url: &str, text: Bytes) -> Result<Vec<u8>, Vec<String>> {
        self.parse_with(type_url, text, false).await.map(|(bytes, _)| bytes)
    }

    /// The same, and what was left out because no message has such a field, where that is allowed.
    pub(crate) async fn parse_with(
        self,
        type_url: &str,
        text: Bytes,
        allow_unknown: bool,
    ) -> Result<(Vec<u8>, Vec<String>), Vec<String>> {
        let mut arguments: Vec<OsString> =
            vec!["render".into(), "--from".into(), "yaml".into(), "--type".into(), type_url.into()];
        if allow_unknown {
            arguments.push("--allow-unknown".into());
        }
        let ended = child::run(Job::Render, &arguments, text, Output::Memory(INPUT_BYTES_MAX), TIME_MAX).await;
        let Ended { status, stdout, stderr } = ended.map_err(|error| vec![error.to_string()])?;
        let problems: Vec<String> = stderr.lines().map(str::to_owned).collect();
        if status.success() {
            return Ok((stdout, problems));
        }
        if status.code() == Some(i32::from(REFUSED)) && !problems.is_empty() {
            return Err(problems);
        }
        let last = problems.last().map(String::as_str).unwrap_or_default();
        Err(vec![format!("the process that reads it ended with {status}: {last}")])
    }
}

impl Render for Children {
    async fn render(&self, _path: &Path, text: Vec<u8>) -> Result<Vec<u8>, String> {
        self.parse(type_url::DISCOVERY_RESPONSE, text.into()).await.map_err(|problems| problems.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mask_keeps_what_it_names() {
        let whole = json!({"@type": "t", "a": {"b": 1, "c": 2}, "list": [{"x": {"y": 1, "z": 2}}, {"w": 1}], "d": 3});
        for (mask, left) in [
            ("a.b,d", json!({"@type": "t", "a": {"b": 1}, "d": 3})),
            ("a", json!({"@type": "t", "a": {"b": 1, "c": 2}})),
            ("list.x.y", json!({"@type": "t", "list": [{"x": {"y": 1}}, {}]})),
            ("a.b,a", json!({"@type": "t", "a": {"b": 1, "c": 2}})),
            ("none", json!({"@type": "t"})),
        ] {
            let mut value = whole.clone();
            let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.split('.').collect()).collect();
            keep(&mut value, &paths);
            assert_eq!(value, left, "{mask}");
        }
    }
}
