//! What a user is told about an object: [`ObjectStatus`] with Kubernetes-style conditions. Only what follows from the
//! objects alone is decided here; whether proxies took it (`Programmed` of routes and filters) is known where the
//! proxies are.

use std::sync::Arc;

use serde::Serialize;

use crate::ids::{ObjectId, ObjectKey, Source};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    #[serde(serialize_with = "serialize_source")]
    pub source: Arc<Source>,
    pub conditions: Vec<Condition>,
}

impl ObjectStatus {
    pub fn key(&self) -> ObjectKey {
        self.source.key()
    }

    /// Whether every condition is true.
    pub fn is_ok(&self) -> bool {
        self.conditions.iter().all(|condition| condition.status)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    pub status: bool,
    /// Gateway API's reasons where it has one, in CamelCase.
    pub reason: &'static str,
    pub message: String,
    /// For a route or a filter: which parent or target this is about, `Gateway shop/edge` or `Gateway shop/edge#http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The gateways whose configuration it is about: one is `Programmed` when those gateways' proxies took it.
    #[serde(skip)]
    pub gateway: Option<ObjectId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ConditionKind {
    Accepted,
    ResolvedRefs,
    Programmed,
}

impl Condition {
    pub(crate) fn new(kind: ConditionKind, reason: &'static str, message: impl Into<String>) -> Self {
        let status = reason == ConditionKind::good_reason(kind);
        Self { kind, status, reason, message: message.into(), parent: None, gateway: None }
    }

    pub(crate) fn good(kind: ConditionKind) -> Self {
        Self::new(kind, kind.good_reason(), "")
    }

    pub(crate) fn of_parent(mut self, parent: &str, gateway: Option<&ObjectId>) -> Self {
        self.parent = Some(parent.to_owned());
        self.gateway = gateway.cloned();
        self
    }
}

impl ConditionKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
        }
    }

    /// Gateway API names the reason of a true condition like the condition.
    fn good_reason(self) -> &'static str {
        self.as_str()
    }
}

fn serialize_source<S: serde::Serializer>(source: &Arc<Source>, serializer: S) -> Result<S::Ok, S::Error> {
    (**source).serialize(serializer)
}
