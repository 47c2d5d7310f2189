//! Header changes that the configuration asks for, applied to a stream's heads.

use bytes::Bytes;
use outrigger_config::{AppendAction, HeaderChange, HeaderMutations, HeaderValueOption};
use outrigger_http::{HeaderName, Headers, StreamState};

use crate::filter::Way;

/// A header's new value, computed before anything is changed.
struct Change {
    name: HeaderName,
    value: Bytes,
    overwrite: bool,
}

/// Applies a scope's changes to a head of the stream: removals first, then values that are all made from the head as it
/// is then, replacements before additions (Envoy's order).
pub(crate) fn apply(mutations: &HeaderMutations, state: &mut StreamState, way: Way) {
    let Some(headers) = headers_mut(state, way) else { return };
    mutations.remove.iter().for_each(|name| _ = headers.remove(name));
    if mutations.add.is_empty() {
        return;
    }
    let changes = evaluate(mutations, state, headers_of(state, way));
    if let Some(headers) = headers_mut(state, way) {
        commit(changes, headers);
    }
}

/// The same for headers that stand elsewhere: of a reply in the making.
pub(crate) fn apply_to(mutations: &HeaderMutations, state: &StreamState, headers: &mut Headers) {
    mutations.remove.iter().for_each(|name| _ = headers.remove(name));
    let changes = evaluate(mutations, state, headers);
    commit(changes, headers);
}

/// One change after the other, each seeing what the one before did.
pub(crate) fn change(changes: &[HeaderChange], state: &mut StreamState, way: Way) {
    for change in changes {
        match change {
            HeaderChange::Remove(name) => {
                if let Some(headers) = headers_mut(state, way) {
                    headers.remove(name);
                }
            }
            HeaderChange::Set(option) => {
                let changed = decide(option, state, headers_of(state, way));
                if let Some(headers) = headers_mut(state, way) {
                    commit(changed.into_iter().collect(), headers);
                }
            }
        }
    }
}

fn headers_of(state: &StreamState, way: Way) -> &Headers {
    static NONE: Headers = Headers::new();
    match way {
        Way::Request => &state.request.headers,
        Way::Response => state.response.as_ref().map_or(&NONE, |head| &head.headers),
    }
}

fn headers_mut(state: &mut StreamState, way: Way) -> Option<&mut Headers> {
    match way {
        Way::Request => Some(&mut state.request.headers),
        Way::Response => state.response.as_mut().map(|head| &mut head.headers),
    }
}

fn evaluate(mutations: &HeaderMutations, state: &StreamState, headers: &Headers) -> Vec<Change> {
    mutations.add.iter().filter_map(|option| decide(option, state, headers)).collect()
}

fn decide(option: &HeaderValueOption, state: &StreamState, headers: &Headers) -> Option<Change> {
    let overwrite = match option.action {
        AppendAction::AppendIfExistsOrAdd => false,
        AppendAction::AddIfAbsent if headers.contains(&option.name) => return None,
        AppendAction::AddIfAbsent => false,
        AppendAction::OverwriteIfExists if !headers.contains(&option.name) => return None,
        AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists => true,
    };
    let value = match option.value.as_literal() {
        Some(literal) => literal.clone(),
        None => {
            let mut value = Vec::new();
            option.value.write(state, &mut value);
            value.into()
        }
    };
    let kept = !value.is_empty() || option.keep_empty_value;
    kept.then(|| Change { name: option.name.clone(), value, overwrite })
}

fn commit(changes: Vec<Change>, headers: &mut Headers) {
    let (overwritten, added): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|change| change.overwrite);
    // A value that would split the message comes from the request: it is left out.
    for change in overwritten {
        _ = headers.try_set(change.name, change.value);
    }
    for change in added {
        _ = headers.try_append(change.name, change.value);
    }
}
