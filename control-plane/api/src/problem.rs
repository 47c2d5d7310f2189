//! [`Problem`]: what is wrong, and where. Written `file:line: field: message`.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Relative to the folder, with `/`.
    pub file: String,
    /// From 1; 0 where the problem is the file itself.
    pub line: u32,
    /// The path within the object (`spec.limits.memory`); empty where the problem is no field's.
    pub field: String,
    pub message: String,
    pub severity: Severity,
    /// The object, as far as it can be told (`WasmFilter shop/keys`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, but perhaps not as meant.
    Warning,
    /// Nothing of the folder is taken; what was there before stays.
    Error,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: u32,
    pub(crate) field: String,
    pub(crate) object: Option<String>,
}

impl Place {
    pub(crate) fn file(file: &str) -> Self {
        Self { file: Arc::from(file), line: 0, field: String::new(), object: None }
    }

    pub(crate) fn problem(&self, severity: Severity, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.to_string(),
            line: self.line,
            field: self.field.clone(),
            message: message.into(),
            severity,
            object: self.object.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
