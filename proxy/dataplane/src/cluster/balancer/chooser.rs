//! One of some endpoints, by the cluster's policy.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{LbPolicy, PeakEwma, SlowStart};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::super::EndpointHandle;
use super::Recipe;
use super::edf::Edf;
use super::table::{Candidate, Table};

/// A policy over a set of endpoints. Picks allocate nothing.
#[derive(Debug)]
pub(super) struct Chooser {
    /// Places in the cluster's list of endpoints.
    members: Box<[u32]>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// At most one.
    Only,
    RoundRobin {
        next: usize,
    },
    Random,
    /// Sums of the weights up to each.
    WeightedRandom {
        sums: Box<[u64]>,
    },
    LeastRequest {
        choices: u32,
    },
    FewestOfAll,
    PeakEwma(PeakEwma),
    /// `bias`: by least request. `slow_start`: some were new when this was built.
    Scheduled {
        edf: Edf,
        bias: Option<f64>,
        slow_start: Option<SlowStart>,
    },
    Hashed {
        table: Arc<Table>,
        shares: Box<[f32]>,
        balance_percent: Option<u32>,
    },
}

/// The state that picks have in common.
pub(super) struct Picking<'a> {
    pub(super) hosts: &'a [Rc<EndpointHandle>],
    pub(super) random: &'a mut SmallRng,
    pub(super) hash: u64,
}

fn weight(host: &EndpointHandle) -> u32 {
    host.endpoint.weight.max(1)
}

/// What an endpoint weighs while it is new.
fn slow_weight(host: &EndpointHandle, slow_start: Option<SlowStart>, now: Instant) -> f64 {
    let full = f64::from(weight(host));
    let Some(slow) = slow_start else { return full };
    let age = now.saturating_duration_since(host.since.get());
    if age >= slow.window {
        return full;
    }
    let time = age.as_secs_f64().max(1.0) / slow.window.as_secs_f64();
    let factor = time.powf(1.0 / slow.aggression.get());
    full * factor.clamp(f64::from(slow.min_weight_millis) / 100_000.0, 1.0)
}

impl Chooser {
    /// `shares`: of the hash policies, what each member weighs; empty: its own weight.
    pub(super) fn new(
        recipe: &Recipe<'_>,
        hosts: &[Rc<EndpointHandle>],
        members: Vec<u32>,
        shares: &[f64],
        random: &mut SmallRng,
    ) -> Chooser {
        let kind = kind(recipe, hosts, &members, shares, random);
        Chooser { members: members.into(), kind }
    }

    pub(super) fn pick(&mut self, cx: &mut Picking<'_>) -> Option<u32> {
        let Chooser { members, kind } = self;
        let random_of = |random: &mut SmallRng| members[random.random_range(0..members.len())];
        match kind {
            Kind::Only => members.first().copied(),
            Kind::RoundRobin { next } => {
                *next = if *next + 1 >= members.len() { 0 } else { *next + 1 };
                Some(members[*next])
            }
            Kind::Random => Some(random_of(cx.random)),
            Kind::WeightedRandom { sums } => {
                let at = cx.random.random_range(0..sums.last().copied()?);
                members.get(sums.partition_point(|sum| *sum <= at)).copied()
            }
            Kind::LeastRequest { choices } => {
                let mut best = random_of(cx.random);
                for _ in 1..*choices {
                    let other = random_of(cx.random);
                    if active(cx.hosts, other) < active(cx.hosts, best) {
                        best = other;
                    }
                }
                Some(best)
            }
            Kind::FewestOfAll => fewest(members, cx),
            Kind::PeakEwma(config) => Some(quickest(members, config, cx)),
            Kind::Scheduled { edf, bias, slow_start } => {
                let (hosts, bias, slow_start) = (cx.hosts, *bias, *slow_start);
                edf.pick(|item| {
                    let host = &hosts[item as usize];
                    let full = match slow_start {
                        Some(_) => slow_weight(host, slow_start, Instant::now()),
                        None => f64::from(weight(host)),
                    };
                    bias.map_or(full, |bias| full / biased(host.active.get(), bias))
                })
            }
            Kind::Hashed { table, shares, balance_percent } => {
                let place = table.place(cx.hash);
                let at = match balance_percent {
                    None => table.at(place)?,
                    Some(percent) => balanced(table, place, members, shares, *percent, cx.hosts)?,
                };
                members.get(at as usize).copied()
            }
        }
    }
}

fn kind(
    recipe: &Recipe<'_>,
    hosts: &[Rc<EndpointHandle>],
    members: &[u32],
    shares: &[f64],
    random: &mut SmallRng,
) -> Kind {
    if members.len() < 2 {
        return Kind::Only;
    }
    let host = |member: &u32| &hosts[*member as usize];
    if recipe.policy.hashes() {
        return hashed(recipe, hosts, members, shares);
    }
    let now = Instant::now();
    let slow_start = recipe.slow_start.filter(|slow| {
        members.iter().any(|member| now.saturating_duration_since(host(member).since.get()) < slow.window)
    });
    let uniform = members.windows(2).all(|pair| weight(host(&pair[0])) == weight(host(&pair[1])));
    let mut scheduled = |bias: Option<f64>| {
        let items = members.iter().map(|member| (*member, slow_weight(host(member), slow_start, now)));
        Kind::Scheduled { edf: Edf::new(items, || random.random()), bias, slow_start }
    };
    match recipe.policy {
        LbPolicy::RoundRobin if uniform && slow_start.is_none() => {
            // Workers start at different places, so that few requests don't all meet the first endpoint.
            Kind::RoundRobin { next: random.random_range(0..members.len()) }
        }
        LbPolicy::RoundRobin => scheduled(None),
        LbPolicy::LeastRequest { full_scan: true, .. } => Kind::FewestOfAll,
        LbPolicy::LeastRequest { choices, .. } if uniform && slow_start.is_none() => {
            Kind::LeastRequest { choices: choices.min(1024) }
        }
        LbPolicy::LeastRequest { active_request_bias, .. } => scheduled(Some(active_request_bias.get())),
        LbPolicy::PeakEwma(config) => Kind::PeakEwma(config),
        LbPolicy::Random if !uniform => {
            let mut sum = 0;
            let sums = members.iter().map(|member| {
                sum += u64::from(weight(host(member)));
                sum
            });
            Kind::WeightedRandom { sums: sums.collect() }
        }
        LbPolicy::Random | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => Kind::Random,
    }
}

fn hashed(recipe: &Recipe<'_>, hosts: &[Rc<EndpointHandle>], members: &[u32], shares: &[f64]) -> Kind {
    let weights = members.iter().enumerate().map(|(index, member)| match shares.get(index) {
        Some(share) => *share,
        None => f64::from(weight(&hosts[*member as usize])),
    });
    let sum: f64 = weights.clone().sum();
    let candidates: Vec<Candidate> = members
        .iter()
        .zip(weights)
        .map(|(member, weight)| Candidate {
            key: hosts[*member as usize].hash_key(recipe.hash_by_hostname).into(),
            share: weight / sum,
        })
        .collect();
    let table = recipe.tables.get(recipe.policy, &candidates);
    #[expect(clippy::cast_possible_truncation, reason = "a share needs no more")]
    let shares = match recipe.hash_balance_percent {
        Some(_) => candidates.iter().map(|candidate| candidate.share as f32).collect(),
        None => Box::default(),
    };
    Kind::Hashed { table, shares, balance_percent: recipe.hash_balance_percent }
}

fn active(hosts: &[Rc<EndpointHandle>], member: u32) -> u32 {
    hosts[member as usize].active.get()
}

fn biased(active: u32, bias: f64) -> f64 {
    let active = f64::from(active) + 1.0;
    if bias == 1.0 { active } else { active.powf(bias) }
}

/// The one with the fewest active requests for its weight; a random one of equals.
fn fewest(members: &[u32], cx: &mut Picking<'_>) -> Option<u32> {
    let load = |member: u32| {
        let host = &cx.hosts[member as usize];
        (f64::from(host.active.get()) + 1.0) / f64::from(weight(host))
    };
    let start = cx.random.random_range(0..members.len());
    let order = members[start..].iter().chain(&members[..start]).copied();
    order.min_by(|a, b| load(*a).total_cmp(&load(*b)))
}

/// Of some random ones the one with the least expected latency.
fn quickest(members: &[u32], config: &PeakEwma, cx: &mut Picking<'_>) -> u32 {
    let now = Instant::now();
    let cost = |member: u32| {
        let host = &cx.hosts[member as usize];
        host.latency.cost(config, host.active.get(), now) / f64::from(weight(host))
    };
    let count = members.len();
    let first = cx.random.random_range(0..count);
    let mut best = members[first];
    for _ in 1..config.choices {
        // Another one than the first: a choice between two of the same is none.
        let other = members[(first + cx.random.random_range(1..count)) % count];
        if cost(other) < cost(best) {
            best = other;
        }
    }
    best
}

/// The first one from a place on that isn't overloaded, or of those looked at the least loaded.
fn balanced(
    table: &Table,
    place: usize,
    members: &[u32],
    shares: &[f32],
    percent: u32,
    hosts: &[Rc<EndpointHandle>],
) -> Option<u32> {
    const LOOKED_AT_MAX: usize = 64;
    let all: u64 = members.iter().take(LOOKED_AT_MAX * 16).map(|member| u64::from(active(hosts, *member))).sum();
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    let slots = ((all + 1) as f64 * f64::from(percent) / 100.0).ceil();
    let overload = |at: u32| {
        let own = (slots * f64::from(*shares.get(at as usize).unwrap_or(&1.0))).ceil().max(1.0);
        f64::from(active(hosts, members[at as usize])) / own
    };
    let mut best = table.at(place)?;
    let mut least = overload(best);
    for step in 1..LOOKED_AT_MAX.min(table.len()) {
        if least < 1.0 {
            break;
        }
        let other = table.at(place + step)?;
        let load = overload(other);
        if load < least {
            (best, least) = (other, load);
        }
    }
    Some(best)
}
