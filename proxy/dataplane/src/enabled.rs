//! Which filters of a chain run for a request: those that the scopes of its route leave on. Worked out when the
//! configuration is built, so that a stream looks at the filters that run for it, however many others the chain has.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use outrigger_config::Overrides;

/// What the chain knows of one of its filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the routes' overrides of it stand; `None`: no scope says anything about it.
    pub(crate) position: Option<usize>,
    /// Off unless a scope turns it on.
    pub(crate) disabled: bool,
    /// What it lets a stream hold of a body.
    pub(crate) buffer_bytes_max: usize,
}

/// The filters of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Places in the chain, in its order.
    pub(crate) filters: Box<[usize]>,
    /// The least of what they let a stream hold of a body.
    pub(crate) buffer_bytes_max: usize,
}

/// Walks by what scopes say.
#[derive(Debug)]
pub(crate) struct Enabled {
    /// Where nothing is said.
    default: Rc<Walk>,
    /// By [`Overrides::address`], which the chain's route configuration keeps.
    by_scope: HashMap<usize, Rc<Walk>>,
}

impl Enabled {
    /// `scopes` are those of the chain's route configuration.
    pub(crate) fn new<'a>(places: &[Place], scopes: impl IntoIterator<Item = &'a Overrides>) -> Enabled {
        let on: BTreeSet<usize> = (0..places.len()).filter(|index| !places[*index].disabled).collect();
        let walk = |filters: BTreeSet<usize>| {
            let limits = filters.iter().map(|index| places[*index].buffer_bytes_max);
            Rc::new(Walk {
                buffer_bytes_max: limits.min().unwrap_or(usize::MAX),
                filters: filters.into_iter().collect(),
            })
        };
        let at: HashMap<usize, usize> =
            places.iter().enumerate().filter_map(|(index, place)| Some((place.position?, index))).collect();
        let default = walk(on.clone());
        let mut by_scope = HashMap::new();
        for scope in scopes {
            let Some(address) = scope.address().filter(|address| !by_scope.contains_key(address)) else { continue };
            let mut filters = on.clone();
            for (position, said) in scope.iter() {
                // Nobody minds a scope that speaks of a filter that the chain doesn't have.
                match at.get(&position) {
                    Some(index) if said.disabled => _ = filters.remove(index),
                    Some(index) => _ = filters.insert(*index),
                    None => {}
                }
            }
            by_scope.insert(address, walk(filters));
        }
        Enabled { default, by_scope }
    }

    /// The walk of a request whose route's scopes say this; `None`: it has no route.
    pub(crate) fn of(&self, said: Option<&Overrides>) -> &Walk {
        let address = said.and_then(Overrides::address);
        address.and_then(|address| self.by_scope.get(&address)).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_config::{FilterOverride, OverrideNames};

    use super::*;

    #[test]
    fn a_stream_sees_the_filters_of_its_route() {
        let names = OverrideNames::new(["a", "b", "c", "elsewhere"].map(Arc::from));
        let said = |said: &[(&str, bool)]| {
            let own = |(name, disabled): &(&str, bool)| {
                (Arc::from(*name), FilterOverride { disabled: *disabled, config: None })
            };
            Overrides::default().with(&names, said.iter().map(own).collect())
        };
        let place = |name: &str, disabled, buffer_bytes_max| Place {
            position: names.position(name),
            disabled,
            buffer_bytes_max,
        };
        // `d` is one that no scope speaks of.
        let places = [place("c", true, 3), place("d", false, 40), place("a", false, 20), place("b", true, 10)];
        let scopes = [
            said(&[]),
            said(&[("b", false), ("elsewhere", false)]),
            said(&[("a", true), ("c", false)]),
            said(&[("a", false), ("b", true)]),
        ];
        let enabled = Enabled::new(&places, &scopes);
        let check = |scope: Option<&Overrides>, filters: &[usize], buffer_bytes_max: usize| {
            let walk = enabled.of(scope);
            assert_eq!((&*walk.filters, walk.buffer_bytes_max), (filters, buffer_bytes_max), "{scope:?}");
        };
        check(None, &[1, 2], 20);
        check(Some(&scopes[0]), &[1, 2], 20);
        check(Some(&scopes[1]), &[1, 2, 3], 10);
        check(Some(&scopes[2]), &[0, 1], 3);
        check(Some(&scopes[3]), &[1, 2], 20);
        assert_eq!(Enabled::new(&[], []).of(None).buffer_bytes_max, usize::MAX);
    }
}
