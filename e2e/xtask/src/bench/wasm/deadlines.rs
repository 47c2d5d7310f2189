//! What it costs that a guest can be stopped: the same modules compiled with and without the checks at loops and functions,
//! in the host alone (`wasm/examples/hotpath`), where nothing else of a request hides them. One module mostly asks the host,
//! the other one computes (a SHA-256 for each request).

use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::report::Report;
use crate::bench::{Bench, configs};
use crate::shell::output;

/// The program's own stream has the key `secret`.
const KEYS: &str =
    r#"{"keys": [{"name": "bench", "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}]}"#;

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report { readable: true, ..Report::default() };
    let Some(hotpath) = &bench.hotpath else {
        report.words.push("not measured: no examples/hotpath lies beside --proxy".to_owned());
        return Ok(report);
    };
    if !bench.wants("outrigger") {
        return Ok(report);
    }
    let keys = bench.header_policy.with_file_name("api_key_auth.wasm");
    let policy = configs::header_policy(0, "response");
    let mut worst: Option<f64> = None;
    for (name, module, configuration) in
        [("header-policy", &bench.header_policy, policy.as_str()), ("api-key-auth", &keys, KEYS)]
    {
        let mut command = Command::new(hotpath);
        if bench.quick {
            command.env("REQUESTS", "10000");
        }
        let text = output(command.arg("--deadlines").arg(module).arg(configuration))?;
        let added = added(&text).with_context(|| format!("the words of hotpath:\n{text}"))?;
        let (_, words) = text.trim().rsplit_once(": ").unwrap_or_default();
        report.words.push(format!("{name:<22} {words}"));
        report.extra.insert(format!("{name} added by deadline checks, percent"), added);
        worst = Some(worst.map_or(added, |worst| worst.max(added)));
    }
    report.target("deadline checks add to a guest's request, percent", worst, 10.0);
    Ok(report)
}

/// 6.5 for `…, added 6.5 %, …`.
fn added(text: &str) -> Option<f64> {
    text.split(", ").find_map(|part| part.trim().strip_prefix("added ")?.strip_suffix(" %")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::added;

    #[test]
    fn reads_hotpath() {
        let text = "/f.wasm: with deadlines 560 ns, without 530 ns, added 5.7 %, least -0.2 %, most 9.9 %\n";
        assert_eq!(added(text), Some(5.7));
    }
}
