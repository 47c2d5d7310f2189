//! Who an object is, and where it was written: [`ObjectId`] (namespace and name), [`ObjectKey`] (with its kind) and
//! [`Source`], which goes with every object to the proxy so that a runtime error can name the line that caused it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::SerializeStruct as _;

/// Namespace and name; written `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectId {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only a Namespace is in none.
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form NAMESPACE/NAME")]
pub struct ObjectIdError(pub String);

impl FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(ObjectIdError(text.to_owned())),
        }
    }
}

/// The kinds that the index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    ReferenceGrant,
    Gateway,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    WasmFilter,
}

impl Kind {
    /// The name as users write it in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::TcpRoute => "TCPRoute",
            Self::WasmFilter => "WasmFilter",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind and id: unique in [`crate::Objects`]. A `Namespace` has an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    pub kind: Kind,
    pub id: ObjectId,
}

impl ObjectKey {
    pub fn new(kind: Kind, id: ObjectId) -> Self {
        Self { kind, id }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

/// Where an object was written: what goes to `metadata.filter_metadata["outrigger.dev"]` of what is made from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Relative to the configuration folder, with `/`; empty for an object that came from an API server.
    pub file: Arc<str>,
    /// The line on which the object's document starts, from 1; 0 where there is no file.
    pub line: u32,
}

impl Source {
    pub fn new(key: &ObjectKey, file: impl Into<Arc<str>>, line: u32) -> Self {
        let ObjectId { namespace, name } = key.id.clone();
        Self { kind: key.kind, namespace, name, file: file.into(), line }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind, id: ObjectId { namespace: self.namespace.clone(), name: self.name.clone() } }
    }
}

// By hand: serde serializes an `Arc` only with a feature that would rebuild half of the workspace.
impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Source", 5)?;
        fields.serialize_field("kind", &self.kind)?;
        fields.serialize_field("namespace", &*self.namespace)?;
        fields.serialize_field("name", &*self.name)?;
        fields.serialize_field("file", &*self.file)?;
        fields.serialize_field("line", &self.line)?;
        fields.end()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.is_empty() {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        } else {
            write!(f, "{} {}/{} ({}:{})", self.kind, self.namespace, self.name, self.file, self.line)
        }
    }
}
