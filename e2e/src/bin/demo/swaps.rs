//! Load from an open loop while filters are edited and their code is swapped.
//!
//! Every configuration carries a new generation: header-policy stamps it on the request and on the response, the origin
//! says which one it saw. A request that saw two generations shows as two different stamps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outrigger_e2e::histogram::Histogram;
use outrigger_e2e::load::Verdict;
use outrigger_e2e::{Load, Report, Request, Response, modules};
use serde_json::Value;

use crate::mesh::{KEY, Mesh, policy};

const PUSH: Duration = Duration::from_secs(30);

pub(crate) fn swap_under_load(mesh: &Mesh, length: Duration, rate: u64, swaps: u64) -> Result<()> {
    println!(
        "\n4. {rate} requests a second for {} s, while the filter's configuration is edited and its code is",
        length.as_secs()
    );
    println!("   swapped {swaps} times each (every swap is another module: other bytes, another digest):");
    #[expect(clippy::cast_precision_loss, reason = "a rate of at most some thousands")]
    let load = Load::new(mesh.gateway, rate as f64, Request::get("/api/load").with("x-api-key", KEY)).check(judge);
    let running = load.start()?;
    let begun = Instant::now();
    let pushes = u32::try_from(2 * swaps).unwrap_or(u32::MAX).max(1);
    let pause = length / (pushes + 1);
    let mut times = Times::default();
    for number in 1..=pushes {
        wait_until(begun + pause * number);
        let is_swap = number % 2 == 0;
        let took = push(mesh, number, is_swap).with_context(|| format!("push {number} of {pushes}"))?;
        if is_swap { &mut times.swaps } else { &mut times.edits }.record(took);
        if is_swap && number % 10 == 0 {
            let so_far = running.so_far();
            println!(
                "   {:>5.1} s  {} swaps, {} served, {} failed",
                begun.elapsed().as_secs_f64(),
                number / 2,
                so_far.served,
                so_far.failed
            );
        }
    }
    wait_until(begun + length);
    let report = running.stop()?;
    summarise(&report, &times, pushes);
    report.must_be_clean()?;
    if report.stamps.len() < usize::try_from(pushes).unwrap_or_default() {
        bail!("only {} of {pushes} generations were seen in traffic", report.stamps.len());
    }
    println!("\nAll of it is as it should be.");
    Ok(())
}

/// How long pushes took.
#[derive(Debug, Default)]
struct Times {
    edits: Histogram,
    swaps: Histogram,
}

fn judge(response: &Response) -> Verdict {
    let mut verdict = Verdict::default();
    if response.status != 200 {
        verdict.failure = Some(format!("status {}: {}", response.status, response.text()));
        return verdict;
    }
    let (answer, request) = (response.header_all("x-gen-filter"), response.header_all("x-seen-gen-filter"));
    if answer.len() != 1 || answer != request {
        verdict.mixed = Some(format!("the request was stamped {request:?}, the response {answer:?}"));
    }
    verdict.stamps = answer.into_iter().map(str::to_owned).collect();
    verdict
}

/// Edits the file (and with `swap` puts another module beside it) and waits for the proxy's ACK: the time between.
fn push(mesh: &Mesh, number: u32, swap: bool) -> Result<Duration> {
    let before = versions(&mesh.wait_acked(PUSH, |_| true)?);
    let module = if swap { format!("header_policy-{number}") } else { last_module(number) };
    if swap {
        let code = modules::variant(&mesh.header_policy, number.into());
        mesh.folder.write(&format!("filters/{module}.wasm"), code)?;
    }
    let begun = Instant::now();
    mesh.folder.apply("policy.yaml", &[policy(&module, &format!("generation-{number}"))])?;
    mesh.wait_acked(PUSH, |proxy| versions(proxy) != before)?;
    Ok(begun.elapsed())
}

/// The module of the swap before an edit.
fn last_module(number: u32) -> String {
    if number < 3 { "header_policy".to_owned() } else { format!("header_policy-{}", number - 1) }
}

/// What the proxy has taken of filters and listeners.
fn versions(proxy: &Value) -> Vec<(String, String)> {
    let types = proxy["types"].as_array().into_iter().flatten();
    types.map(|t| (t["type"].to_string(), t["version"].to_string())).collect()
}

fn wait_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

fn summarise(report: &Report, times: &Times, pushes: u32) {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let line = |histogram: &Histogram| {
        format!("median {:.0} ms, longest {:.0} ms", millis(histogram.per_mille(500)), millis(histogram.max()))
    };
    println!("\n   served                      {}", report.served);
    println!("   failed                      {}", report.failed);
    println!("   connections closed          {}", report.closed);
    println!("   saw two generations         {}", report.mixed);
    println!("   pushes                      {pushes}, {} generations seen in traffic", report.stamps.len());
    println!("   from edit to ACK            {}", line(&times.edits));
    println!("   from new code to ACK        {}", line(&times.swaps));
    let latency = &report.latency;
    println!(
        "   latency (from when due)     p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms",
        millis(latency.per_mille(500)),
        millis(latency.per_mille(990)),
        millis(latency.max())
    );
    for error in &report.errors {
        println!("   ! {error}");
    }
}
