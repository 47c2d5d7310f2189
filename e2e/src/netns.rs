//! Tests in namespaces of their own, of the network and of mounts, where they may redirect connections and put files in
//! the system's places as they like.
//!
//! The test's program runs itself again, for the one test, below `unshare`: the namespaces end with it, whatever happens.
//! Only root can do that; who cannot is told so by a failing test.

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
    command
        .args(["--net", "--mount"])
        .arg(this)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    let output = command.output().context("unshare (of util-linux) is needed")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A test that isn't there succeeds too.
    if !output.status.success() || !text.contains("1 passed") {
        bail!("{test} in namespaces of its own (which takes root): {}\n{text}", output.status);
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
