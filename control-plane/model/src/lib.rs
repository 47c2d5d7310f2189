//! The mesh's domain types and the synchronous, pure [`MeshIndex`].
//!
//! What users write (files or Kubernetes objects) becomes [`Objects`]; the index turns objects into what each client of
//! the control plane needs: a [`GatewayView`] for a gateway proxy, a [`ClusterView`] for a client that asks for one
//! service by name, and an [`ObjectStatus`] for the user who wrote the object.
//!
//! | what | types |
//! |---|---|
//! | identity | [`ObjectId`], [`ObjectKey`], [`Kind`], [`Source`] |
//! | objects | [`Objects`], [`Object`]: [`Gateway`], [`Route`], [`TcpRoute`], [`Service`], [`EndpointSlice`], [`WasmFilter`], [`Namespace`], [`ReferenceGrant`] |
//! | index | [`MeshIndex`], [`Event`], [`Changes`], [`NodeQuery`] |
//! | views | [`GatewayView`], [`ListenerView`], [`VirtualHost`], [`RouteEntry`], [`BackendView`], [`FilterEntry`], [`ClusterView`], [`ClusterKey`] |
//! | status | [`ObjectStatus`], [`Condition`] |
//! | rollouts | [`Rollouts`] decides which [`Revision`] of a filter runs, and with which [`Trial`] beside it |
//!
//! Architecture invariant: nothing here knows kube, tonic or a proto; no clock, no I/O, no lock. Every value is `Eq` and
//! cheap to clone, so that a change is found by comparing.

mod attach;
mod chain;
mod clusters;
mod compile;
mod filter;
mod gateway;
mod ids;
mod index;
mod objects;
mod order;
mod rollout;
mod route;
mod service;
mod status;
mod view;

pub use filter::{
    Digest, DigestError, FailurePolicy, FilterTarget, Guardrails, Isolation, Limits, Module, Phase, Revision,
    RolloutPlan, TargetKind, Trial, WasmFilter,
};
pub use gateway::{AllowedNamespaces, Gateway, GatewayListener, LabelSelector, Protocol, Requirement};
pub use ids::{Kind, ObjectId, ObjectIdError, ObjectKey, Source};
pub use index::{Changes, Event, MeshIndex, NodeQuery, NodeQueryError};
pub use objects::{Grantee, Namespace, Object, Objects, ReferenceGrant};
pub use rollout::{Event as RolloutEvent, GivenUp, Progress, Record, Reports, RolloutState, Rollouts};
pub use route::{
    Actions, Backend, HeaderMutation, Match, ParentRef, ParentTarget, PathMatch, PathRewrite, Redirect, Rewrite, Route,
    Rule, TcpRoute, Timeouts, ValueMatch,
};
pub use service::{AppProtocol, Endpoint, EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort};
pub use status::{Condition, ConditionKind, ObjectStatus};
pub use view::{
    BackendView, ClusterKey, ClusterKeyError, ClusterView, FilterEntry, FilterScope, GatewayView, ListenerView,
    RouteEntry, VirtualHost,
};
