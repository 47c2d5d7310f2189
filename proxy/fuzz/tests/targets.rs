//! Every target for a moment; with `OUTRIGGER_FULL` for its share of some minutes more.
//!
//! `OUTRIGGER_SEED` and `OUTRIGGER_INPUTS` do again what a run says that it did.

#![expect(clippy::panic, reason = "a find fails its test")]

use std::io::Write as _;
use std::time::Duration;

use outrigger_fuzz::{Length, TARGETS, fuzz};

/// What all targets together may take in the long form, beyond the short one: five minutes on two cores.
const FULL_CPU: Duration = Duration::from_secs(600);
/// And one of them.
const FURTHER_MAX: Duration = Duration::from_secs(45);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn length(short: u64) -> Length {
    let is_full = std::env::var_os("OUTRIGGER_FULL").is_some_and(|value| !value.is_empty() && value != "0");
    let share = FULL_CPU / u32::try_from(TARGETS.len()).unwrap_or(1);
    match number("OUTRIGGER_INPUTS") {
        Some(inputs) => Length { inputs, further: Duration::ZERO },
        None if is_full => Length { inputs: short, further: share.min(FURTHER_MAX) },
        None => Length { inputs: short, further: Duration::ZERO },
    }
}

fn run(name: &str) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else { panic!("no target {name}") };
    let seed = number("OUTRIGGER_SEED").unwrap_or_else(rand::random);
    match fuzz(target, seed, length(target.short)) {
        Ok(ran) => {
            // Past what a test runner captures: what ran is the result.
            let words = format!("OUTRIGGER_SEED={seed} OUTRIGGER_INPUTS={}", ran.inputs);
            _ = writeln!(std::io::stderr(), "{name}: {} outcomes ({words})", ran.outcomes);
            assert!(ran.outcomes > 2, "{name} only ever answers the same");
        }
        Err(find) => panic!("{name}, OUTRIGGER_SEED={seed}: {} ({} bytes)", find.file.display(), find.input.len()),
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)) })*

        #[test]
        fn each_target_has_a_test() {
            let tested = [$(stringify!($name)),*];
            for target in TARGETS {
                assert!(tested.contains(&target.name), "{}", target.name);
            }
        }
    };
}

targets! {
    pairs hostcalls module
    http1_request http1_response
    xds render routes
    proxy_header client_hello http_version
    paths header_values client_certificate
    chains regexes templates formats
}
