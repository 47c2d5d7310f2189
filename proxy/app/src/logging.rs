//! The process's log: where it goes, and levels by component that change while it runs.
//!
//! Components have Envoy's names where there is such a thing here. A level of a component wins over the general one.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogLevel;

/// A component and the target that its log lines carry.
const COMPONENTS: [(&str, &str); 6] = [
    ("admin", "outrigger_proxy::admin"),
    ("config", "outrigger_xds"),
    ("http", "outrigger_dataplane"),
    ("main", "outrigger_proxy"),
    ("wasm", "outrigger_wasm"),
    // Everything that has no other: libraries.
    ("misc", ""),
];

/// The log's controls.
#[derive(Debug, Clone)]
pub(crate) struct Logging {
    levels: Arc<Mutex<[LogLevel; COMPONENTS.len()]>>,
    filter: reload::Handle<Targets, Registry>,
    output: Output,
}

/// A name that is no component's, or a level that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown(pub(crate) String);

impl Logging {
    /// Starts logging to `path`, or to standard error.
    pub(crate) fn start(level: LogLevel, path: Option<&Path>) -> io::Result<Logging> {
        let output = Output::open(path)?;
        let levels = [level; COMPONENTS.len()];
        let (filter, handle) = reload::Layer::new(targets(&levels));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(output.clone())
            .with_ansi(path.is_none() && io::stderr().is_terminal());
        Registry::default().with(filter).with(lines).try_init().map_err(io::Error::other)?;
        Ok(Logging { levels: Arc::new(Mutex::new(levels)), filter: handle, output })
    }

    /// Every component's level, by name.
    pub(crate) fn levels(&self) -> Vec<(&'static str, LogLevel)> {
        let levels = *self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        COMPONENTS.iter().zip(levels).map(|((name, _), level)| (*name, level)).collect()
    }

    /// Sets all components.
    pub(crate) fn set_all(&self, level: LogLevel) {
        self.change(|levels| *levels = [level; COMPONENTS.len()]);
    }

    /// Sets `NAME:LEVEL,…`: all of it, or nothing if a part is unknown.
    pub(crate) fn set_components(&self, list: &str) -> Result<(), Unknown> {
        let changes = parse(list)?;
        self.change(|levels| changes.iter().for_each(|(index, level)| levels[*index] = *level));
        Ok(())
    }

    /// Opens the file again under its name, after it was rotated away.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        self.output.reopen()
    }

    fn change(&self, change: impl FnOnce(&mut [LogLevel; COMPONENTS.len()])) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        // It fails only when the subscriber is gone, and then nobody logs.
        _ = self.filter.reload(targets(&levels));
    }
}

/// Component levels as `NAME:LEVEL,…`.
fn parse(list: &str) -> Result<Vec<(usize, LogLevel)>, Unknown> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, level) = entry.split_once(':').ok_or_else(|| Unknown(entry.to_owned()))?;
            let index = COMPONENTS.iter().position(|(component, _)| *component == name);
            match (index, LogLevel::parse(level)) {
                (Some(index), Some(level)) => Ok((index, level)),
                _ => Err(Unknown(entry.to_owned())),
            }
        })
        .collect()
}

fn targets(levels: &[LogLevel; COMPONENTS.len()]) -> Targets {
    COMPONENTS.iter().zip(levels).fold(Targets::new(), |targets, ((_, target), level)| {
        let level = match level {
            LogLevel::Trace => LevelFilter::TRACE,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warning => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
            LogLevel::Off => LevelFilter::OFF,
        };
        if target.is_empty() {
            // Libraries tell more than anybody wants at the general level.
            targets.with_default(level.min(LevelFilter::DEBUG))
        } else {
            targets.with_target(*target, level)
        }
    })
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Output {
    Stderr,
    File { path: PathBuf, file: Arc<Mutex<File>> },
}

impl Output {
    fn open(path: Option<&Path>) -> io::Result<Output> {
        let Some(path) = path else { return Ok(Output::Stderr) };
        Ok(Output::File { path: path.to_owned(), file: Arc::new(Mutex::new(append(path)?)) })
    }

    fn reopen(&self) -> io::Result<()> {
        if let Output::File { path, file } = self {
            let fresh = append(path)?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Writes one line.
struct Line<'a>(&'a Output);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0 {
            Output::Stderr => io::stderr().lock().write(bytes),
            Output::File { file, .. } => file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_lists() {
        assert_eq!(parse("wasm:debug, admin:off").unwrap(), [(4, LogLevel::Debug), (0, LogLevel::Off)]);
        assert_eq!(parse("").unwrap(), []);
        for wrong in ["wasm", "wasm:loud", "nobody:info"] {
            assert_eq!(parse(wrong).unwrap_err(), Unknown(wrong.to_owned()));
        }
    }

    #[test]
    fn a_components_level_wins() {
        let mut levels = [LogLevel::Warning; COMPONENTS.len()];
        levels[4] = LogLevel::Trace;
        let targets = targets(&levels);
        assert!(targets.would_enable("outrigger_wasm::guest", &tracing::Level::TRACE));
        assert!(!targets.would_enable("outrigger_xds", &tracing::Level::INFO));
        assert!(targets.would_enable("outrigger_proxy::admin", &tracing::Level::WARN));
        assert!(!targets.would_enable("h2", &tracing::Level::INFO));
    }

    #[test]
    fn a_rotated_file_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let output = Output::open(Some(&path)).unwrap();
        output.make_writer().write_all(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        output.make_writer().write_all(b"two\n").unwrap();
        output.reopen().unwrap();
        output.make_writer().write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("old")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
