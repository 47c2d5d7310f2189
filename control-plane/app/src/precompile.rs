//! Machine code for a fleet: every module is compiled once, by `outrigger-proxy compile` as a child, and signed.
//!
//! One child at a time, at low priority, bounded in memory, time and output; it ends with this process. A module that does
//! not compile is the proxies' to reject, as without this. Whoever asks for a module that is in the making waits for it a
//! while; whoever asks for another engine's machine code is told at once that there is none.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use outrigger_model::{Digest, Module};
use outrigger_proto::machine_code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::keys::SigningKey;

/// Machine code that is kept; beyond it modules are left to the proxies.
const KEPT_BYTES_MAX: usize = 512 << 20;
/// Of one module.
const OUTPUT_BYTES_MAX: u64 = 256 << 20;
const STDERR_BYTES_MAX: u64 = 64 << 10;
/// The child's own bound on CPU time is shorter.
const TIME_MAX: Duration = Duration::from_secs(900);
/// How long whoever asks waits for what is in the making; the proxies wait longer.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// What the child knows its parent by: it then takes a low priority and ends with it.
const PARENT: &str = "OUTRIGGER_PARENT";

/// Compiles, signs and keeps.
#[derive(Debug)]
pub(crate) struct Precompiler {
    program: PathBuf,
    key: SigningKey,
    inner: Mutex<Inner>,
    wake: Notify,
    /// Counts what was finished, for those who wait.
    finished: watch::Sender<u64>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Module>,
    entries: BTreeMap<Digest, Entry>,
    /// The engine that the program compiles for, once it is known.
    engine: Option<String>,
}

#[derive(Debug, Clone)]
enum Entry {
    Waiting,
    Done(Bytes),
    Failed,
}

/// For the metrics page.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) compiled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) served: AtomicU64,
    pub(crate) not_there: AtomicU64,
}

impl Precompiler {
    pub(crate) fn new(program: PathBuf, key: SigningKey) -> Self {
        Self {
            program,
            key,
            inner: Mutex::default(),
            wake: Notify::new(),
            finished: watch::Sender::new(0),
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These modules are in use; what was made for others goes.
    pub(crate) fn follow<'a>(&self, modules: impl Iterator<Item = &'a Module>) {
        let modules: BTreeMap<Digest, &Module> = modules.map(|module| (module.sha256(), module)).collect();
        let mut inner = self.lock();
        inner.entries.retain(|digest, _| modules.contains_key(digest));
        inner.queue.retain(|module| modules.contains_key(&module.sha256()));
        for (digest, module) in modules {
            let Inner { queue, entries, .. } = &mut *inner;
            entries.entry(digest).or_insert_with(|| {
                queue.push_back(module.clone());
                Entry::Waiting
            });
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Compiles what is in use, for ever.
    pub(crate) async fn run(&self) {
        loop {
            let next = self.lock().queue.pop_front();
            let Some(module) = next else {
                self.wake.notified().await;
                continue;
            };
            let started = Instant::now();
            let outcome = self.compile(&module).await;
            let entry = match outcome {
                Ok((engine, code)) => {
                    self.counts.compiled.fetch_add(1, Ordering::Relaxed);
                    let (bytes, millis) = (code.len(), started.elapsed().as_millis());
                    info!(module = %module.sha256(), engine, bytes, millis, "machine code");
                    self.lock().engine = Some(engine);
                    Entry::Done(code)
                }
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    warn!(module = %module.sha256(), "no machine code: {error:#}; proxies compile it themselves");
                    Entry::Failed
                }
            };
            self.keep(module.sha256(), entry);
            self.finished.send_modify(|finished| *finished += 1);
        }
    }

    fn keep(&self, digest: Digest, entry: Entry) {
        let mut inner = self.lock();
        let kept: usize = inner.entries.values().map(Entry::bytes).sum();
        let fits = kept.saturating_add(entry.bytes()) <= KEPT_BYTES_MAX;
        if !fits {
            warn!(module = %digest, "no room for machine code beyond {KEPT_BYTES_MAX} bytes");
        }
        // It may have gone out of use meanwhile.
        if let Some(place) = inner.entries.get_mut(&digest) {
            *place = if fits { entry } else { Entry::Failed };
        }
    }

    async fn compile(&self, module: &Module) -> Result<(String, Bytes)> {
        let output = tokio::time::timeout(TIME_MAX, self.run_child(module.bytes()));
        let output = output.await.context("the compiler took too long")??;
        let (envelope, header, code) = machine_code::split(&output).context("what the compiler wrote")?;
        ensure!(header.module_sha256 == module.sha256().0, "the compiler made something of another module");
        ensure!(code.len() as u64 == header.code_bytes, "the compiler was cut off");
        let signed = self.key.sign(envelope.header);
        let before = machine_code::encode(&signed).context("the header is too large")?;
        Ok((header.engine, Bytes::from([&before, code].concat())))
    }

    async fn run_child(&self, module: &Bytes) -> Result<Vec<u8>> {
        let mut child = Command::new(&self.program)
            .arg("compile")
            .env_clear()
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("a pipe is missing");
        };
        let feed = async {
            // A child that refuses the module closes the pipe; its exit tells why.
            let _ = stdin.write_all(module).await;
            drop(stdin);
        };
        let output = async {
            let mut bytes = Vec::new();
            stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes).await.map(|_| bytes)
        };
        let complaint = async {
            let mut bytes = Vec::new();
            (&mut stderr).take(STDERR_BYTES_MAX).read_to_end(&mut bytes).await?;
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map(|_| bytes)
        };
        let ((), output, complaint) = tokio::join!(feed, output, complaint);
        let (output, complaint) = (output?, complaint?);
        ensure!(output.len() as u64 <= OUTPUT_BYTES_MAX, "it is larger than {OUTPUT_BYTES_MAX} bytes");
        let status = child.wait().await?;
        if !status.success() {
            let complaint = String::from_utf8_lossy(&complaint);
            bail!("{status}: {}", complaint.trim().chars().take(500).collect::<String>());
        }
        Ok(output)
    }

    /// Signed machine code of a module for an engine; waits for what is in the making.
    pub(crate) async fn get(&self, module: &Digest, engine: &str) -> Option<Bytes> {
        let code = tokio::time::timeout(WAIT_MAX, self.wait(module, engine)).await.ok().flatten();
        let count = if code.is_some() { &self.counts.served } else { &self.counts.not_there };
        count.fetch_add(1, Ordering::Relaxed);
        code
    }

    async fn wait(&self, module: &Digest, engine: &str) -> Option<Bytes> {
        let mut finished = self.finished.subscribe();
        loop {
            {
                let inner = self.lock();
                if inner.engine.as_ref().is_some_and(|own| own != engine) {
                    return None;
                }
                match inner.entries.get(module)? {
                    Entry::Done(code) => return Some(code.clone()),
                    Entry::Failed => return None,
                    Entry::Waiting => {}
                }
            }
            finished.changed().await.ok()?;
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Done(code) => code.len(),
            Self::Waiting | Self::Failed => 0,
        }
    }
}
