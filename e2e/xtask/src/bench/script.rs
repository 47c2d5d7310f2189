//! Python programs of the benchmark (`e2e/peers`): each answers a line with a line, and ends when it is dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result};

use super::peers::{LOAD_CORE, pinned};
use crate::paths;

#[derive(Debug)]
pub(super) struct Script {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Starts a program on the load's core.
    pub(super) fn start(name: &'static str, arguments: &[String]) -> Result<Script> {
        let mut command: Command = pinned(LOAD_CORE, &paths::python());
        command.arg(paths::root().join("e2e/peers").join(name)).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(name)?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("pipes")?;
        Ok(Script { name, child, input, output: BufReader::new(output) })
    }

    /// The next line that it says.
    pub(super) fn line<T: FromStr>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().ok().with_context(|| format!("{} ended or said {line:?}", self.name))
    }

    /// Says a line, and reads one.
    pub(super) fn ask<T: FromStr>(&mut self, words: &str) -> Result<T> {
        writeln!(self.input, "{words}").with_context(|| self.name)?;
        self.line()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
