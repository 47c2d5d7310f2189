//! Where a request's key is, and that it is there once.

use outrigger_filter_sdk::{ConfigError, Headers, HostError};

use crate::query;

/// Longer ones are nobody's and not worth hashing.
const KEY_BYTES_MAX: usize = 4096;
const QUERY_PARAM_BYTES_MAX: usize = 256;

/// Why a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    Missing,
    Repeated,
    Unknown,
}

impl Denial {
    /// For the client.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Denial::Missing => "The request has no API key.",
            Denial::Repeated => "The request has more than one API key.",
            Denial::Unknown => "The API key is not known.",
        }
    }

    /// For access logs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Denial::Missing => "api_key_missing",
            Denial::Repeated => "api_key_repeated",
            Denial::Unknown => "api_key_unknown",
        }
    }
}

/// Where keys are looked for.
#[derive(Debug)]
pub(crate) struct Source {
    header: Option<String>,
    scheme: Option<String>,
    query_param: Option<String>,
}

/// A request's key and its place.
#[derive(Debug)]
pub(crate) struct Credential<'a> {
    key: Vec<u8>,
    place: Place<'a>,
}

#[derive(Debug)]
enum Place<'a> {
    Header(&'a str),
    /// The path without the parameter.
    Query(Vec<u8>),
}

impl Source {
    pub(crate) fn new(
        header: Option<String>,
        scheme: Option<String>,
        query_param: Option<String>,
    ) -> Result<Self, ConfigError> {
        match &query_param {
            Some(name) if name.is_empty() || name.len() > QUERY_PARAM_BYTES_MAX => {
                return Err(ConfigError::at("query_param", format!("has not 1 to {QUERY_PARAM_BYTES_MAX} bytes")));
            }
            None if header.is_none() => {
                return Err(ConfigError::at("header", "is null, and there is no query_param either"));
            }
            _ => {}
        }
        if scheme.is_some() && header.is_none() {
            return Err(ConfigError::at("scheme", "needs a header"));
        }
        Ok(Self { header, scheme, query_param })
    }

    /// The request's only key.
    pub(crate) fn find(&self, headers: Headers) -> Result<Result<Credential<'_>, Denial>, HostError> {
        let mut found = None;
        if let Some(name) = &self.header {
            // Asking for one header gives its first entry; the whole list tells whether it is the only one.
            let list = headers.all()?;
            for value in list.values(name) {
                if found.is_some() {
                    return Ok(Err(Denial::Repeated));
                }
                found = Some(Credential { key: value.to_vec(), place: Place::Header(name) });
            }
        }
        if let Some(name) = &self.query_param {
            let path = headers.get(":path")?.unwrap_or_default();
            for value in query::values(&path, name) {
                if found.is_some() {
                    return Ok(Err(Denial::Repeated));
                }
                found =
                    Some(Credential { key: query::decode(value), place: Place::Query(query::without(&path, name)) });
            }
        }
        Ok(self.check(found))
    }

    fn check<'a>(&self, found: Option<Credential<'a>>) -> Result<Credential<'a>, Denial> {
        let mut credential = found.ok_or(Denial::Missing)?;
        if let (Some(scheme), Place::Header(_)) = (&self.scheme, &credential.place) {
            let key = after_scheme(&credential.key, scheme).ok_or(Denial::Missing)?;
            credential.key = key.to_vec();
        }
        match credential.key.len() {
            0 => Err(Denial::Missing),
            length if length > KEY_BYTES_MAX => Err(Denial::Unknown),
            _ => Ok(credential),
        }
    }
}

impl Credential<'_> {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Takes it out of the request.
    pub(crate) fn remove(&self, headers: Headers) -> Result<(), HostError> {
        match &self.place {
            Place::Header(name) => headers.remove(name),
            Place::Query(path) => headers.set(":path", path),
        }
    }
}

/// What follows the scheme and one or more spaces.
fn after_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (word, rest) = value.split_at_checked(scheme.len())?;
    let key = rest.trim_ascii_start();
    (word.eq_ignore_ascii_case(scheme.as_bytes()) && key.len() < rest.len()).then_some(key)
}
