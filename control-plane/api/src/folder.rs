//! The walk over a folder: which files count, in a stable order, within bounds.
//!
//! Hidden files and folders, and what editors leave behind, don't count. Links are followed as long as they stay
//! within the folder (a mounted ConfigMap is made of links).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::problem::{Place, Problem, Severity};

const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;
const FILE_BYTES_MAX: u64 = 16 << 20;
const TOTAL_BYTES_MAX: u64 = 128 << 20;

#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// By name.
    pub(crate) files: Vec<Found>,
    /// The folder itself and those below it.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) problems: Vec<Problem>,
}

#[derive(Debug)]
pub(crate) struct Found {
    /// Relative to the folder, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
}

struct Walk {
    root: PathBuf,
    allow_outside: bool,
    seen: BTreeSet<PathBuf>,
    bytes: u64,
    folder: Folder,
}

pub(crate) fn read(root: &Path, allow_outside: bool) -> Folder {
    let mut folder = Folder { folders: vec![root.to_path_buf()], ..Folder::default() };
    match fs::canonicalize(root) {
        Ok(real) if real.is_dir() => {
            let seen = BTreeSet::from([real.clone()]);
            let mut walk = Walk { root: real, allow_outside, seen, bytes: 0, folder };
            walk.directory(root, "", 0);
            walk.folder.files.sort_by(|a, b| a.name.cmp(&b.name));
            walk.folder
        }
        Ok(_) => {
            folder.problems.push(problem(&root.display().to_string(), "not a folder"));
            folder
        }
        Err(error) => {
            folder.problems.push(problem(&root.display().to_string(), format!("cannot be read: {error}")));
            folder
        }
    }
}

fn problem(name: &str, message: impl Into<String>) -> Problem {
    Place::file(name).problem(Severity::Error, message)
}

impl Walk {
    fn error(&mut self, name: &str, message: impl Into<String>) {
        self.folder.problems.push(problem(if name.is_empty() { "." } else { name }, message));
    }

    fn directory(&mut self, path: &Path, name: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return self.error(name, format!("folders nest deeper than {DEPTH_MAX}"));
        }
        let entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => return self.error(name, format!("cannot be read: {error}")),
        };
        let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if file_name.starts_with(['.', '#']) {
                continue;
            }
            let name = if name.is_empty() { file_name.to_owned() } else { format!("{name}/{file_name}") };
            if self.folder.files.len() >= FILES_MAX {
                return self.error(&name, format!("more than {FILES_MAX} files"));
            }
            self.entry(&path, &name, depth);
        }
    }

    fn entry(&mut self, path: &Path, name: &str, depth: usize) {
        let is_config = ["yaml", "yml", "json"].iter().any(|end| path.extension().is_some_and(|found| found == *end));
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            // Removed since it was listed, or a link to nothing.
            Err(error) if is_config => return self.error(name, format!("cannot be read: {error}")),
            Err(_) => return,
        };
        if real.is_dir() {
            if !self.contains(&real) {
                return;
            }
            // A link to a folder that was already seen would give everything twice, or never end.
            if self.seen.insert(real) {
                self.folder.folders.push(path.to_path_buf());
                self.directory(path, name, depth + 1);
            }
        } else if is_config {
            if !self.contains(&real) {
                return self.error(name, "a link out of the configuration folder");
            }
            match self.text(&real) {
                Ok(text) => self.folder.files.push(Found { name: name.to_owned(), text }),
                Err(message) => self.error(name, message),
            }
        }
    }

    fn contains(&self, real: &Path) -> bool {
        self.allow_outside || real.starts_with(&self.root)
    }

    fn text(&mut self, path: &Path) -> Result<String, String> {
        let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err("not a file".to_owned());
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(format!("larger than {} MiB", FILE_BYTES_MAX >> 20));
        }
        self.bytes += metadata.len();
        if self.bytes > TOTAL_BYTES_MAX {
            return Err(format!("the folder's files have more than {} MiB together", TOTAL_BYTES_MAX >> 20));
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("not UTF-8 (line {line})")
        })?;
        // What an editor or `>` leaves for a moment. Taken as it is, it would remove the file's objects.
        if text.trim().is_empty() {
            return Err("empty: half-written? (remove the file if that is meant)".to_owned());
        }
        Ok(text)
    }
}
