//! A plugin's JSON configuration as a serde type, with errors that name the field by its path.
//!
//! ```text
//! rules[2].header: missing
//! request.set[0].nmae: unknown field, expected `name` or `value`
//! limits[0].requests: is a string, expected a whole number
//! not JSON: expected `,` or `}` (line 3, column 9)
//! ```
//!
//! Put `#[serde(deny_unknown_fields)]` on every struct: a misspelt field must not silently change what a filter does.

mod de;
mod json;

use std::fmt;

use serde::de::DeserializeOwned;

/// The longest configuration that is read, in bytes.
pub const CONFIG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A configuration that a filter refuses: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    message: String,
}

impl ConfigError {
    /// An error at a field, e.g. `ConfigError::at("limits[0].per", "is not a duration")`. An empty path is the whole
    /// configuration.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The field, e.g. `limits[0].per`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl std::error::Error for ConfigError {}

/// Reads a configuration. No bytes at all are `{}`, so that a plugin without a configuration gets its defaults, or
/// hears which field it needs.
///
/// # Errors
/// The first field that does not fit.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ConfigError> {
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::at("", format!("is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    de::from_json(&json::read(bytes)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        rules: Vec<Rule>,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        more: BTreeMap<String, More>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        header: String,
        weight: Option<u8>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Strict,
        Lax,
        Custom {
            factor: f64,
        },
        Named(String),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(untagged)]
    enum More {
        Number(i64),
        Text(String),
        Pair(bool, f64),
        Nothing,
    }

    #[test]
    fn good() {
        let json = r#"{"rules": [{"header": "a", "weight": 3}, {"weight": null, "header": "b"}], "mode": "lax",
            "more": {"n": -7, "t": "x", "p": [true, 1.5], "u": null}}"#;
        let rule = |header: &str, weight| Rule { header: header.to_owned(), weight };
        let more = [
            ("n", More::Number(-7)),
            ("t", More::Text("x".into())),
            ("p", More::Pair(true, 1.5)),
            ("u", More::Nothing),
        ];
        let more = more.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(
            parse(json.as_bytes()),
            Ok(Config { rules: vec![rule("a", Some(3)), rule("b", None)], mode: Mode::Lax, more })
        );
        for (json, mode) in [
            (r#"{"rules": [], "mode": {"custom": {"factor": 2}}}"#, Mode::Custom { factor: 2.0 }),
            (r#"{"rules": [], "mode": {"named": "n"}}"#, Mode::Named("n".to_owned())),
            (r#"{"rules": [], "mode": {"strict": null}}"#, Mode::Strict),
        ] {
            assert_eq!(parse::<Config>(json.as_bytes()).map(|config| config.mode), Ok(mode), "{json}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (json, expected) in [
            ("", "rules: missing"),
            (" \n", "rules: missing"),
            ("{}", "rules: missing"),
            (r#"{"rules": [{"header": "a"}, {"header": "b"}, {}]}"#, "rules[2].header: missing"),
            (r#"{"rules": [{"header": 5}]}"#, "rules[0].header: is a number, expected a string"),
            (r#"{"rules": [{"header": "a", "weight": 256}]}"#, "rules[0].weight: is 256, expected u8"),
            (r#"{"rules": [{"header": "a", "weight": -1}]}"#, "rules[0].weight: is -1, expected u8"),
            (
                r#"{"rules": [{"header": "a", "weight": 1.5}]}"#,
                "rules[0].weight: is 1.5, expected a whole number of 64 bits",
            ),
            (r#"{"rules": [{"header": "a", "weight": "1"}]}"#, "rules[0].weight: is a string, expected a whole number"),
            (r#"{"rules": [{"haeder": "a"}]}"#, "rules[0].haeder: unknown field, expected `header` or `weight`"),
            (r#"{"rules": [], "ruels": []}"#, "ruels: unknown field, expected `rules`, `mode` or `more`"),
            (r#"{"rules": [], "rules": []}"#, "rules: given twice"),
            (r#"{"rules": [{"header": "a", "header": "a"}]}"#, "rules[0].header: given twice"),
            (r#"{"rules": [["a", 1]]}"#, "rules[0]: is a list, expected an object"),
            (r#"{"rules": [], "mode": "loose"}"#, "mode: is `loose`, expected `strict`, `lax`, `custom` or `named`"),
            (r#"{"rules": [], "mode": "custom"}"#, "mode: is \"custom\", expected an object with its value"),
            (
                r#"{"rules": [], "mode": {"custom": {"factor": "2"}}}"#,
                "mode.custom.factor: is a string, expected a number",
            ),
            (
                r#"{"rules": [], "mode": {"custom": {"factor": 1e999}}}"#,
                "mode.custom.factor: is 1e999, which is too large",
            ),
            (r#"{"rules": [], "mode": {"custom": {}}}"#, "mode.custom.factor: missing"),
            (r#"{"rules": [], "mode": {"lax": 1}}"#, "mode: `lax` takes no value"),
            (r#"{"rules": [], "mode": {}}"#, "mode: is an object, expected one with one member"),
            (r#"{"rules": [], "mode": 1}"#, "mode: is a number, expected a string or an object"),
            (r#"{"rules": [], "more": {"x": {}}}"#, "more.x: data did not match any variant of untagged enum More"),
            (r#"{"rules": {}}"#, "rules: is an object, expected a list"),
            (r#"{"rules": null}"#, "rules: is null, expected a list"),
            ("[]", "is a list, expected an object"),
            ("7", "is a number, expected an object"),
        ] {
            let error = parse::<Config>(json.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{json}");
        }
    }

    #[test]
    fn paths_and_messages_are_apart() {
        let error = parse::<Config>(br#"{"rules": [{}]}"#).unwrap_err();
        assert_eq!((error.path(), error.message()), ("rules[0].header", "missing"));
    }

    #[test]
    fn bounded() {
        let long = vec![b' '; CONFIG_BYTES_MAX + 1];
        assert_eq!(parse::<Config>(&long).unwrap_err().to_string(), "is longer than 4194304 bytes");
    }
}
