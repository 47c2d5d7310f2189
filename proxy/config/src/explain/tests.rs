//! Reasons by example; who wins is asked of the tables that serve, and tested with them and end to end.

use super::{CANDIDATES_MAX, Candidate, Question, Stage, Verdict, explain};
use crate::Snapshot;

fn stage(losers_before: usize, losers_after: usize) -> Stage {
    let lost = |index: usize| Candidate::lost(index.to_string(), "");
    let mut candidates: Vec<Candidate> = (0..losers_before).map(lost).collect();
    candidates.push(Candidate::won("winner", ""));
    candidates.extend((0..losers_after).map(lost));
    Stage::of("route", candidates)
}

#[test]
fn candidates_are_bounded_and_the_winner_is_told() {
    let check = |before, after, more| {
        let stage = stage(before, after);
        let winners = stage.candidates.iter().filter(|candidate| candidate.verdict == Verdict::Won).count();
        assert_eq!((winners, stage.more), (1, more), "{before} {after}");
        assert!(stage.candidates.len() <= CANDIDATES_MAX);
    };
    check(0, 0, 0);
    check(199, 0, 0);
    check(5000, 0, 4801);
    check(0, 5000, 4801);
    check(2500, 2500, 4801);
}

#[test]
fn nothing_listens_in_an_empty_generation() {
    let explanation = explain(&Snapshot::default(), &Question::default());
    assert_eq!(explanation.outcome, "no listener takes the connection");
    assert_eq!(explanation.stages.len(), 1);
}
