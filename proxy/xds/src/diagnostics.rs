//! What is wrong with a resource, field by field.

use std::borrow::Cow;
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
    path: Vec<Segment>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Files that the resource wants to be watched, with the folder to watch.
    pub(crate) watched: WatchedFolders,
    /// Paths of parts that are ignored as a whole, whatever is in them.
    pub(crate) ignored: Vec<String>,
}

/// Files, each with the folder to watch for it.
pub(crate) type WatchedFolders = Vec<(Arc<str>, Arc<str>)>;

/// A step into a message. It becomes text only where there is a problem.
#[derive(Debug)]
struct Segment {
    field: Cow<'static, str>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Whole,
    Index(usize),
    Key(String),
}

/// More problems than this of one resource are not told.
const PROBLEMS_MAX: usize = 64;

impl Diagnostics {
    #[must_use]
    pub fn new(source: Source, version: Arc<str>) -> Diagnostics {
        Diagnostics {
            source,
            version,
            path: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            watched: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// Problems found by `inner` are about this field.
    pub fn at<T>(&mut self, field: impl Into<Cow<'static, str>>, inner: impl FnOnce(&mut Diagnostics) -> T) -> T {
        self.within(Segment { field: field.into(), place: Place::Whole }, inner)
    }

    /// The same for an element of a list.
    pub fn at_index<T>(
        &mut self,
        field: impl Into<Cow<'static, str>>,
        index: usize,
        inner: impl FnOnce(&mut Diagnostics) -> T,
    ) -> T {
        self.within(Segment { field: field.into(), place: Place::Index(index) }, inner)
    }

    /// The same for an entry of a map.
    pub fn at_key<T>(
        &mut self,
        field: impl Into<Cow<'static, str>>,
        key: &str,
        inner: impl FnOnce(&mut Diagnostics) -> T,
    ) -> T {
        self.within(Segment { field: field.into(), place: Place::Key(key.to_owned()) }, inner)
    }

    fn within<T>(&mut self, segment: Segment, inner: impl FnOnce(&mut Diagnostics) -> T) -> T {
        self.path.push(segment);
        let out = inner(self);
        self.path.pop();
        out
    }

    /// Where we are, as text.
    fn here(&self) -> String {
        let mut path = String::new();
        for Segment { field, place } in &self.path {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(field);
            match place {
                Place::Whole => {}
                Place::Index(index) => path.push_str(&format!("[{index}]")),
                Place::Key(key) => path.push_str(&format!("[{key:?}]")),
            }
        }
        path
    }

    pub fn error(&mut self, message: impl Into<String>) {
        let path = self.here();
        push(&mut self.errors, &path, message.into());
    }

    pub fn warn(&mut self, message: impl Into<String>) {
        let path = self.here();
        push(&mut self.warnings, &path, message.into());
    }

    /// Says that this part is ignored, and why.
    pub(crate) fn ignore(&mut self, message: impl Into<String>) {
        self.warn(message);
        self.ignored.push(self.here());
    }

    /// Says nothing, and ignores this part.
    pub(crate) fn ignored_here(&mut self) {
        self.ignored.push(self.here());
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
