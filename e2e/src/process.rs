//! Child processes: each dies with its guard, and its log is shown when the test that owns it fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::wait::eventually;

/// How much of a log is printed when a test fails.
const TAIL_BYTES: usize = 24 * 1024;

/// What a run may add to the memory that a proxy has after its first part.
const GROWTH_MIB_MAX: u64 = 24;
/// Connections to origins come and go.
const DESCRIPTORS_MAX: usize = 40;

/// The children that run now, for [`kill_all`].
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends every child at once: for a program that is about to exit without dropping its guards (Ctrl-C).
pub fn kill_all() {
    for pid in std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner)) {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
}

/// What a process holds at some time.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub rss_mib: u64,
    pub descriptors: usize,
}

impl Held {
    /// In words, for a closing line.
    pub fn and_late(self, late: Held) -> String {
        let (early, late) = ((self.rss_mib, self.descriptors), (late.rss_mib, late.descriptors));
        format!(
            "memory {} MiB after a quarter and {} MiB at the end, descriptors {} and {}",
            early.0, late.0, early.1, late.1
        )
    }

    /// Of a process that goes on doing the same: an error if it holds more and more.
    pub fn must_stay(self, late: Held) -> Result<()> {
        ensure!(late.rss_mib <= self.rss_mib + GROWTH_MIB_MAX, "memory grows: {self:?}, {late:?}");
        ensure!(late.descriptors <= self.descriptors + DESCRIPTORS_MAX, "descriptors grow: {self:?}, {late:?}");
        Ok(())
    }
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    quiet: bool,
}

impl Process {
    /// Starts `program` with what `arrange` adds; standard output and error go to `dir/NAME.log`.
    pub fn spawn(name: &str, program: &Path, dir: &Path, arrange: impl FnOnce(&mut Command)) -> Result<Process> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = dying_with_us(program);
        arrange(&mut command);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id());
        Ok(Process { name: name.to_owned(), child, log, quiet: false })
    }

    /// The log isn't printed when a test fails (for processes whose log is long and says little).
    pub fn quiet(mut self) -> Process {
        self.quiet = true;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that the process has written to standard output and error.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Memory that it holds now.
    pub fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map(Iterator::count).unwrap_or_default()
    }

    pub fn held(&self) -> Held {
        Held { rss_mib: self.rss_mib(), descriptors: self.descriptors() }
    }

    /// `Some` once the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error with the log's end if the process isn't there any more.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(anyhow!("{} ended with {status}:\n{}", self.name, tail(&self.log()))),
        }
    }

    /// Sends a signal by name, for example `TERM`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status()?;
        if status.success() { Ok(()) } else { Err(anyhow!("kill -{name} {}: {status}", self.pid())) }
    }

    /// Waits for the end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        eventually(deadline, || self.ended().ok_or_else(|| format!("{name} still runs")))
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pid());
    }

    /// Asks the process to end, and insists after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        if self.ended().is_none() && self.signal("TERM").is_ok() && self.wait(grace).is_ok() {
            return;
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && !self.quiet {
            eprintln!("---- log of {} ----\n{}\n---- end of {} ----", self.name, tail(&self.log()), self.name);
        }
    }
}

/// A command for `program` whose process is killed when ours goes away, however that happens: `setpriv` sets the parent
/// death signal and executes the program in its own place, so that the child's id stays the program's.
fn dying_with_us(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(TAIL_BYTES);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}

/// Runs a program to its end and returns its output; an error says the command and what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("{command:?}: {}\n{stdout}{stderr}", output.status))
}
