//! Endpoints of one priority that share its load: all alike, by zone, or by locality and weight.

use std::rc::Rc;
use std::sync::Arc;

use rand::Rng;

use super::chooser::{Chooser, Picking};
use super::edf::Edf;
use super::zones::Zones;
use super::{Counts, Making, Recipe};
use crate::cluster::EndpointHandle;
use crate::cluster::endpoint::Standing;

#[derive(Debug)]
pub(super) enum Group {
    Flat(Chooser),
    Zones(Box<Zones>),
    Localities { order: Edf, weights: Box<[f64]>, choosers: Box<[Chooser]> },
}

impl Group {
    /// `of`: those that can serve; `all`: the priority's; `zoned`: where zones may matter.
    pub(super) fn new(making: &mut Making<'_, '_>, of: Vec<u32>, all: &[(u32, Standing)], zoned: bool) -> Group {
        let (recipe, hosts) = (making.recipe, making.hosts);
        if !recipe.locality_weighted {
            if zoned && let Some(zones) = Zones::new(making, &of, all) {
                return Group::Zones(Box::new(zones));
            }
            let random = &mut *making.random;
            return Group::Flat(Chooser::new(recipe, hosts, of, &[], random));
        }
        let random = &mut *making.random;
        let localities = localities(recipe, hosts, &of, all);
        if localities.iter().all(|locality| locality.weight == 0.0) {
            // None has a weight: as if there were no localities.
            return Group::Flat(Chooser::new(recipe, hosts, of, &[], random));
        }
        if recipe.policy.hashes() {
            let weighted = localities.into_iter().filter(|locality| locality.given > 0.0);
            let (mut members, mut shares) = (Vec::new(), Vec::new());
            for locality in weighted {
                let weight = |member: &u32| f64::from(hosts[*member as usize].endpoint.weight);
                let sum: f64 = locality.members.iter().map(weight).sum();
                shares.extend(locality.members.iter().map(|member| locality.given * weight(member) / sum));
                members.extend(locality.members);
            }
            return Group::Flat(Chooser::new(recipe, hosts, members, &shares, random));
        }
        let weighted: Vec<Place> = localities.into_iter().filter(|locality| locality.weight > 0.0).collect();
        let weights: Box<[f64]> = weighted.iter().map(|locality| locality.weight).collect();
        let order = Edf::new((0..).zip(weights.iter().copied()), || random.random());
        let choosers = weighted.into_iter().map(|locality| Chooser::new(recipe, hosts, locality.members, &[], random));
        Group::Localities { order, weights, choosers: choosers.collect() }
    }

    pub(super) fn pick(&mut self, cx: &mut Picking<'_>, counts: &mut Counts) -> Option<u32> {
        match self {
            Group::Zones(zones) => zones.pick(cx, counts),
            Group::Flat(chooser) => chooser.pick(cx),
            Group::Localities { order, weights, choosers } => {
                let at = order.pick(|at| weights[at as usize])?;
                choosers.get_mut(at as usize)?.pick(cx)
            }
        }
    }
}

/// A locality of a priority, with its members that can serve.
struct Place {
    /// As configured.
    given: f64,
    /// Less where fewer can serve than overprovisioning makes up for.
    weight: f64,
    members: Vec<u32>,
}

fn localities(recipe: &Recipe<'_>, hosts: &[Rc<EndpointHandle>], of: &[u32], all: &[(u32, Standing)]) -> Vec<Place> {
    let mut totals: Vec<(*const outrigger_config::Locality, u32, Place)> = Vec::new();
    // Members come locality by locality.
    for (member, standing) in all {
        let locality = hosts[*member as usize].locality();
        let same = totals.last_mut().filter(|(known, _, _)| std::ptr::eq(*known, Arc::as_ptr(locality)));
        let entry = match same {
            Some(entry) => entry,
            None => {
                let given = f64::from(locality.weight.unwrap_or(0));
                totals.push((Arc::as_ptr(locality), 0, Place { given, weight: 0.0, members: Vec::new() }));
                let last = totals.len() - 1;
                &mut totals[last]
            }
        };
        if *standing != Standing::Excluded {
            entry.1 += 1;
        }
        if of.binary_search(member).is_ok() {
            entry.2.members.push(*member);
        }
    }
    let places = totals.into_iter().map(|(_, total, mut place)| {
        #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
        let serving = place.members.len() as f64 / f64::from(total.max(1));
        let share = (serving * f64::from(recipe.overprovisioning_percent) / 100.0).min(1.0);
        place.weight = place.given * share;
        place
    });
    places.filter(|place| !place.members.is_empty()).collect()
}
