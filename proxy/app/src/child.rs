//! Starting this binary again for one job.
//!
//! A child is a fresh `exec` of `/proc/self/exe` with an empty environment: it shares no thread, no heap and no
//! descriptor with the proxy but its three pipes. Its input, output, time and number are bounded, and it ends with the
//! proxy.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdout, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::allocator;

/// The variable that tells a child who started it.
pub(crate) const PARENT: &str = "OUTRIGGER_PARENT";

/// Children that render at one time; compilation has its own bound.
const RENDER_MAX: usize = 2;
/// What a child may say on standard error.
const STDERR_BYTES_MAX: u64 = 256 << 10;

static RENDERERS: Semaphore = Semaphore::const_new(RENDER_MAX);
/// One at a time: a compiler takes a core and much memory.
static COMPILERS: Semaphore = Semaphore::const_new(1);

/// Why a child brought no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("cannot start a child process: {0}")]
    Start(#[source] io::Error),
    #[error("a child process took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("a child process wrote more than {0} bytes")]
    TooLarge(u64),
    #[error("cannot talk to a child process: {0}")]
    Pipe(#[source] io::Error),
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it wrote, where that was not sent into a file.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Where a child's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// Into [`Ended::stdout`], at most so many bytes.
    Memory(u64),
    File(File),
}

/// Which bound on the number of children holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Job {
    Compile,
    Render,
}

impl Job {
    async fn permit(self) -> Option<SemaphorePermit<'static>> {
        let semaphore = match self {
            Job::Compile => &COMPILERS,
            Job::Render => &RENDERERS,
        };
        // The semaphores are never closed.
        semaphore.acquire().await.ok()
    }
}

/// Runs `outrigger-proxy ARGUMENTS` with `input` on standard input until it ends. `time` counts from its start.
pub(crate) async fn run(
    job: Job,
    arguments: &[OsString],
    input: Bytes,
    output: Output,
    time: Duration,
) -> Result<Ended, ChildError> {
    let _permit = job.permit().await;
    let (stdout, stdout_bytes_max) = match output {
        Output::Memory(max) => (Stdio::piped(), max),
        Output::File(file) => (Stdio::from(file), 0),
    };
    let mut child = command(arguments).stdout(stdout).spawn().map_err(ChildError::Start)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());

    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child that refuses its input early closes the pipe; its exit tells why.
            _ = stdin.write_all(&input).await;
        }
        drop(input);
    };
    let answer = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(stdout_bytes_max + 1).read_to_end(&mut bytes).await?;
        }
        Ok::<_, io::Error>(bytes)
    };
    let complaint = async {
        let mut bytes = Vec::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr).take(STDERR_BYTES_MAX).read_to_end(&mut bytes).await?;
            // Go on reading, or a talkative child would never end.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok::<_, io::Error>(bytes)
    };
    let whole = async {
        let ((), stdout, stderr) = tokio::join!(feed, answer, complaint);
        let (stdout, stderr) = (stdout.map_err(ChildError::Pipe)?, stderr.map_err(ChildError::Pipe)?);
        if stdout.len() as u64 > stdout_bytes_max {
            return Err(ChildError::TooLarge(stdout_bytes_max));
        }
        let status = child.wait().await.map_err(ChildError::Pipe)?;
        Ok(Ended { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
    };
    // The child is killed when its handle drops.
    tokio::time::timeout(time, whole).await.map_err(|_| ChildError::Timeout(time))?
}

/// A child whose output is read as it comes.
#[derive(Debug)]
pub(crate) struct Running {
    child: tokio::process::Child,
    stdout: ChildStdout,
    deadline: Instant,
    _permit: Option<SemaphorePermit<'static>>,
}

impl Running {
    /// Starts a render child and feeds it from a task of its own.
    pub(crate) async fn start(arguments: &[OsString], input: Bytes, time: Duration) -> Result<Running, ChildError> {
        let permit = Job::Render.permit().await;
        let mut command = command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(ChildError::Start)?;
        let missing = || ChildError::Start(io::Error::other("a pipe is missing"));
        let mut stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let deadline = Instant::now() + time;
        tokio::spawn(async move {
            // Ends at the latest when the child is killed.
            _ = tokio::time::timeout_at(deadline, stdin.write_all(&input)).await;
        });
        Ok(Running { child, stdout, deadline, _permit: permit })
    }

    /// The next piece of its output; empty at the end of a child that succeeded.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        let mut piece = bytes::BytesMut::with_capacity(64 << 10);
        let read = tokio::time::timeout_at(self.deadline, self.stdout.read_buf(&mut piece)).await??;
        if read > 0 {
            return Ok(piece.freeze());
        }
        let status = tokio::time::timeout_at(self.deadline, self.child.wait()).await??;
        if status.success() { Ok(Bytes::new()) } else { Err(io::Error::other(format!("a child ended with {status}"))) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its input may have been a whole configuration.
        allocator::purge();
    }
}

fn command(arguments: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(arguments)
        .env_clear()
        .env(PARENT, std::process::id().to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
