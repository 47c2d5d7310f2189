//! Every target for a moment; `OUTRIGGER_FULL`: a hundred times as long.

#![expect(clippy::panic, reason = "a find fails its test")]

use outrigger_fuzz::{TARGETS, fuzz};

fn run(name: &str) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else { panic!("no target {name}") };
    let seed = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let times = if std::env::var_os("OUTRIGGER_FULL").is_some() { 100 } else { 1 };
    match fuzz(target, seed, target.short * times) {
        Ok(ran) => {
            eprintln!("{name}: {ran:?} (OUTRIGGER_SEED={seed})");
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

targets! { pairs hostcalls module http1_request http1_response xds render routes }
