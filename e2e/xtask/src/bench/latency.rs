//! Latency below the knee: an open loop at a rate that every proxy can serve, so that what differs is how long each takes and
//! not how much it can.

use anyhow::Result;

use super::Bench;
use super::client::{OnLoadCore, open_loop};
use super::measure::Spread;
use super::peers::{start, start_origin, table};
use super::report::Report;

const RATE: u32 = 6000;
const PER_MILLE: [(&str, usize); 4] = [("p50", 500), ("p99", 990), ("p99.9", 999), ("longest", 1000)];

pub(crate) fn run(bench: &Bench) -> Result<Report> {
    let origin = start_origin(bench)?;
    let subjects = table(bench, 0);
    let running = subjects.iter().map(|subject| start(bench, *subject, &origin, false)).collect::<Result<Vec<_>>>()?;
    let _here = OnLoadCore::new()?;
    for proxy in &running {
        open_loop(proxy.address, RATE, bench.window / 2)?;
    }
    // By subject, by round: the percentiles, in microseconds.
    let mut seen: Vec<Vec<[f64; 4]>> = vec![Vec::new(); running.len()];
    let mut errors = vec![0; running.len()];
    for round in 0..bench.rounds {
        bench.progress.say(&format!("  round {} of {}", round + 1, bench.rounds));
        for place in 0..running.len() {
            let index = if round % 2 == 0 { place } else { running.len() - 1 - place };
            let latencies = open_loop(running[index].address, RATE, bench.window)?;
            errors[index] += latencies.errors;
            seen[index].push(PER_MILLE.map(|(_, wanted)| latencies.per_mille(wanted)));
        }
    }
    let mut report = Report { readable: true, ..Report::default() };
    let [a, b, c, d] = PER_MILLE.map(|(name, _)| format!("{name} us"));
    report.words.push(format!("{:<22} {a:>10} {b:>10} {c:>10} {d:>12} {:>16} {:>7}", "", "p99 of rounds", "errors"));
    for ((subject, rounds), errors) in subjects.iter().zip(&seen).zip(errors) {
        let of = |at: usize| Spread::of(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>());
        let p99 = of(1);
        let range = format!("{:.0}-{:.0}", p99.min, p99.max);
        let (p50, p999, longest) = (of(0).median, of(2).median, of(3).median);
        let (name, p99) = (subject.name, p99.median);
        report
            .words
            .push(format!("{name:<22} {p50:>10.0} {p99:>10.0} {p999:>10.0} {longest:>12.0} {range:>16} {errors:>7}"));
        for (at, (what, _)) in PER_MILLE.iter().enumerate() {
            report.extra.insert(format!("{name} {what} us"), of(at).median);
        }
    }
    let rounds_of = |name: &str| subjects.iter().position(|subject| subject.name == name).map(|index| &seen[index]);
    let ratio = rounds_of("outrigger").zip(rounds_of("envoy")).map(|(ours, theirs)| {
        Spread::of(&ours.iter().zip(theirs).map(|(a, b)| a[1] / b[1].max(1.0)).collect::<Vec<_>>()).median
    });
    report.target_of(5, "p99 at 6,000 requests a second: ratio to Envoy", ratio, 0.5);
    Ok(report)
}
