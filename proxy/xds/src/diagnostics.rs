//! What is wrong with a resource, field by field.

use std::fmt;
use std::sync::Arc;

use outrigger_config::Source;

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `virtual_hosts[0].routes[2].match.safe_regex`; empty for the whole.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Collects every problem while a resource is validated: errors reject it, warnings are told and the resource is taken.
#[derive(Debug)]
pub struct Diagnostics {
    pub(crate) source: Source,
    /// Of the resource that is validated.
    pub(crate) version: Arc<str>,
    path: String,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Files that the resource wants to be watched, with the folder to watch.
    pub(crate) watched: WatchedFolders,
    /// Paths of parts that are ignored as a whole, whatever is in them.
    pub(crate) ignored: Vec<String>,
}

/// Files, each with the folder to watch for it.
pub(crate) type WatchedFolders = Vec<(Arc<str>, Arc<str>)>;

/// More problems than this of one resource are not told.
const PROBLEMS_MAX: usize = 64;

impl Diagnostics {
    #[must_use]
    pub fn new(source: Source, version: Arc<str>) -> Diagnostics {
        Diagnostics {
            source,
            version,
            path: String::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            watched: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// Problems found by `inner` are about this field.
    pub fn at<T>(&mut self, field: &str, inner: impl FnOnce(&mut Diagnostics) -> T) -> T {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(field);
        let out = inner(self);
        self.path.truncate(before);
        out
    }

    /// The same for an element of a list.
    pub fn at_index<T>(&mut self, field: &str, index: usize, inner: impl FnOnce(&mut Diagnostics) -> T) -> T {
        self.at(&format!("{field}[{index}]"), inner)
    }

    /// The same for an entry of a map.
    pub fn at_key<T>(&mut self, field: &str, key: &str, inner: impl FnOnce(&mut Diagnostics) -> T) -> T {
        self.at(&format!("{field}[{key:?}]"), inner)
    }

    pub fn error(&mut self, message: impl Into<String>) {
        push(&mut self.errors, &self.path, message.into());
    }

    pub fn warn(&mut self, message: impl Into<String>) {
        push(&mut self.warnings, &self.path, message.into());
    }

    /// Says that this part is ignored, and why.
    pub(crate) fn ignore(&mut self, message: impl Into<String>) {
        self.warn(message);
        self.ignored.push(self.path.clone());
    }

    /// Says nothing, and ignores this part.
    pub(crate) fn ignored_here(&mut self) {
        self.ignored.push(self.path.clone());
    }

    pub(crate) fn error_at(&mut self, path: &str, message: String) {
        push(&mut self.errors, path, message);
    }

    pub(crate) fn warn_at(&mut self, path: &str, message: String) {
        push(&mut self.warnings, path, message);
    }

    /// Whether the resource is rejected so far.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    #[must_use]
    pub fn errors(&self) -> &[Problem] {
        &self.errors
    }

    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    pub(crate) fn take(self) -> (Vec<Problem>, Vec<Problem>, WatchedFolders) {
        (self.errors, self.warnings, self.watched)
    }
}

fn push(problems: &mut Vec<Problem>, path: &str, message: String) {
    if problems.len() < PROBLEMS_MAX {
        problems.push(Problem { path: path.to_owned(), message });
    }
}
