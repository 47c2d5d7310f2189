//! The folder: `validate`, and the loop that loads it whenever it changes and publishes what is good.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outrigger_api::{LoadOptions, LoadReport, Loader, Severity, load};
use outrigger_model::{Changes, MeshIndex, Objects};
use outrigger_xds_server::{AdsServer, Debounce, DebounceOptions, Hub};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::args::{Output, Validate};
use crate::client::HttpFetcher;
use crate::precompile::Precompiler;
use crate::rollout::Staging;
use crate::state::State;
use crate::watch::{self, Watch};

/// How often proxies are asked about new revisions, while there are any.
const ROLLOUT_PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn options(allow_outside: bool) -> LoadOptions {
    LoadOptions { allow_outside, fetcher: Some(Arc::new(HttpFetcher)) }
}

pub(crate) fn validate(arguments: &Validate) -> Result<ExitCode> {
    let report = load(&arguments.dir, &options(arguments.allow_outside));
    let mut out = std::io::stdout().lock();
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report.problems)?)?,
        Output::Table => {
            for problem in &report.problems {
                writeln!(out, "{problem}")?;
            }
            let errors = report.errors().count();
            let warnings = report.problems.len() - errors;
            match &report.objects {
                Some(objects) => writeln!(out, "valid: {} objects, {warnings} warnings", objects.len())?,
                None => writeln!(out, "not valid: {errors} errors, {warnings} warnings")?,
            }
        }
    }
    Ok(if report.objects.is_some() { ExitCode::SUCCESS } else { ExitCode::from(crate::EXIT_PROBLEMS) })
}

/// Loads, publishes, and waits for the next change, for ever.
pub(crate) struct Follower {
    pub(crate) dir: PathBuf,
    pub(crate) allow_outside: bool,
    pub(crate) debounce: DebounceOptions,
    pub(crate) rescan_interval: Duration,
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: Arc<State>,
    pub(crate) ads: AdsServer,
    pub(crate) staging: Arc<Staging>,
    pub(crate) precompiler: Option<Arc<Precompiler>>,
}

/// The mesh as it is served, and as it was written.
#[derive(Default)]
struct Mesh {
    index: MeshIndex,
    /// What was good the last time, before rollouts changed it.
    wanted: Option<Objects>,
}

/// One look at the folder.
struct Pass {
    loader: Loader,
    report: LoadReport,
    /// Of the inputs before they were read: a change during the load is a change after it.
    fingerprint: u64,
}

impl Follower {
    pub(crate) async fn run(self) -> Result<()> {
        let (mut watch, mut changes) = Watch::new();
        let mut loader = Loader::new(&self.dir, options(self.allow_outside));
        let mut mesh = Mesh::default();
        let mut inputs = vec![self.dir.clone()];
        loop {
            // Watched before it is read, so that nothing falls between.
            watch.follow(&inputs);
            let before = inputs.clone();
            let pass = tokio::task::spawn_blocking(move || {
                let fingerprint = watch::fingerprint(&before);
                let report = loader.load();
                Pass { loader, report, fingerprint }
            });
            let pass = pass.await.context("the loader has failed")?;
            loader = pass.loader;
            let same_inputs = pass.report.inputs == inputs;
            inputs.clone_from(&pass.report.inputs);
            self.take(&mut mesh, pass.report);
            // New folders: one more look tells what they are like, and nothing in them is missed.
            if same_inputs {
                self.wait(&mut changes, &inputs, pass.fingerprint, &mut mesh).await?;
            }
        }
    }

    /// Publishes what is good; keeps what was good, and says what is wrong.
    fn take(&self, mesh: &mut Mesh, report: LoadReport) {
        let LoadReport { objects, problems, .. } = report;
        let good = objects.is_some();
        let mut publish = None;
        let index = &mut mesh.index;
        if let Some(mut objects) = objects {
            let count = objects.len();
            mesh.wanted = Some(objects.clone());
            self.staging.stage(&mut objects);
            let changes = index.replace(objects);
            let is_first = self.hub.index().is_none();
            if is_first || !changes.is_empty() {
                publish = Some((count, changes));
            }
        }
        let differ = self.state.loaded(good.then(|| index.generation()), problems.clone());
        if differ {
            for problem in &problems {
                match problem.severity {
                    Severity::Error => error!("{problem}"),
                    Severity::Warning => warn!("{problem}"),
                }
            }
            if !good {
                let stays = if index.generation() > 0 { "the last good state stays" } else { "nothing is served yet" };
                error!("the folder has errors: {stays}");
            } else if publish.is_none() {
                info!("the folder is good");
            }
        }
        if let Some((count, changes)) = publish {
            let pushed = self.publish(index, &changes);
            info!(objects = count, generation = index.generation(), snapshots = pushed, "configuration taken");
        }
    }

    fn publish(&self, index: &MeshIndex, changes: &Changes) -> usize {
        if let Some(precompiler) = &self.precompiler {
            precompiler.follow(index.modules());
        }
        self.hub.publish(&Arc::new(index.clone()), changes)
    }

    /// Looks what proxies say about new revisions, and goes on where it is time.
    fn advance(&self, mesh: &mut Mesh) {
        if !self.staging.advance(&self.ads.proxies()) {
            return;
        }
        let Some(mut objects) = mesh.wanted.clone() else { return };
        self.staging.stage(&mut objects);
        let changes = mesh.index.replace(objects);
        if !changes.is_empty() {
            self.state.republished(mesh.index.generation());
            self.publish(&mesh.index, &changes);
        }
    }

    /// Returns when the folder has changed and is quiet.
    async fn wait(
        &self,
        changes: &mut mpsc::Receiver<()>,
        inputs: &[PathBuf],
        fingerprint: u64,
        mesh: &mut Mesh,
    ) -> Result<()> {
        let mut debounce = Debounce::new(self.debounce);
        let mut rescan = Instant::now() + self.rescan_interval;
        loop {
            let due = debounce.due();
            let rollouts = self.staging.is_active();
            tokio::select! {
                () = tokio::time::sleep(ROLLOUT_PAUSE), if rollouts => self.advance(mesh),
                Some(()) = changes.recv() => debounce.changed(Instant::now()),
                () = tokio::time::sleep_until(due.unwrap_or(rescan)) => {
                    if due.is_some() {
                        return Ok(());
                    }
                    let inputs = inputs.to_vec();
                    let found = tokio::task::spawn_blocking(move || watch::fingerprint(&inputs)).await?;
                    rescan = Instant::now() + self.rescan_interval;
                    if found == fingerprint {
                        self.state.unchanged();
                    } else {
                        debounce.changed(Instant::now());
                    }
                }
            }
        }
    }
}
