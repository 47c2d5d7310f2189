//! One side's operations: from the configuration, through validation, to the headers.

use outrigger_filter_sdk::headers::{check_name, check_value};
use outrigger_filter_sdk::{ConfigError, Headers, HostError};
use serde::Deserialize;

/// The most elements that a list may have: each costs time in every request.
const OPERATIONS_MAX: usize = 64;

/// Headers that frame the message, belong to one connection, or chose the route.
const PROXY_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the configuration says about one side.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Side {
    remove: Vec<String>,
    rename: Vec<Rename>,
    set: Vec<Entry>,
    add: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    from: String,
    to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    value: String,
}

/// Validated operations, names in lower case.
#[derive(Debug)]
pub(crate) struct Operations {
    remove: Vec<String>,
    rename: Vec<(String, String)>,
    set: Vec<(String, String)>,
    add: Vec<(String, String)>,
}

impl Operations {
    /// Validates a side; `path` is its field, e.g. `request`.
    pub(crate) fn new(path: &str, side: Side) -> Result<Self, ConfigError> {
        for (list, length) in [
            ("remove", side.remove.len()),
            ("rename", side.rename.len()),
            ("set", side.set.len()),
            ("add", side.add.len()),
        ] {
            if length > OPERATIONS_MAX {
                return Err(ConfigError::at(
                    format!("{path}.{list}"),
                    format!("has more than {OPERATIONS_MAX} elements"),
                ));
            }
        }
        let remove =
            side.remove.into_iter().enumerate().map(|(at, header)| name(format!("{path}.remove[{at}]"), &header));
        let rename = renames(path, &side.rename)?;
        let set = entries(&format!("{path}.set"), side.set)?;
        for (at, (header, _)) in set.iter().enumerate() {
            if set[..at].iter().any(|(earlier, _)| earlier == header) {
                return Err(ConfigError::at(format!("{path}.set[{at}].name"), format!("`{header}` is set twice")));
            }
        }
        Ok(Self {
            remove: remove.collect::<Result<_, _>>()?,
            rename,
            set,
            add: entries(&format!("{path}.add"), side.add)?,
        })
    }

    /// Applies them. Nothing here allocates unless a header is renamed.
    pub(crate) fn apply(&self, headers: Headers) -> Result<(), HostError> {
        for header in &self.remove {
            headers.remove(header)?;
        }
        for (from, to) in &self.rename {
            if headers.get(from)?.is_some() {
                move_values(headers, from, to)?;
            }
        }
        for (header, value) in &self.set {
            headers.set(header, value)?;
        }
        for (header, value) in &self.add {
            headers.add(header, value)?;
        }
        Ok(())
    }
}

fn move_values(headers: Headers, from: &str, to: &str) -> Result<(), HostError> {
    let list = headers.all()?;
    headers.remove(from)?;
    headers.remove(to)?;
    list.values(from).try_for_each(|value| headers.add(to, value))
}

fn renames(path: &str, renames: &[Rename]) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(renames.len());
    for (at, rename) in renames.iter().enumerate() {
        let field = |side: &str| format!("{path}.rename[{at}].{side}");
        let (from, to) = (name(field("from"), &rename.from)?, name(field("to"), &rename.to)?);
        if from == to {
            return Err(ConfigError::at(field("to"), format!("`{to}` is renamed to itself")));
        }
        for (side, header) in [("from", &from), ("to", &to)] {
            // A chain's outcome would hang on the order of the list, which nobody sees at a glance.
            if pairs.iter().any(|(from, to)| header == from || header == to) {
                return Err(ConfigError::at(field(side), format!("`{header}` is in another rename already")));
            }
        }
        pairs.push((from, to));
    }
    Ok(pairs)
}

fn entries(path: &str, entries: Vec<Entry>) -> Result<Vec<(String, String)>, ConfigError> {
    let checked = entries.into_iter().enumerate().map(|(at, entry)| {
        let header = name(format!("{path}[{at}].name"), &entry.name)?;
        check_value(&entry.value).map_err(|what| ConfigError::at(format!("{path}[{at}].value"), what))?;
        Ok((header, entry.value))
    });
    checked.collect()
}

fn name(path: String, header: &str) -> Result<String, ConfigError> {
    if let Err(what) = check_name(header) {
        return Err(ConfigError::at(path, what));
    }
    let header = header.to_ascii_lowercase();
    if PROXY_HEADERS.contains(&header.as_str()) {
        return Err(ConfigError::at(path, format!("`{header}` belongs to the proxy, a filter may not change it")));
    }
    Ok(header)
}
