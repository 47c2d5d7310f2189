//! How load is spread over priorities: each takes what its healthy share, with overprovisioning, can bear, the next the
//! rest; below the panic threshold health is ignored. Envoy's arithmetic, in whole percents.

/// What is known of the endpoints of one priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Endpoints in all but those that are left out (not checked yet).
    pub(super) total: u64,
    /// Endpoints, or their weights (`weighted_priority_health`).
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    /// Their numbers, which panic goes by.
    pub(super) hosts: u64,
    pub(super) healthy_hosts: u64,
    pub(super) degraded_hosts: u64,
}

/// The share of one priority in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) healthy: u32,
    pub(super) degraded: u32,
    /// All its endpoints are chosen among.
    pub(super) panic: bool,
}

/// The shares sum up to 100, where there is any priority.
pub(super) fn spread(levels: &[Level], overprovisioning_percent: u32, panic_millis: u32) -> Vec<Load> {
    let availability = |part: u64, level: &Level| match level.total {
        0 => 0,
        total => (u64::from(overprovisioning_percent) * part / total).min(100),
    };
    let healthy: Vec<u64> = levels.iter().map(|level| availability(level.healthy, level)).collect();
    let degraded: Vec<u64> = levels.iter().map(|level| availability(level.degraded, level)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u64>().min(100);
    if available == 0 {
        return if panic_millis > 0 { total_panic(levels) } else { nowhere(levels.len()) };
    }
    let mut loads = vec![Load::default(); levels.len()];
    let mut left = 100;
    for (load, share) in loads.iter_mut().zip(&healthy) {
        load.healthy = take(&mut left, *share, available);
    }
    for (load, share) in loads.iter_mut().zip(&degraded) {
        load.degraded = take(&mut left, *share, available);
    }
    // What rounding leaves over.
    if let Some(first) = healthy.iter().position(|share| *share > 0) {
        loads[first].healthy += left;
    } else if let Some(first) = degraded.iter().position(|share| *share > 0) {
        loads[first].degraded += left;
    }
    if available < 100 {
        for (load, level) in loads.iter_mut().zip(levels) {
            let serving = (level.healthy_hosts + level.degraded_hosts) * 100_000;
            load.panic = level.hosts == 0 && panic_millis > 0 || serving < u64::from(panic_millis) * level.hosts;
        }
    }
    loads
}

fn take(left: &mut u32, share: u64, available: u64) -> u32 {
    let taken = u32::try_from(share * 100 / available).unwrap_or(100).min(*left);
    *left -= taken;
    taken
}

/// Nothing is healthy: every endpoint has the same chance.
fn total_panic(levels: &[Level]) -> Vec<Load> {
    let total: u64 = levels.iter().map(|level| level.hosts).sum();
    if total == 0 {
        return nowhere(levels.len());
    }
    let share = |level: &Level| u32::try_from(level.hosts * 100 / total).unwrap_or(100);
    let mut loads: Vec<Load> =
        levels.iter().map(|level| Load { healthy: share(level), degraded: 0, panic: true }).collect();
    let rest = 100 - loads.iter().map(|load| load.healthy).sum::<u32>();
    if let Some(first) = levels.iter().position(|level| level.hosts > 0) {
        loads[first].healthy += rest;
    }
    loads
}

/// There is nothing to choose; the first priority says so.
fn nowhere(levels: usize) -> Vec<Load> {
    let mut loads = vec![Load::default(); levels];
    if let Some(first) = loads.first_mut() {
        first.healthy = 100;
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels as (hosts, healthy, degraded); loads as (healthy, degraded, panic).
    fn check(levels: &[(u64, u64, u64)], panic_millis: u32, expected: &[(u32, u32, bool)]) {
        let levels: Vec<Level> = levels
            .iter()
            .map(|(hosts, healthy, degraded)| Level {
                total: *hosts,
                healthy: *healthy,
                degraded: *degraded,
                hosts: *hosts,
                healthy_hosts: *healthy,
                degraded_hosts: *degraded,
            })
            .collect();
        let found: Vec<(u32, u32, bool)> =
            spread(&levels, 140, panic_millis).iter().map(|load| (load.healthy, load.degraded, load.panic)).collect();
        assert_eq!(found, expected, "{levels:?}");
        assert_eq!(found.iter().map(|(healthy, degraded, _)| healthy + degraded).sum::<u32>(), 100);
    }

    #[test]
    fn load_spills_with_health() {
        // The examples of Envoy's documentation on priorities.
        check(&[(100, 100, 0), (100, 100, 0)], 50_000, &[(100, 0, false), (0, 0, false)]);
        check(&[(100, 72, 0), (100, 72, 0)], 50_000, &[(100, 0, false), (0, 0, false)]);
        check(&[(100, 71, 0), (100, 71, 0)], 50_000, &[(99, 0, false), (1, 0, false)]);
        check(&[(100, 50, 0), (100, 50, 0)], 50_000, &[(70, 0, false), (30, 0, false)]);
        check(&[(100, 25, 0), (100, 100, 0)], 50_000, &[(35, 0, false), (65, 0, false)]);
        check(&[(100, 25, 0), (100, 25, 0)], 0, &[(50, 0, false), (50, 0, false)]);
        check(&[(100, 0, 0), (100, 100, 0)], 50_000, &[(0, 0, false), (100, 0, false)]);
    }

    #[test]
    fn degraded_ones_take_what_healthy_ones_cannot() {
        check(&[(2, 1, 1)], 50_000, &[(70, 30, false)]);
        check(&[(4, 0, 4), (4, 4, 0)], 50_000, &[(0, 0, false), (100, 0, false)]);
        check(&[(4, 0, 4)], 50_000, &[(0, 100, false)]);
    }

    #[test]
    fn panic() {
        check(&[(100, 25, 0), (100, 25, 0)], 50_000, &[(50, 0, true), (50, 0, true)]);
        check(&[(100, 5, 0), (100, 65, 0)], 50_000, &[(8, 0, true), (92, 0, false)]);
        check(&[(3, 0, 0), (1, 0, 0)], 50_000, &[(75, 0, true), (25, 0, true)]);
        check(&[(3, 0, 0), (1, 0, 0)], 0, &[(100, 0, false), (0, 0, false)]);
        check(&[(0, 0, 0)], 50_000, &[(100, 0, false)]);
        // Enough in all: no panic, though one priority is nearly gone.
        check(&[(10, 1, 0), (10, 9, 0)], 50_000, &[(14, 0, false), (86, 0, false)]);
    }
}
