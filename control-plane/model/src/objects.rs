//! [`Objects`]: everything that users wrote, by kind and id, after each object was validated by itself. References
//! between objects may dangle; the index resolves them and says so in the objects' status.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::WasmFilter;
use crate::gateway::Gateway;
use crate::ids::{Kind, ObjectId, ObjectKey, Source};
use crate::route::{Route, TcpRoute};
use crate::service::{EndpointSlice, Service};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub source: Arc<Source>,
}

/// Lets objects of other namespaces refer to services of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    pub id: ObjectId,
    pub from: Vec<Grantee>,
    /// Names of services; none: every service of the namespace.
    pub services: Option<Vec<Arc<str>>>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantee {
    pub kind: Kind,
    pub namespace: Arc<str>,
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ReferenceGrant(Arc<ReferenceGrant>),
    Gateway(Arc<Gateway>),
    Route(Arc<Route>),
    TcpRoute(Arc<TcpRoute>),
    WasmFilter(Arc<WasmFilter>),
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        self.source().key()
    }

    pub fn source(&self) -> &Arc<Source> {
        match self {
            Self::Namespace(object) => &object.source,
            Self::Service(object) => &object.source,
            Self::EndpointSlice(object) => &object.source,
            Self::ReferenceGrant(object) => &object.source,
            Self::Gateway(object) => &object.source,
            Self::Route(object) => &object.source,
            Self::TcpRoute(object) => &object.source,
            Self::WasmFilter(object) => &object.source,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pub services: BTreeMap<ObjectId, Arc<Service>>,
    pub slices: BTreeMap<ObjectId, Arc<EndpointSlice>>,
    pub grants: BTreeMap<ObjectId, Arc<ReferenceGrant>>,
    pub gateways: BTreeMap<ObjectId, Arc<Gateway>>,
    pub routes: BTreeMap<ObjectId, Arc<Route>>,
    pub tcp_routes: BTreeMap<ObjectId, Arc<TcpRoute>>,
    pub filters: BTreeMap<ObjectId, Arc<WasmFilter>>,
}

impl Objects {
    /// Takes the place of an object with the same key.
    pub fn insert(&mut self, object: Object) {
        match object {
            Object::Namespace(object) => {
                self.namespaces.insert(object.name.clone(), object);
            }
            Object::Service(object) => {
                self.services.insert(object.id.clone(), object);
            }
            Object::EndpointSlice(object) => {
                self.slices.insert(object.id.clone(), object);
            }
            Object::ReferenceGrant(object) => {
                self.grants.insert(object.id.clone(), object);
            }
            Object::Gateway(object) => {
                self.gateways.insert(object.id.clone(), object);
            }
            Object::Route(object) => {
                self.routes.insert(object.id.clone(), object);
            }
            Object::TcpRoute(object) => {
                self.tcp_routes.insert(object.id.clone(), object);
            }
            Object::WasmFilter(object) => {
                self.filters.insert(object.id.clone(), object);
            }
        }
    }

    /// Whether there was one.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::Namespace => self.namespaces.remove(&key.id.name).is_some(),
            Kind::Service => self.services.remove(&key.id).is_some(),
            Kind::EndpointSlice => self.slices.remove(&key.id).is_some(),
            Kind::ReferenceGrant => self.grants.remove(&key.id).is_some(),
            Kind::Gateway => self.gateways.remove(&key.id).is_some(),
            Kind::HttpRoute => self.routes.remove(&key.id).is_some(),
            Kind::TcpRoute => self.tcp_routes.remove(&key.id).is_some(),
            Kind::WasmFilter => self.filters.remove(&key.id).is_some(),
        }
    }

    /// Every object, by kind and then by id.
    pub fn iter(&self) -> impl Iterator<Item = Object> + '_ {
        let namespaces = self.namespaces.values().cloned().map(Object::Namespace);
        let services = self.services.values().cloned().map(Object::Service);
        let slices = self.slices.values().cloned().map(Object::EndpointSlice);
        let grants = self.grants.values().cloned().map(Object::ReferenceGrant);
        let gateways = self.gateways.values().cloned().map(Object::Gateway);
        let routes = self.routes.values().cloned().map(Object::Route);
        let tcp_routes = self.tcp_routes.values().cloned().map(Object::TcpRoute);
        let filters = self.filters.values().cloned().map(Object::WasmFilter);
        let base = namespaces.chain(services).chain(slices).chain(grants);
        base.chain(gateways).chain(routes).chain(tcp_routes).chain(filters)
    }

    pub fn len(&self) -> usize {
        self.namespaces.len()
            + self.services.len()
            + self.slices.len()
            + self.grants.len()
            + self.gateways.len()
            + self.routes.len()
            + self.tcp_routes.len()
            + self.filters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
