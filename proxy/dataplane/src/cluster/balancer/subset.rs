//! Subsets: endpoints by what their metadata says, chosen by what the route asks for (`lb_subset_config`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{
    LB_NAMESPACE, MetadataMatch, MetadataStruct, MetadataValue, SelectorFallback, SubsetFallback, Subsets,
};

use super::super::EndpointHandle;

/// The subsets of a list of endpoints. Depends on their metadata alone: a change of health leaves it as it is.
#[derive(Debug)]
pub(super) struct SubsetIndex {
    pub(super) config: Arc<Subsets>,
    /// Members of each subset, as places in the list.
    pub(super) subsets: Vec<Vec<u32>>,
    /// For each selector its subsets by the digest of their values.
    selectors: Vec<HashMap<u64, Vec<Found>>>,
    pub(super) default_subset: Option<usize>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Found {
    values: Box<[MetadataValue]>,
    subset: usize,
}

/// Where a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Subset(usize),
    Any,
    None,
}

impl SubsetIndex {
    pub(super) fn new(config: &Arc<Subsets>, hosts: &[Rc<EndpointHandle>]) -> SubsetIndex {
        let mut index = SubsetIndex {
            config: config.clone(),
            subsets: Vec::new(),
            selectors: config.selectors.iter().map(|_| HashMap::new()).collect(),
            default_subset: None,
            hasher: RandomState::new(),
        };
        let none = MetadataStruct::new();
        let mut in_default = Vec::new();
        for (place, host) in (0..).zip(hosts) {
            let values =
                host.endpoint.metadata.as_ref().and_then(|metadata| metadata.namespace(LB_NAMESPACE)).unwrap_or(&none);
            for at in 0..config.selectors.len() {
                index.add(at, place, values);
            }
            let matches = |(key, value): (&Arc<str>, &MetadataValue)| {
                values.get(key).is_some_and(|found| is_match(found, value, config.list_as_any))
            };
            if config.default_subset.iter().all(matches) {
                in_default.push(place);
            }
        }
        if config.fallback == SubsetFallback::DefaultSubset || config.selectors.iter().any(wants_default) {
            index.default_subset = Some(index.subsets.len());
            index.subsets.push(in_default);
        }
        index
    }

    /// Puts an endpoint into the subsets of a selector.
    fn add(&mut self, at: usize, place: u32, values: &MetadataStruct) {
        let selector = &self.config.clone().selectors[at];
        let Some(own): Option<Vec<&MetadataValue>> = selector.keys.iter().map(|key| values.get(key)).collect() else {
            return;
        };
        let mut combinations: Vec<Vec<&MetadataValue>> = vec![Vec::with_capacity(own.len())];
        for value in own {
            let choices: Vec<&MetadataValue> = match value {
                MetadataValue::List(list) if self.config.list_as_any => list.iter().collect(),
                value => vec![value],
            };
            combinations = combinations
                .iter()
                .flat_map(|begun| choices.iter().map(move |choice| [&begun[..], &[*choice]].concat()))
                .take(COMBINATIONS_MAX)
                .collect();
        }
        for values in combinations {
            let digest = self.digest(values.iter().copied());
            let same = self.selectors[at].entry(digest).or_default();
            let known = same.iter().find(|found| found.values.iter().eq(values.iter().copied()));
            let subset = known.map(|found| found.subset).unwrap_or_else(|| {
                let subset = self.subsets.len();
                self.subsets.push(Vec::new());
                same.push(Found { values: values.iter().map(|value| (*value).clone()).collect(), subset });
                subset
            });
            let members = &mut self.subsets[subset];
            if !selector.single_host || members.is_empty() {
                members.push(place);
            }
        }
    }

    fn digest<'v>(&self, values: impl Iterator<Item = &'v MetadataValue>) -> u64 {
        values.fold(0, |sum: u64, value| sum.rotate_left(7) ^ self.hasher.hash_one(value))
    }

    /// The subset of a selector with just these values.
    fn find<'v>(&self, at: usize, values: &(impl Iterator<Item = &'v MetadataValue> + Clone)) -> Option<usize> {
        let same = self.selectors[at].get(&self.digest(values.clone()))?;
        same.iter().find(|found| found.values.iter().eq(values.clone())).map(|found| found.subset)
    }

    /// Where a request with these criteria goes. Allocates nothing.
    pub(super) fn choose(&self, criteria: Option<&MetadataMatch>) -> Choice {
        let pairs = criteria.map(MetadataMatch::pairs).unwrap_or_default();
        if pairs.is_empty() {
            return self.fall_back(self.config.fallback);
        }
        let Some(at) = self.selector(pairs) else { return self.fall_back(self.config.fallback) };
        let selector = &self.config.selectors[at];
        if let Some(subset) = self.find(at, &values_of(pairs, &selector.keys)) {
            return Choice::Subset(subset);
        }
        match &selector.fallback {
            None => self.fall_back(self.config.fallback),
            Some(SelectorFallback::Plain(fallback)) => self.fall_back(*fallback),
            Some(SelectorFallback::Keys(keys)) => {
                let at = self.config.selectors.iter().position(|selector| selector.keys == *keys);
                match at.and_then(|at| self.find(at, &values_of(pairs, keys))) {
                    Some(subset) => Choice::Subset(subset),
                    None => self.fall_back(self.config.fallback),
                }
            }
        }
    }

    /// The selector of just these keys; with `allow_redundant_keys` the one that has the most of them.
    fn selector(&self, pairs: &[(Arc<str>, MetadataValue)]) -> Option<usize> {
        let selectors = &self.config.selectors;
        let exact = |keys: &[Arc<str>]| keys.iter().eq(pairs.iter().map(|(key, _)| key));
        let found = selectors.iter().position(|selector| exact(&selector.keys));
        if found.is_some() || !self.config.allow_redundant_keys {
            return found;
        }
        let has_all = |keys: &[Arc<str>]| keys.iter().all(|key| pairs.iter().any(|(other, _)| other == key));
        (0..selectors.len()).filter(|at| has_all(&selectors[*at].keys)).max_by_key(|at| selectors[*at].keys.len())
    }

    fn fall_back(&self, fallback: SubsetFallback) -> Choice {
        match fallback {
            SubsetFallback::NoFallback => Choice::None,
            SubsetFallback::AnyEndpoint => Choice::Any,
            SubsetFallback::DefaultSubset => self.default_subset.map_or(Choice::None, Choice::Subset),
        }
    }
}

/// The values of these keys, in their order.
fn values_of<'v>(
    pairs: &'v [(Arc<str>, MetadataValue)],
    keys: &'v [Arc<str>],
) -> impl Iterator<Item = &'v MetadataValue> + Clone {
    pairs.iter().filter(|(key, _)| keys.contains(key)).map(|(_, value)| value)
}

/// Values that one endpoint's lists may combine to.
const COMBINATIONS_MAX: usize = 64;

fn wants_default(selector: &outrigger_config::SubsetSelector) -> bool {
    selector.fallback == Some(SelectorFallback::Plain(SubsetFallback::DefaultSubset))
}

fn is_match(found: &MetadataValue, wanted: &MetadataValue, list_as_any: bool) -> bool {
    match found {
        MetadataValue::List(list) if list_as_any && found != wanted => list.contains(wanted),
        found => found == wanted,
    }
}
