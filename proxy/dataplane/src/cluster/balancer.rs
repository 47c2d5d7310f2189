//! Which endpoint gets the next request.

use std::rc::Rc;

use outrigger_config::{Health, LbPolicy};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::EndpointHandle;

/// The state of a policy over the endpoints that may be chosen.
#[derive(Debug)]
pub(super) struct Balancer {
    policy: LbPolicy,
    /// Indices of the endpoints of the best priority that has one that can serve.
    eligible: Vec<usize>,
    /// Round robin by smooth weights: what each has saved up, in the order of `eligible`.
    credits: Vec<i64>,
    weights: Vec<u32>,
    uniform: bool,
    next: usize,
    random: SmallRng,
}

impl Balancer {
    pub(super) fn new(policy: LbPolicy, endpoints: &[Rc<EndpointHandle>]) -> Balancer {
        let eligible = eligible(endpoints);
        let weights: Vec<u32> = eligible.iter().map(|index| endpoints[*index].endpoint.weight.max(1)).collect();
        let uniform = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let mut random = SmallRng::from_os_rng();
        // Workers start at different places, so that few requests don't all meet the first endpoint.
        let next = if eligible.is_empty() { 0 } else { random.random_range(0..eligible.len()) };
        Balancer { policy, credits: vec![0; eligible.len()], weights, uniform, eligible, next, random }
    }

    /// The index of an endpoint. Allocates nothing.
    pub(super) fn pick(&mut self, endpoints: &[Rc<EndpointHandle>]) -> Option<usize> {
        match self.eligible.len() {
            0 => None,
            1 => Some(self.eligible[0]),
            _ => Some(match self.policy {
                LbPolicy::RoundRobin if self.uniform => {
                    self.next = (self.next + 1) % self.eligible.len();
                    self.eligible[self.next]
                }
                LbPolicy::RoundRobin => self.smooth(),
                LbPolicy::Random if self.uniform => self.eligible[self.random.random_range(0..self.eligible.len())],
                LbPolicy::Random => self.weighted(),
                LbPolicy::LeastRequest { choices } => self.least(endpoints, choices),
            }),
        }
    }

    /// Smooth weighted round robin: everybody saves up its weight, the richest pays all.
    fn smooth(&mut self) -> usize {
        let total: i64 = self.weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut best = 0;
        for (at, weight) in self.weights.iter().enumerate() {
            self.credits[at] += i64::from(*weight);
            if self.credits[at] > self.credits[best] {
                best = at;
            }
        }
        self.credits[best] -= total;
        self.eligible[best]
    }

    fn weighted(&mut self) -> usize {
        let total: u64 = self.weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut at = self.random.random_range(0..total);
        for (index, weight) in self.eligible.iter().zip(&self.weights) {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return *index,
            }
        }
        self.eligible[0]
    }

    /// The power of choices: of some random ones that with the fewest active requests for its weight.
    fn least(&mut self, endpoints: &[Rc<EndpointHandle>], choices: u32) -> usize {
        let count = self.eligible.len();
        let mut best: Option<usize> = None;
        for _ in 0..choices.max(2) {
            let candidate = self.eligible[self.random.random_range(0..count)];
            best = Some(match best {
                Some(best) if load(&endpoints[best]) <= load(&endpoints[candidate]) => best,
                _ => candidate,
            });
        }
        best.unwrap_or(self.eligible[0])
    }
}

fn load(endpoint: &EndpointHandle) -> u64 {
    (u64::from(endpoint.active.get()) + 1) * 1_000_000 / u64::from(endpoint.endpoint.weight.max(1))
}

/// Healthy endpoints of the first priority that has any; else its degraded ones; else, in the same order, further
/// priorities.
fn eligible(endpoints: &[Rc<EndpointHandle>]) -> Vec<usize> {
    let mut priorities: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    for health in [Health::Healthy, Health::Degraded] {
        for priority in &priorities {
            let found: Vec<usize> = (0..endpoints.len())
                .filter(|index| {
                    let endpoint = &endpoints[*index];
                    endpoint.priority == *priority && endpoint.endpoint.health == health && !endpoint.excluded
                })
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}
