//! `HeaderMutation` and `HeaderMutationPerRoute`.

use std::sync::Arc;

use outrigger_config::{HeaderChange, HeaderMutationFilter, OverrideConfig};
use outrigger_proto::pb;
use pb::envoy::config::common::mutation_rules::v3 as rules;
use pb::envoy::extensions::filters::http::header_mutation::v3 as proto;

use super::super::mutation::{changeable, header_value};
use crate::Diagnostics;

pub(super) fn filter(proto: &proto::HeaderMutation, d: &mut Diagnostics) -> Option<Arc<HeaderMutationFilter>> {
    let mut filter = mutations(proto.mutations.as_ref(), d)?;
    filter.most_specific_wins = proto.most_specific_header_mutations_wins;
    Some(Arc::new(filter))
}

pub(super) fn per_route(proto: &proto::HeaderMutationPerRoute, d: &mut Diagnostics) -> Option<OverrideConfig> {
    let filter = mutations(proto.mutations.as_ref(), d)?;
    Some(OverrideConfig::HeaderMutation(vec![Arc::new(filter)]))
}

fn mutations(proto: Option<&proto::Mutations>, d: &mut Diagnostics) -> Option<HeaderMutationFilter> {
    let Some(proto) = proto else {
        d.at("mutations", |d| d.error("is required"));
        return None;
    };
    d.at("mutations", |d| {
        Some(HeaderMutationFilter {
            request: changes(&proto.request_mutations, "request_mutations", d),
            response: changes(&proto.response_mutations, "response_mutations", d),
            most_specific_wins: false,
        })
    })
}

fn changes(protos: &[rules::HeaderMutation], field: &'static str, d: &mut Diagnostics) -> Vec<HeaderChange> {
    use rules::header_mutation::Action;
    let protos = protos.iter().enumerate();
    let change = |(index, proto): (usize, &rules::HeaderMutation)| {
        d.at_index(field, index, |d| match &proto.action {
            Some(Action::Remove(name)) => d.at("remove", |d| changeable(name, d)).map(HeaderChange::Remove),
            Some(Action::Append(option)) => d.at("append", |d| header_value(option, d)).map(HeaderChange::Set),
            Some(Action::RemoveOnMatch(_)) => {
                d.at("remove_on_match", |d| d.error("is not supported"));
                None
            }
            None => {
                d.error("has no action: remove or append");
                None
            }
        })
    };
    protos.filter_map(change).collect()
}
