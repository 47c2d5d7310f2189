//! Zone-aware routing: requests stay in the proxy's own zone as far as that leaves every endpoint of the cluster its
//! share, and the rest goes where there is room. Envoy's arithmetic, in hundredths of a percent.

use std::rc::Rc;

use outrigger_config::Locality;
use rand::{Rng, RngCore};

use super::super::EndpointHandle;
use super::super::local::LocalPlace;
use super::chooser::{Chooser, Picking};
use super::{Counts, Making, Standing};

const WHOLE: u64 = 10_000;

/// What a zone has of the local cluster and of the one that requests go to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    local: u64,
    upstream: u64,
}

/// Where requests go. The own zone, if the cluster is there, is the first.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Direct,
    /// So much to the own zone; of the rest each zone gets what it has beyond the last one's sum.
    Residual {
        own: u64,
        sums: Box<[u64]>,
    },
}

impl Plan {
    fn new(shares: &[Share], has_own: bool, forced: bool) -> Plan {
        let own = shares.first().copied().filter(|_| has_own);
        if own.is_some_and(|own| forced || own.upstream > 0 && own.upstream >= own.local) {
            return Plan::Direct;
        }
        let mut sum = 0;
        let sums = shares.iter().enumerate().map(|(index, share)| {
            if !(has_own && index == 0) {
                sum += share.upstream.saturating_sub(share.local);
            }
            sum
        });
        let sums = sums.collect();
        let own = own.filter(|own| own.local > 0).map_or(0, |own| own.upstream * WHOLE / own.local);
        Plan::Residual { own, sums }
    }

    /// The zone of a request.
    fn zone(&self, random: &mut impl RngCore, counts: &mut Counts) -> usize {
        let Plan::Residual { own, sums } = self else {
            counts.zone_all_directly += 1;
            return 0;
        };
        if random.next_u64() % WHOLE < *own {
            counts.zone_sampled += 1;
            return 0;
        }
        counts.zone_cross += 1;
        match sums.last().copied().unwrap_or(0) {
            // Rounding has left nothing.
            0 => {
                counts.zone_no_capacity += 1;
                random.random_range(0..sums.len())
            }
            total => {
                let at = random.next_u64() % total;
                sums.partition_point(|sum| *sum <= at)
            }
        }
    }
}

/// The healthy endpoints of the first priority by zone.
#[derive(Debug)]
pub(super) struct Zones {
    plan: Plan,
    choosers: Box<[Chooser]>,
    /// For requests that zones don't matter to.
    all: Chooser,
    routing_enabled_percent: u32,
    local_in_panic: bool,
    fail_on_panic: bool,
}

/// A zone of the cluster.
struct Place<'a> {
    locality: &'a Locality,
    healthy: Vec<u32>,
}

impl Zones {
    /// `None`: zones don't matter here.
    pub(super) fn new(making: &mut Making<'_, '_>, of: &[u32], all: &[(u32, Standing)]) -> Option<Zones> {
        let (recipe, hosts) = (making.recipe, making.hosts);
        let local = recipe.local?;
        if recipe.policy.hashes() {
            return None;
        }
        let mut places = places(hosts, of, all);
        let locals = local.places();
        let is_small = places.len() < 2 || recipe.zones.force_local_min.is_none() && locals.len() < 2;
        if is_small {
            return None;
        }
        if !locals.iter().any(|place| local.at.holds(&place.locality)) {
            making.counts.local_not_ok += 1;
            return None;
        }
        if (of.len() as u64) < recipe.zones.min_cluster_size {
            making.counts.zone_too_small += 1;
            return None;
        }
        places.sort_by_key(|place| !local.at.holds(place.locality));
        let has_own = places.first().is_some_and(|place| local.at.holds(place.locality));
        let own_healthy = places.first().filter(|_| has_own).map_or(0, |place| place.healthy.len());
        let forced = recipe.zones.force_local_min.is_some_and(|min| has_own && own_healthy >= min as usize);
        let plan = Plan::new(&shares(hosts, &places, &locals, recipe.zones.by_weight), has_own, forced);
        let choosers = places.into_iter().map(|place| Chooser::new(recipe, hosts, place.healthy, &[], making.random));
        Some(Zones {
            plan,
            choosers: choosers.collect(),
            all: Chooser::new(recipe, hosts, of.to_vec(), &[], making.random),
            routing_enabled_percent: recipe.zones.routing_enabled_percent,
            local_in_panic: is_in_panic(&locals, recipe.panic_millis),
            fail_on_panic: recipe.fail_on_panic,
        })
    }

    pub(super) fn pick(&mut self, cx: &mut Picking<'_>, counts: &mut Counts) -> Option<u32> {
        let enabled = self.routing_enabled_percent;
        if enabled < 100 && cx.random.random_range(0..100) >= enabled {
            return self.all.pick(cx);
        }
        if self.local_in_panic {
            counts.local_not_ok += 1;
            return if self.fail_on_panic { None } else { self.all.pick(cx) };
        }
        let zone = self.plan.zone(cx.random, counts);
        self.choosers.get_mut(zone)?.pick(cx)
    }
}

fn places<'h>(hosts: &'h [Rc<EndpointHandle>], of: &[u32], all: &[(u32, Standing)]) -> Vec<Place<'h>> {
    let mut places: Vec<Place<'h>> = Vec::new();
    for (member, _) in all {
        let locality = hosts[*member as usize].locality();
        let at = places.iter().position(|place| place.locality.is_same_place(locality)).unwrap_or_else(|| {
            places.push(Place { locality, healthy: Vec::new() });
            places.len() - 1
        });
        if of.binary_search(member).is_ok() {
            places[at].healthy.push(*member);
        }
    }
    places
}

fn shares(hosts: &[Rc<EndpointHandle>], places: &[Place<'_>], locals: &[LocalPlace], by_weight: bool) -> Vec<Share> {
    let of_local = |local: &LocalPlace| if by_weight { local.weight } else { local.healthy };
    let of_upstream = |place: &Place<'_>| match by_weight {
        true => place.healthy.iter().map(|member| u64::from(hosts[*member as usize].endpoint.weight)).sum(),
        false => place.healthy.len() as u64,
    };
    let local_total: u64 = locals.iter().map(of_local).sum();
    let upstream_total: u64 = places.iter().map(of_upstream).sum();
    let part = |value: u64, total: u64| (value * WHOLE).checked_div(total).unwrap_or(0);
    let share = |place: &Place<'_>| {
        if place.healthy.is_empty() {
            return Share::default();
        }
        let local = locals.iter().find(|local| local.locality.is_same_place(place.locality)).map_or(0, of_local);
        Share { local: part(local, local_total), upstream: part(of_upstream(place), upstream_total) }
    };
    places.iter().map(share).collect()
}

fn is_in_panic(locals: &[LocalPlace], panic_millis: u32) -> bool {
    let sum = |of: fn(&LocalPlace) -> u64| locals.iter().map(of).sum::<u64>();
    let (hosts, serving) = (sum(|place| place.hosts), sum(|place| place.healthy + place.degraded));
    serving * 100_000 < u64::from(panic_millis) * hosts
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    /// Zones as (local, upstream); what each gets of 10,000 requests.
    fn check(shares: &[(u64, u64)], has_own: bool, forced: bool, expected: &[u64]) {
        let shares: Vec<Share> =
            shares.iter().map(|(local, upstream)| Share { local: *local, upstream: *upstream }).collect();
        let plan = Plan::new(&shares, has_own, forced);
        let exact: Vec<u64> = match &plan {
            Plan::Direct => (0..shares.len()).map(|at| if at == 0 { WHOLE } else { 0 }).collect(),
            Plan::Residual { own, sums } => {
                let total = sums.last().copied().unwrap_or(0).max(1);
                let before = std::iter::once(0).chain(sums.iter().copied());
                let rest = before.zip(sums).map(|(before, sum)| (sum - before) * (WHOLE - own) / total);
                rest.enumerate().map(|(at, rest)| if at == 0 && has_own { *own } else { rest }).collect()
            }
        };
        assert_eq!(exact, expected, "{shares:?}");
        let (mut random, mut counts) = (SmallRng::seed_from_u64(7), Counts::default());
        let mut found = vec![0_u64; shares.len()];
        (0..WHOLE).for_each(|_| found[plan.zone(&mut random, &mut counts)] += 1);
        assert!(found.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) < 200), "{found:?}");
        let counted = counts.zone_all_directly + counts.zone_sampled + counts.zone_cross;
        assert_eq!(counted, WHOLE);
    }

    #[test]
    fn shares_follow_the_room_that_zones_have() {
        // As many of both, or more of the cluster's: everything stays.
        check(&[(5000, 5000), (5000, 5000)], true, false, &[10_000, 0]);
        check(&[(2000, 4000), (8000, 6000)], true, false, &[10_000, 0]);
        // Half as many: half stays, and the others get it by what they have too many.
        check(&[(4000, 2500), (4000, 5000), (2000, 2500)], true, false, &[6250, 2500, 1250]);
        check(&[(2000, 1000), (8000, 9000)], true, false, &[5000, 5000]);
        // Zones without room get nothing.
        check(&[(5000, 2000), (5000, 4000), (0, 4000)], true, false, &[4000, 0, 6000]);
        // The cluster has none in the own zone, or none there that is healthy.
        check(&[(3000, 5000), (3000, 5000)], false, false, &[5000, 5000]);
        check(&[(0, 0), (5000, 10_000)], true, false, &[0, 10_000]);
        // By force.
        check(&[(9000, 1000), (1000, 9000)], true, true, &[10_000, 0]);
    }

    #[test]
    fn what_rounding_leaves_goes_anywhere() {
        let plan = Plan::new(&[Share { local: 5000, upstream: 5000 }; 2], false, false);
        let (mut random, mut counts) = (SmallRng::seed_from_u64(1), Counts::default());
        let mut seen = [0, 0];
        (0..100).for_each(|_| seen[plan.zone(&mut random, &mut counts)] += 1);
        assert!(seen.iter().all(|seen| *seen > 20) && counts.zone_no_capacity == 100, "{seen:?}");
    }
}
