//! Which endpoint gets the next request: priority, locality and subset first, then the cluster's policy.
//!
//! Everything is worked out when endpoints or their health change; a pick walks what is there, in O(1) or O(log n), and
//! allocates nothing.

mod chooser;
mod edf;
mod group;
mod priority;
mod subset;
mod table;
mod zones;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{ClusterEntry, LbOptions, LbPolicy, SlowStart, ZoneAware};
use rand::RngCore;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::endpoint::Standing;
use super::local::LocalCluster;
use super::{EndpointHandle, PickKey};
use crate::stats::ClusterStats;
use chooser::Picking;
use group::Group;
use priority::{Level, Load};
use subset::{Choice, SubsetIndex};
pub(crate) use table::Tables;

/// What a balancer is made of, beside the endpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    policy: LbPolicy,
    slow_start: Option<SlowStart>,
    hash_by_hostname: bool,
    hash_balance_percent: Option<u32>,
    locality_weighted: bool,
    panic_millis: u32,
    fail_on_panic: bool,
    ignore_new: bool,
    overprovisioning_percent: u32,
    weighted_health: bool,
    zones: ZoneAware,
    local: Option<&'a LocalCluster>,
    tables: &'a Tables,
}

impl<'a> Recipe<'a> {
    pub(super) fn new(entry: &ClusterEntry, tables: &'a Tables, local: Option<&'a LocalCluster>) -> Recipe<'a> {
        let default = LbOptions::default();
        let options = entry.cluster.lb_options.as_deref().unwrap_or(&default);
        let policy = entry.assignment.as_ref().map(|assignment| assignment.policy).unwrap_or_default();
        Recipe {
            policy: entry.cluster.lb,
            slow_start: options.slow_start,
            hash_by_hostname: options.hash_by_hostname,
            hash_balance_percent: options.hash_balance_percent,
            locality_weighted: options.locality_weighted,
            panic_millis: options.panic_millis,
            fail_on_panic: options.fail_traffic_on_panic,
            ignore_new: options.ignore_new_until_checked,
            overprovisioning_percent: policy.overprovisioning_percent,
            weighted_health: policy.weighted_priority_health,
            zones: options.zones,
            local,
            tables,
        }
    }

    /// The local cluster that it is made of.
    pub(super) fn local_version(&self) -> (u64, u64) {
        self.local.map(LocalCluster::version).unwrap_or_default()
    }
}

/// The state of a cluster's policy over its endpoints.
#[derive(Debug)]
pub(super) struct Balancer {
    all: Spread,
    subsets: Option<Subsets>,
    random: SmallRng,
    /// Until then some endpoint is new, and its weight grows.
    slow_until: Option<Instant>,
    counts: Counts,
    /// Picks that were made before they are asked for.
    peeked: VecDeque<u32>,
}

/// What became of picks.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    /// They went to priorities in panic.
    panics: u64,
    subset_selected: u64,
    subset_fallback: u64,
    subset_fallback_panic: u64,
    zone_all_directly: u64,
    zone_sampled: u64,
    zone_cross: u64,
    zone_no_capacity: u64,
    zone_too_small: u64,
    local_not_ok: u64,
}

/// What the parts of a balancer are made with.
struct Making<'m, 'r> {
    recipe: &'m Recipe<'r>,
    hosts: &'m [Rc<EndpointHandle>],
    random: &'m mut SmallRng,
    counts: &'m mut Counts,
}

#[derive(Debug)]
struct Subsets {
    index: Rc<SubsetIndex>,
    /// Made at first use.
    spreads: Vec<Option<Spread>>,
}

impl Balancer {
    /// `previous`: its subsets are kept where the endpoints are the same ones.
    pub(super) fn new(
        recipe: &Recipe<'_>,
        config: Option<&Arc<outrigger_config::Subsets>>,
        hosts: &[Rc<EndpointHandle>],
        previous: Option<Balancer>,
        mut random: SmallRng,
    ) -> Balancer {
        let members: Vec<u32> = (0..hosts.len() as u32).collect();
        let index = previous.and_then(|previous| previous.subsets).map(|subsets| subsets.index);
        let subsets = config.map(|config| {
            let index = index.filter(|index| index.config == *config);
            let index = index.unwrap_or_else(|| Rc::new(SubsetIndex::new(config, hosts)));
            Subsets { spreads: index.subsets.iter().map(|_| None).collect(), index }
        });
        let slow_until = recipe.slow_start.and_then(|slow| {
            let now = Instant::now();
            hosts.iter().map(|host| host.since.get() + slow.window).filter(|until| *until > now).max()
        });
        let mut counts = Counts::default();
        let all = Spread::new(&mut Making { recipe, hosts, random: &mut random, counts: &mut counts }, members);
        Balancer { all, subsets, random, slow_until, counts, peeked: VecDeque::new() }
    }

    /// Whether endpoints that were new aren't any more.
    pub(super) fn is_stale(&self) -> bool {
        self.slow_until.is_some_and(|until| Instant::now() >= until)
    }

    /// Writes what picks have counted.
    pub(super) fn count(&mut self, stats: &ClusterStats) {
        let counts = std::mem::take(&mut self.counts);
        if counts.panics > 0 {
            stats.lb_healthy_panic().add(counts.panics);
        }
        if self.subsets.is_some() {
            stats.lb_subsets_selected().add(counts.subset_selected);
            stats.lb_subsets_fallback().add(counts.subset_fallback);
            stats.lb_subsets_fallback_panic().add(counts.subset_fallback_panic);
        }
        let zones = counts.zone_all_directly + counts.zone_cross + counts.zone_sampled;
        if zones + counts.zone_too_small + counts.local_not_ok > 0 {
            stats.lb_zone_routing_all_directly().add(counts.zone_all_directly);
            stats.lb_zone_routing_sampled().add(counts.zone_sampled);
            stats.lb_zone_routing_cross_zone().add(counts.zone_cross);
            stats.lb_zone_no_capacity_left().add(counts.zone_no_capacity);
            stats.lb_zone_cluster_too_small().add(counts.zone_too_small);
            stats.lb_local_cluster_not_ok().add(counts.local_not_ok);
        }
    }

    /// The endpoint of a pick that is yet to come; `None`: the policy decides when it comes, as in Envoy.
    pub(super) fn peek<'r>(
        &mut self,
        recipe: impl Fn() -> Recipe<'r>,
        hosts: &[Rc<EndpointHandle>],
        key: &PickKey<'_>,
    ) -> Option<u32> {
        let decides_now = matches!(recipe().policy, LbPolicy::RoundRobin | LbPolicy::Random) && self.subsets.is_none();
        if !decides_now || self.peeked.len() >= hosts.len() {
            return None;
        }
        let Balancer { all, random, counts, .. } = self;
        let picked = all.pick(&recipe, hosts, key, 0, random, counts)?;
        self.peeked.push_back(picked);
        Some(picked)
    }

    /// The place of an endpoint in the list.
    pub(super) fn pick<'r>(
        &mut self,
        recipe: impl Fn() -> Recipe<'r>,
        hosts: &[Rc<EndpointHandle>],
        key: &PickKey<'_>,
        round: u32,
    ) -> Option<u32> {
        if key.avoid_priorities.is_empty()
            && let Some(peeked) = self.peeked.pop_front()
        {
            return Some(peeked);
        }
        let Balancer { all, subsets, random, counts, .. } = self;
        let Some(subsets) = subsets else { return all.pick(&recipe, hosts, key, round, random, counts) };
        let choice = subsets.index.choose(key.metadata);
        match choice {
            Choice::Subset(subset) if Some(subset) != subsets.index.default_subset => counts.subset_selected += 1,
            Choice::None => {}
            _ => counts.subset_fallback += 1,
        }
        let picked = match choice {
            Choice::None => None,
            Choice::Any => all.pick(&recipe, hosts, key, round, random, counts),
            Choice::Subset(subset) => {
                let config = &subsets.index.config;
                let recipe = || {
                    let mut recipe = recipe();
                    // A subset's localities have the weights of the whole only where that is asked for.
                    recipe.locality_weighted &= config.locality_weight_aware;
                    recipe
                };
                let spread = subsets.spreads[subset].get_or_insert_with(|| {
                    let making = &mut Making { recipe: &recipe(), hosts, random, counts };
                    Spread::new(making, subsets.index.subsets[subset].clone())
                });
                spread.pick(&recipe, hosts, key, round, random, counts)
            }
        };
        if picked.is_none() && subsets.index.config.panic_mode_any {
            counts.subset_fallback_panic += 1;
            return all.pick(&recipe, hosts, key, round, random, counts);
        }
        picked
    }
}

/// Endpoints by priority and health.
#[derive(Debug)]
struct Spread {
    slots: Box<[Slot]>,
    /// Priorities that could serve and take no load, in their order.
    reserves: Vec<Reserve>,
    fail_on_panic: bool,
    hashed: bool,
}

/// A priority for retries that leave those with load alone.
#[derive(Debug)]
struct Reserve {
    priority: u32,
    members: Vec<(u32, Standing)>,
    /// Made at first use.
    group: Option<Group>,
}

/// The healthy, the degraded or (in panic) all endpoints of a priority.
#[derive(Debug)]
struct Slot {
    priority: u32,
    percent: u32,
    panic: bool,
    group: Group,
}

impl Spread {
    fn new(making: &mut Making<'_, '_>, members: Vec<u32>) -> Spread {
        let (recipe, hosts) = (making.recipe, making.hosts);
        let mut priorities: Vec<u32> = members.iter().map(|member| hosts[*member as usize].priority()).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let mut levels = vec![Level::default(); priorities.len()];
        let mut members_of: Vec<Vec<(u32, Standing)>> = vec![Vec::new(); priorities.len()];
        for member in members {
            let host = &hosts[member as usize];
            let Ok(at) = priorities.binary_search(&host.priority()) else { continue };
            let standing = host.standing(recipe.ignore_new);
            count(&mut levels[at], standing, if recipe.weighted_health { u64::from(host.endpoint.weight) } else { 1 });
            members_of[at].push((member, standing));
        }
        let loads = priority::spread(&levels, recipe.overprovisioning_percent, recipe.panic_millis);
        let mut slots = Vec::new();
        let mut reserves = Vec::new();
        for ((priority, load), members) in priorities.iter().zip(loads).zip(members_of) {
            add_slots(making, &mut slots, *priority, load, &members);
            if load.healthy + load.degraded == 0 && members.iter().any(|(_, standing)| *standing == Standing::Healthy) {
                reserves.push(Reserve { priority: *priority, members, group: None });
            }
        }
        // Healthy endpoints of every priority come before degraded ones, as the shares were made.
        slots.sort_by_key(|(degraded, _)| *degraded);
        let slots = slots.into_iter().map(|(_, slot)| slot).collect();
        Spread { slots, reserves, fail_on_panic: recipe.fail_on_panic, hashed: recipe.policy.hashes() }
    }

    fn pick<'r>(
        &mut self,
        recipe: &impl Fn() -> Recipe<'r>,
        hosts: &[Rc<EndpointHandle>],
        key: &PickKey<'_>,
        round: u32,
        random: &mut SmallRng,
        counts: &mut Counts,
    ) -> Option<u32> {
        let several = self.slots.len() > 1;
        let hash = match key.hash {
            Some(hash) if self.hashed => salted(hash, round),
            _ if several || self.hashed => random.next_u64(),
            _ => 0,
        };
        if let Some(group) = self.reserve(key.avoid_priorities, recipe, hosts, random, counts) {
            return group.pick(&mut Picking { hosts, random, hash }, counts);
        }
        let at = if several { self.slot(hash, key.avoid_priorities) } else { 0 };
        let slot = self.slots.get_mut(at)?;
        if slot.panic {
            counts.panics += 1;
            if self.fail_on_panic {
                return None;
            }
        }
        slot.group.pick(&mut Picking { hosts, random, hash }, counts)
    }

    /// Where all priorities with load are to be avoided: the first one beside them.
    fn reserve<'r>(
        &mut self,
        avoid: &[u32],
        recipe: &impl Fn() -> Recipe<'r>,
        hosts: &[Rc<EndpointHandle>],
        random: &mut SmallRng,
        counts: &mut Counts,
    ) -> Option<&mut Group> {
        if avoid.is_empty() || !self.slots.iter().all(|slot| avoid.contains(&slot.priority)) {
            return None;
        }
        let Reserve { members, group, .. } = self.reserves.iter_mut().find(|it| !avoid.contains(&it.priority))?;
        Some(group.get_or_insert_with(|| {
            let healthy = members.iter().filter(|(_, standing)| *standing == Standing::Healthy);
            let making = &mut Making { recipe: &recipe(), hosts, random, counts };
            Group::new(making, healthy.map(|(member, _)| *member).collect(), members, false)
        }))
    }

    /// The slot that a hash falls into, by their percents.
    fn slot(&self, hash: u64, avoid: &[u32]) -> usize {
        let sum = |avoid: &[u32]| -> u32 {
            self.slots.iter().filter(|slot| !avoid.contains(&slot.priority)).map(|slot| slot.percent).sum()
        };
        let (avoid, total) = match sum(avoid) {
            // Everything was tried: it begins anew.
            0 => (&[][..], sum(&[])),
            total => (avoid, total),
        };
        let mut at = u32::try_from(hash % u64::from(total.max(1))).unwrap_or(0);
        let candidates = self.slots.iter().enumerate().filter(|(_, slot)| !avoid.contains(&slot.priority));
        for (index, slot) in candidates {
            match at.checked_sub(slot.percent) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        0
    }
}

/// Another hash for every further try, so that another endpoint turns up.
fn salted(hash: u64, round: u32) -> u64 {
    if round == 0 { hash } else { hash ^ !(u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
}

fn count(level: &mut Level, standing: Standing, weight: u64) {
    level.hosts += 1;
    match standing {
        Standing::Excluded => {
            level.hosts -= 1;
            return;
        }
        Standing::Healthy => (level.healthy, level.healthy_hosts) = (level.healthy + weight, level.healthy_hosts + 1),
        Standing::Degraded => {
            (level.degraded, level.degraded_hosts) = (level.degraded + weight, level.degraded_hosts + 1);
        }
        Standing::Unhealthy => {}
    }
    level.total += weight;
}

fn add_slots(
    making: &mut Making<'_, '_>,
    slots: &mut Vec<(bool, Slot)>,
    priority: u32,
    load: Load,
    members: &[(u32, Standing)],
) {
    let mut add = |percent, degraded: bool, wanted: &dyn Fn(Standing) -> bool| {
        if percent == 0 {
            return;
        }
        let chosen: Vec<u32> =
            members.iter().filter(|(_, standing)| wanted(*standing)).map(|(member, _)| *member).collect();
        let zoned = priority == 0 && !degraded && !load.panic;
        let group = Group::new(making, chosen, members, zoned);
        slots.push((degraded, Slot { priority, percent, panic: load.panic, group }));
    };
    if load.panic {
        add(load.healthy + load.degraded, false, &|_| true);
    } else {
        add(load.healthy, false, &|standing| standing == Standing::Healthy);
        add(load.degraded, true, &|standing| standing == Standing::Degraded);
    }
}

#[cfg(test)]
#[path = "balancer/tests.rs"]
mod tests;
