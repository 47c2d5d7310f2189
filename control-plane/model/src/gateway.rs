//! A Gateway: the listeners of one gateway proxy, and who may attach routes to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::{ObjectId, Source};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub id: ObjectId,
    /// The address to listen on; none: every address of the machine.
    pub address: Option<IpAddr>,
    pub listeners: Vec<GatewayListener>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayListener {
    pub name: Arc<str>,
    /// 0: the proxy's kernel picks one (files only, for tests).
    pub port: u16,
    /// Lower case, exact (`a.example`) or with a wildcard label in front (`*.example`); none: every host.
    pub hostname: Option<Arc<str>>,
    pub protocol: Protocol,
    pub allowed: AllowedNamespaces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    Tcp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
        }
    }
}

/// Whose routes a listener takes (`allowedRoutes.namespaces`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedNamespaces {
    #[default]
    Same,
    All,
    Selector(LabelSelector),
}

/// Kubernetes' label selector; every requirement must hold, and an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    In { key: Arc<str>, values: Vec<Arc<str>> },
    NotIn { key: Arc<str>, values: Vec<Arc<str>> },
    Exists { key: Arc<str> },
    DoesNotExist { key: Arc<str> },
}

impl LabelSelector {
    pub fn matches(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In { key, values } => labels.get(key).is_some_and(|value| values.contains(value)),
            // As in Kubernetes: an object without the label passes.
            Requirement::NotIn { key, values } => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists { key } => labels.contains_key(key),
            Requirement::DoesNotExist { key } => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_follow_kubernetes() {
        let labels = BTreeMap::from([("team".into(), "a".into())]);
        let check = |requirement: Requirement, expected: bool| {
            let selector = LabelSelector { requirements: vec![requirement.clone()] };
            assert_eq!(selector.matches(&labels), expected, "{requirement:?}");
        };
        check(Requirement::In { key: "team".into(), values: vec!["a".into(), "b".into()] }, true);
        check(Requirement::In { key: "team".into(), values: vec!["b".into()] }, false);
        check(Requirement::In { key: "env".into(), values: vec!["a".into()] }, false);
        check(Requirement::NotIn { key: "team".into(), values: vec!["a".into()] }, false);
        check(Requirement::NotIn { key: "env".into(), values: vec!["a".into()] }, true);
        check(Requirement::Exists { key: "team".into() }, true);
        check(Requirement::Exists { key: "env".into() }, false);
        check(Requirement::DoesNotExist { key: "env".into() }, true);
        check(Requirement::DoesNotExist { key: "team".into() }, false);
        assert!(LabelSelector::default().matches(&labels));
    }
}
