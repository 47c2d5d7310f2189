use bytes::Bytes;

use super::*;
use crate::filter::{FailurePolicy, Isolation, Limits, Module, Phase};
use crate::ids::{Kind, Source};
use crate::objects::Object;

const PAUSE: u64 = 30_000;

fn filter(code: &str, steps: &[u8], shadow: bool) -> WasmFilter {
    let id = ObjectId::new("shop", "keys");
    let guardrails = Guardrails { trap_rate: Some(1000), ..Guardrails::default() };
    let plan = RolloutPlan { steps: steps.to_vec(), pause: Duration::from_millis(PAUSE), guardrails };
    WasmFilter {
        source: Arc::new(Source {
            kind: Kind::WasmFilter,
            namespace: "shop".into(),
            name: "keys".into(),
            file: "a.yaml".into(),
            line: 1,
        }),
        id,
        targets: Vec::new(),
        phase: Phase::AuthN,
        priority: 0,
        revision: Arc::new(Revision {
            module: Module::new(Bytes::copy_from_slice(code.as_bytes())),
            config: Bytes::new(),
            failure_policy: FailurePolicy::Closed,
            limits: Limits::default(),
            isolation: Isolation::Shared,
            env: Vec::new(),
        }),
        rollout: (!steps.is_empty()).then_some(plan),
        shadow,
        trial: None,
    }
}

fn all_current(_: &ObjectId) -> Reports {
    Reports { proxies: 2, current: 2, rejected: None }
}

struct Mesh {
    rollouts: Rollouts,
    wanted: WasmFilter,
}

impl Mesh {
    fn new(first: WasmFilter) -> Self {
        let mut mesh = Self { rollouts: Rollouts::default(), wanted: first };
        mesh.staged();
        mesh
    }

    fn edit(&mut self, wanted: WasmFilter) -> (String, Option<(u8, String)>) {
        self.wanted = wanted;
        self.staged()
    }

    /// The code that runs, and what is tried beside it with which share.
    fn staged(&mut self) -> (String, Option<(u8, String)>) {
        let filter = self.filter();
        let code = |revision: &Revision| String::from_utf8(revision.module.bytes().to_vec()).unwrap();
        let trial = filter.trial.as_ref().map(|trial| (trial.percent, code(&trial.revision)));
        (code(&filter.revision), trial)
    }

    fn filter(&mut self) -> Arc<WasmFilter> {
        let mut objects = Objects::default();
        objects.insert(Object::WasmFilter(Arc::new(self.wanted.clone())));
        self.rollouts.stage(&mut objects);
        objects.filters.into_values().next().unwrap()
    }

    fn state(&self) -> RolloutState {
        self.rollouts.state(&self.wanted.id).unwrap()
    }
}

fn tried(percent: u8, code: &str) -> Option<(u8, String)> {
    Some((percent, code.to_owned()))
}

#[test]
fn a_good_revision_goes_up_the_steps_and_is_promoted() {
    let mut mesh = Mesh::new(filter("old", &[5, 50], false));
    assert_eq!(mesh.staged(), ("old".to_owned(), None));
    assert_eq!(mesh.edit(filter("new", &[5, 50], false)), ("old".to_owned(), tried(5, "new")));
    assert!(mesh.rollouts.is_active());
    // The pause counts from when every proxy has the step.
    let waiting = |_: &ObjectId| Reports { proxies: 2, current: 1, rejected: None };
    assert!(mesh.rollouts.advance(0, |_| Reports::default()).is_empty(), "nobody is there");
    assert!(mesh.rollouts.advance(PAUSE, waiting).is_empty());
    assert!(mesh.rollouts.advance(PAUSE, all_current).is_empty());
    assert!(mesh.rollouts.advance(2 * PAUSE - 1, all_current).is_empty());
    let events = mesh.rollouts.advance(2 * PAUSE, all_current);
    assert_eq!(events, [(mesh.wanted.id.clone(), Event::Step { percent: 50 })]);
    assert_eq!(mesh.staged(), ("old".to_owned(), tried(50, "new")));
    assert!(mesh.rollouts.advance(2 * PAUSE, waiting).is_empty());
    assert!(mesh.rollouts.advance(3 * PAUSE, all_current).is_empty());
    let events = mesh.rollouts.advance(4 * PAUSE, all_current);
    assert!(matches!(&events[..], [(_, Event::Promoted { .. })]), "{events:?}");
    assert_eq!(mesh.staged(), ("new".to_owned(), None));
    assert_eq!(mesh.state(), RolloutState::Complete);
    assert!(!mesh.rollouts.is_active());
}

#[test]
fn a_bad_revision_is_given_up_until_something_changes() {
    let mut mesh = Mesh::new(filter("old", &[5, 50], false));
    mesh.edit(filter("bad", &[5, 50], false));
    let rejected =
        |_: &ObjectId| Reports { proxies: 2, current: 1, rejected: Some(("edge-1".to_owned(), "traps".to_owned())) };
    let events = mesh.rollouts.advance(0, rejected);
    assert!(matches!(&events[..], [(_, Event::GivenUp { reason, .. })] if reason == "edge-1: traps"), "{events:?}");
    assert_eq!(mesh.staged(), ("old".to_owned(), None));
    assert!(matches!(mesh.state(), RolloutState::GivenUp(GivenUp { percent: 5, .. })));
    // Looking again changes nothing, and neither does a restart.
    assert_eq!(mesh.staged(), ("old".to_owned(), None));
    mesh.rollouts = Rollouts::restore(mesh.rollouts.records());
    assert_eq!(mesh.staged(), ("old".to_owned(), None));
    // Another plan is another try; so is another revision; and back to the old one nothing is to be done.
    assert_eq!(mesh.edit(filter("bad", &[1, 50], false)), ("old".to_owned(), tried(1, "bad")));
    mesh.rollouts.advance(0, rejected);
    assert_eq!(mesh.edit(filter("good", &[1, 50], false)), ("old".to_owned(), tried(1, "good")));
    assert_eq!(mesh.edit(filter("old", &[1, 50], false)), ("old".to_owned(), None));
    assert_eq!(mesh.state(), RolloutState::Complete);
}

#[test]
fn a_restart_continues_at_the_step() {
    let mut mesh = Mesh::new(filter("old", &[5, 50], false));
    mesh.edit(filter("new", &[5, 50], false));
    mesh.rollouts.advance(0, all_current);
    mesh.rollouts.advance(PAUSE, all_current);
    assert_eq!(mesh.staged(), ("old".to_owned(), tried(50, "new")));
    let id = mesh.filter().trial.as_ref().unwrap().id.clone();
    mesh.rollouts = Rollouts::restore(mesh.rollouts.records());
    assert_eq!(mesh.staged(), ("old".to_owned(), tried(50, "new")));
    assert_eq!(mesh.filter().trial.as_ref().unwrap().id, id, "it is the same try");
    // The whole pause again.
    assert!(mesh.rollouts.advance(9 * PAUSE, all_current).is_empty());
    assert!(!mesh.rollouts.advance(10 * PAUSE, all_current).is_empty());
}

#[test]
fn another_edit_starts_over_and_an_ordinary_one_comes_at_once() {
    let mut mesh = Mesh::new(filter("old", &[5, 50], false));
    mesh.edit(filter("new", &[5, 50], false));
    mesh.rollouts.advance(0, all_current);
    mesh.rollouts.advance(PAUSE, all_current);
    assert_eq!(mesh.edit(filter("newer", &[5, 50], false)), ("old".to_owned(), tried(5, "newer")));
    // Without a plan: everywhere at once, and nothing to remember.
    assert_eq!(mesh.edit(filter("newest", &[], false)), ("newest".to_owned(), None));
    assert!(mesh.rollouts.records().is_empty() && mesh.rollouts.state(&mesh.wanted.id).is_none());
    // A plan that comes together with new code counts for it.
    assert_eq!(mesh.edit(filter("last", &[5], false)), ("newest".to_owned(), tried(5, "last")));
}

#[test]
fn a_shadow_stays_one_until_it_is_wanted() {
    let mut mesh = Mesh::new(filter("old", &[], false));
    assert_eq!(mesh.edit(filter("new", &[], true)), ("old".to_owned(), tried(0, "new")));
    assert!(mesh.filter().trial.as_ref().is_some_and(|trial| trial.shadow && !trial.alone));
    assert!(
        mesh.rollouts.advance(PAUSE, all_current).is_empty()
            && mesh.rollouts.advance(9 * PAUSE, all_current).is_empty()
    );
    assert!(matches!(mesh.state(), RolloutState::Shadow { .. }));
    // From shadow to steps.
    assert_eq!(mesh.edit(filter("new", &[5], false)), ("old".to_owned(), tried(5, "new")));

    // A filter that begins as a shadow has nobody beside it.
    let mut mesh = Mesh::new(filter("first", &[], true));
    assert!(mesh.filter().trial.as_ref().is_some_and(|trial| trial.shadow && trial.alone));
    // One that is given up runs nowhere.
    let rejected = |_: &ObjectId| Reports { rejected: Some(("p".into(), "no".into())), ..Reports::default() };
    assert_eq!(mesh.rollouts.advance(0, rejected).len(), 1);
    let nothing = mesh.filter().trial.clone().unwrap();
    assert!(nothing.alone && nothing.id.is_empty());
    assert_eq!(mesh.edit(filter("first", &[], false)), ("first".to_owned(), None));
}

#[test]
fn revisions_are_named_by_content() {
    let name = |change: fn(&mut Revision)| {
        let mut revision = (*filter("a", &[], false).revision).clone();
        change(&mut revision);
        revision.name()
    };
    let same = name(|_| {});
    assert_eq!(same, name(|_| {}));
    assert_eq!(same.len(), 12);
    let others = [
        name(|revision| revision.config = Bytes::from_static(b"x")),
        name(|revision| revision.failure_policy = FailurePolicy::Open),
        name(|revision| revision.limits.memory_bytes = Some(1)),
        name(|revision| revision.limits.body_buffer_bytes = Some(1)),
        name(|revision| revision.limits.recycle_memory_bytes = Some(1)),
        name(|revision| revision.limits.recycle_streams = Some(1)),
        name(|revision| revision.env = vec![("A".into(), "B".into())]),
        name(|revision| revision.isolation = Isolation::Plugin),
    ];
    let distinct: std::collections::BTreeSet<_> = others.iter().chain([&same]).collect();
    assert_eq!(distinct.len(), others.len() + 1);
}
