//! `typed_per_filter_config`: what the scopes of a route configuration say about filters.
//!
//! The scopes are merged when the configuration is built, the most specific on top: what a weighted cluster, a route or a
//! virtual host holds is all that holds there. A filter's place is looked up by its name once for a generation; a request
//! pays an index.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{BufferLimit, CorsPolicy, Fault, HeaderMutationFilter, LocalRateLimit, RbacFilter, WasmOverride};

/// What one scope says about a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterOverride {
    /// `envoy.config.route.v3.FilterConfig.disabled`: off here, or (false) on where the filter is off by default.
    pub disabled: bool,
    /// The filter's own configuration here.
    pub config: Option<OverrideConfig>,
}

/// A filter's configuration for a scope, by the kind of filter that it is for; another kind ignores it, as in Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverrideConfig {
    /// `None`: not here.
    Buffer(Option<BufferLimit>),
    /// Every scope's, the most specific first: what one doesn't say the next does.
    Cors(Vec<Arc<CorsPolicy>>),
    Fault(Arc<Fault>),
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `None`: not here.
    Rbac(Option<Arc<RbacFilter>>),
    /// Every scope's, the widest first: all of them are applied.
    HeaderMutation(Vec<Arc<HeaderMutationFilter>>),
    /// The most specific scope's.
    Wasm(Arc<WasmOverride>),
}

impl OverrideConfig {
    /// What holds where `self` is said within a scope that says `outer`.
    fn within(self, outer: Option<&OverrideConfig>) -> OverrideConfig {
        match (self, outer) {
            (OverrideConfig::HeaderMutation(own), Some(OverrideConfig::HeaderMutation(outer))) => {
                OverrideConfig::HeaderMutation(outer.iter().cloned().chain(own).collect())
            }
            (OverrideConfig::Cors(own), Some(OverrideConfig::Cors(outer))) => {
                OverrideConfig::Cors(own.into_iter().chain(outer.iter().cloned()).collect())
            }
            (own, _) => own,
        }
    }
}

/// The names of the filters that a route configuration says something about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OverrideNames(Vec<Arc<str>>);

impl OverrideNames {
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> OverrideNames {
        let mut names: Vec<Arc<str>> = names.into_iter().collect();
        names.sort();
        names.dedup();
        OverrideNames(names)
    }

    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "counts places")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Where a filter's overrides stand in [`Overrides`].
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|known| (**known).cmp(name)).ok()
    }
}

/// What holds for filters in a scope, the scopes around it included: those that are spoken of, by their places in
/// [`OverrideNames`]. A thousand routes may each speak of a filter of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides(Option<Arc<[(usize, FilterOverride)]>>);

impl Overrides {
    /// For the filter at a place of [`OverrideNames`].
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&FilterOverride> {
        let said = self.0.as_ref()?;
        let index = said.binary_search_by_key(&position, |(place, _)| *place).ok()?;
        Some(&said[index].1)
    }

    /// Everything that is said, by place.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &FilterOverride)> {
        self.0.iter().flat_map(|said| said.iter()).map(|(place, said)| (*place, said))
    }

    /// Nothing is said of any filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Where it lies, which clones share: scopes with the same address say the same.
    #[must_use]
    pub fn address(&self) -> Option<usize> {
        self.0.as_ref().map(|said| said.as_ptr().addr())
    }

    /// What holds in a scope within this one that says `own`.
    #[must_use]
    pub fn with(&self, names: &OverrideNames, own: Vec<(Arc<str>, FilterOverride)>) -> Overrides {
        if own.is_empty() {
            return self.clone();
        }
        let mut merged: BTreeMap<usize, FilterOverride> =
            self.iter().map(|(place, said)| (place, said.clone())).collect();
        for (name, FilterOverride { disabled, config }) in own {
            let Some(place) = names.position(&name) else { continue };
            let outer = merged.remove(&place).and_then(|outer| outer.config);
            // A scope that only switches the filter keeps the configuration that it has outside.
            let config = match config {
                Some(own) => Some(own.within(outer.as_ref())),
                None => outer,
            };
            merged.insert(place, FilterOverride { disabled, config });
        }
        Overrides(Some(merged.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutation(name: &'static str) -> Arc<HeaderMutationFilter> {
        let name = outrigger_http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        Arc::new(HeaderMutationFilter {
            request: vec![crate::HeaderChange::Remove(name)],
            ..HeaderMutationFilter::default()
        })
    }

    #[test]
    fn the_most_specific_scope_wins() {
        let names = OverrideNames::new(["b", "a", "b"].map(Arc::from));
        assert_eq!((names.position("a"), names.position("b"), names.position("c")), (Some(0), Some(1), None));
        let said = |name: &str, disabled, config: Option<&'static str>| {
            let config = config.map(|name| OverrideConfig::HeaderMutation(vec![mutation(name)]));
            vec![(Arc::from(name), FilterOverride { disabled, config })]
        };
        let none = Overrides::default();
        assert_eq!(none.with(&names, Vec::new()).get(0), None);
        let host = none.with(&names, said("b", true, Some("x-host")));
        let route = host.with(&names, said("b", false, None));
        let found = route.get(1).unwrap();
        assert!(!found.disabled && route.get(0).is_none());
        assert_eq!(found.config, Some(OverrideConfig::HeaderMutation(vec![mutation("x-host")])));
        let weighted = route.with(&names, said("b", false, Some("x-cluster")));
        let both = OverrideConfig::HeaderMutation(vec![mutation("x-host"), mutation("x-cluster")]);
        assert_eq!(weighted.get(1).unwrap().config, Some(both));
        assert!(host.get(1).unwrap().disabled);
        let both = route.with(&names, said("a", true, None));
        assert_eq!(
            both.iter().map(|(place, said)| (place, said.disabled)).collect::<Vec<_>>(),
            [(0, true), (1, false)]
        );
        assert!(none.is_empty() && none.address().is_none() && both.address() != route.address());
    }
}
