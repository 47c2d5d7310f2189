//! Tests in a network namespace of their own, where they may redirect connections as they like.
//!
//! The test's program runs itself again, for the one test, below `unshare --net`: the namespace ends with it, whatever
//! happens. Only root can do that; who cannot is told so by a failing test.

use std::process::Command;

use anyhow::{Context, Result, bail};

const INSIDE: &str = "OUTRIGGER_E2E_NAMESPACE";

/// Runs `body` in a namespace whose loopback device is up; `test`: the calling test's name.
pub fn isolated(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"])?;
        return body();
    }
    let this = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(this).args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = command.output().context("unshare (of util-linux) is needed")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A test that isn't there succeeds too.
    if !output.status.success() || !text.contains("1 passed") {
        bail!("{test} in a network namespace (which takes root): {}\n{text}", output.status);
    }
    Ok(())
}

/// Runs a command that must succeed.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} is needed"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Loads rules of nftables.
pub fn nft(rules: &str) -> Result<()> {
    run("nft", &[rules])
}
