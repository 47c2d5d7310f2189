//! Match trees: `xds.type.matcher.v3.Matcher`, for RBAC.

use std::collections::HashMap;

use bytes::Bytes;
use outrigger_config::{Branches, Input, MatchTree, MetadataMatcher, OnMatch, Predicate};
use outrigger_proto::pb;
use outrigger_proto::type_url::message_name;
use pb::envoy::extensions::matching::common_inputs::network::v3 as network;
use pb::envoy::extensions::matching::common_inputs::ssl::v3 as ssl;
use pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use pb::envoy::r#type::matcher::v3 as matcher;
use pb::xds::core::v3::TypedExtensionConfig;
use pb::xds::r#type::matcher::v3 as xds;
use prost::{Message, Name};
use xds::matcher::matcher_list::Predicate as PredicateProto;
use xds::matcher::matcher_list::predicate::single_predicate::Matcher as Single;
use xds::matcher::matcher_list::predicate::{MatchType, SinglePredicate};
use xds::matcher::matcher_tree::TreeType;

use super::super::access_log::message;
use super::super::common::{cidr, list, name};
use super::metadata::{path_key, value};
use super::{extension, header_match_name, string};
use crate::Diagnostics;

/// Trees within trees, and predicates within predicates.
const DEPTH_MAX: usize = 32;
/// Predicates and branches of one tree.
const NODES_MAX: usize = 100_000;

/// A tree; `http`: there is a request that it may look at.
pub(crate) fn match_tree<A>(
    proto: &xds::Matcher,
    http: bool,
    action: impl Fn(&TypedExtensionConfig, &mut Diagnostics) -> Option<A>,
    d: &mut Diagnostics,
) -> Option<MatchTree<A>> {
    Decoder { http, action, nodes: 0 }.tree(proto, 0, d)
}

struct Decoder<F> {
    http: bool,
    action: F,
    nodes: usize,
}

/// What a predicate looks at.
enum Found {
    Input(Input),
    /// Namespace and path in the dynamic metadata.
    Metadata(String, Vec<String>),
}

impl<A, F: Fn(&TypedExtensionConfig, &mut Diagnostics) -> Option<A>> Decoder<F> {
    /// Whether there is room for one more, so deep.
    fn takes(&mut self, depth: usize, d: &mut Diagnostics) -> bool {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            d.error(format!("is nested more than {DEPTH_MAX} deep"));
        } else if self.nodes == NODES_MAX {
            d.error(format!("is the tree's part number {NODES_MAX}: it may not have so many"));
        }
        depth <= DEPTH_MAX && self.nodes < NODES_MAX
    }

    fn tree(&mut self, proto: &xds::Matcher, depth: usize, d: &mut Diagnostics) -> Option<MatchTree<A>> {
        use xds::matcher::MatcherType;
        if !self.takes(depth, d) {
            return None;
        }
        let branches = match &proto.matcher_type {
            None => Some(Branches::None),
            Some(MatcherType::MatcherList(found)) => d.at("matcher_list", |d| {
                list(&found.matchers, "matchers", d, |matcher, d| {
                    let predicate = d.at("predicate", |d| self.predicate(matcher.predicate.as_ref(), depth, d));
                    let on_match = d.at("on_match", |d| self.on_match(matcher.on_match.as_ref(), depth, d));
                    predicate.zip(on_match)
                })
                .map(Branches::List)
            }),
            Some(MatcherType::MatcherTree(found)) => d.at("matcher_tree", |d| self.map(found, depth, d)),
        };
        let on_no_match = match &proto.on_no_match {
            Some(proto) => Some(Box::new(d.at("on_no_match", |d| self.on_match(Some(proto), depth, d))?)),
            None => None,
        };
        Some(MatchTree { branches: branches?, on_no_match })
    }

    fn on_match(
        &mut self,
        proto: Option<&xds::matcher::OnMatch>,
        depth: usize,
        d: &mut Diagnostics,
    ) -> Option<OnMatch<A>> {
        use xds::matcher::on_match::OnMatch as Proto;
        match proto.and_then(|proto| proto.on_match.as_ref()) {
            Some(Proto::Matcher(tree)) => {
                d.at("matcher", |d| self.tree(tree, depth + 1, d)).map(Box::new).map(OnMatch::Tree)
            }
            Some(Proto::Action(action)) => d.at("action", |d| (self.action)(action, d)).map(OnMatch::Action),
            None => {
                d.error("has neither matcher nor action");
                None
            }
        }
    }

    fn map(&mut self, proto: &xds::matcher::MatcherTree, depth: usize, d: &mut Diagnostics) -> Option<Branches<A>> {
        let input = d.at("input", |d| match self.input(proto.input.as_ref(), d)? {
            Found::Input(input) => Some(input),
            Found::Metadata(..) => {
                d.error("is of no type that a map can be asked by");
                None
            }
        });
        let mut entries = |map: &HashMap<String, xds::matcher::OnMatch>, field: &'static str, d: &mut Diagnostics| {
            if map.is_empty() {
                d.at(field, |d| d.at("map", |d| d.error("is required")));
                return None;
            }
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                let on_match = d.at(field, |d| {
                    d.at_key("map", key, |d| {
                        self.takes(depth, d).then(|| self.on_match(map.get(key), depth, d)).flatten()
                    })
                })?;
                entries.push((Bytes::copy_from_slice(key.as_bytes()), on_match));
            }
            Some(entries)
        };
        match &proto.tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                let entries = entries(&map.map, "exact_match_map", d)?;
                Some(Branches::Exact(input?, entries.into_iter().collect()))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let entries = entries(&map.map, "prefix_match_map", d)?;
                Some(Branches::Prefix(input?, entries.into_iter().collect()))
            }
            Some(TreeType::CustomMatch(_)) => unsupported("custom_match", d),
            None => {
                d.error("has neither exact_match_map nor prefix_match_map");
                None
            }
        }
    }

    fn predicate(&mut self, proto: Option<&PredicateProto>, depth: usize, d: &mut Diagnostics) -> Option<Predicate> {
        if !self.takes(depth, d) {
            return None;
        }
        let mut several = |protos: &[PredicateProto], field: &'static str, d: &mut Diagnostics| {
            d.at(field, |d| {
                if protos.len() == 1 {
                    d.at("predicate", |d| d.error("are at least two"));
                }
                list(protos, "predicate", d, |proto, d| self.predicate(Some(proto), depth + 1, d))
            })
        };
        match proto.and_then(|proto| proto.match_type.as_ref()) {
            Some(MatchType::SinglePredicate(single)) => d.at("single_predicate", |d| self.single(single, d)),
            Some(MatchType::OrMatcher(or)) => several(&or.predicate, "or_matcher", d).map(Predicate::Or),
            Some(MatchType::AndMatcher(and)) => several(&and.predicate, "and_matcher", d).map(Predicate::And),
            Some(MatchType::NotMatcher(not)) => {
                let not = d.at("not_matcher", |d| self.predicate(Some(not), depth + 1, d))?;
                Some(Predicate::Not(Box::new(not)))
            }
            None => {
                d.error("has no predicate");
                None
            }
        }
    }

    fn single(&self, proto: &SinglePredicate, d: &mut Diagnostics) -> Option<Predicate> {
        let input = d.at("input", |d| self.input(proto.input.as_ref(), d))?;
        match (&proto.matcher, input) {
            (Some(Single::ValueMatch(matcher)), Found::Input(input)) => {
                d.at("value_match", |d| string(&plain(matcher), d)).map(|matcher| Predicate::Value(input, matcher))
            }
            (Some(Single::CustomMatch(custom)), Found::Input(input)) => d.at("custom_match", |d| {
                d.at("typed_config", |d| {
                    let proto: Ip = extension(custom.typed_config.as_ref(), d)?;
                    name(&proto.stat_prefix, "stat_prefix", d);
                    Some(Predicate::Ip(input, list(&proto.cidr_ranges, "cidr_ranges", d, cidr)?))
                })
            }),
            (Some(Single::CustomMatch(custom)), Found::Metadata(namespace, path)) => d.at("custom_match", |d| {
                d.at("typed_config", |d| {
                    let proto: Metadata = extension(custom.typed_config.as_ref(), d)?;
                    let value = d.at("value", |d| value(proto.value.as_ref(), d))?;
                    Some(Predicate::Metadata(MetadataMatcher { namespace, path, value, invert: proto.invert }))
                })
            }),
            (Some(Single::ValueMatch(_)), Found::Metadata(..)) => {
                d.at("value_match", |d| d.error("matches texts, and metadata are no text: custom_match does"));
                None
            }
            (None, _) => {
                d.error("has neither value_match nor custom_match");
                None
            }
        }
    }

    fn input(&self, proto: Option<&TypedExtensionConfig>, d: &mut Diagnostics) -> Option<Found> {
        d.at("typed_config", |d| {
            let Some(config) = proto.and_then(|proto| proto.typed_config.as_ref()) else {
                d.error("is required");
                return None;
            };
            let found = message_name(&config.type_url);
            let is = |name: String| name == found;
            if let Some((_, input)) = plain_inputs().into_iter().find(|(name, _)| name == found) {
                return Some(Found::Input(input));
            }
            if is(network::FilterStateInput::full_name()) {
                let proto: network::FilterStateInput = message(config, d)?;
                return Some(Found::Input(Input::FilterState(name(&proto.key, "key", d).to_string())));
            }
            if self.http && is(matcher::HttpRequestHeaderMatchInput::full_name()) {
                let proto: matcher::HttpRequestHeaderMatchInput = message(config, d)?;
                let name = d.at("header_name", |d| header_match_name(&proto.header_name, d))?;
                return Some(Found::Input(Input::RequestHeader(name)));
            }
            if self.http && is(network::DynamicMetadataInput::full_name()) {
                return of_metadata(&message(config, d)?, d);
            }
            d.error(format!("type {found} is not supported here"));
            None
        })
    }
}

/// Inputs that have nothing to configure.
fn plain_inputs() -> [(String, Input); 9] {
    [
        (network::DestinationIpInput::full_name(), Input::DestinationIp),
        (network::DestinationPortInput::full_name(), Input::DestinationPort),
        (network::SourceIpInput::full_name(), Input::SourceIp),
        (network::SourcePortInput::full_name(), Input::SourcePort),
        (network::DirectSourceIpInput::full_name(), Input::DirectSourceIp),
        (network::ServerNameInput::full_name(), Input::ServerName),
        (ssl::UriSanInput::full_name(), Input::UriSan),
        (ssl::DnsSanInput::full_name(), Input::DnsSan),
        (ssl::SubjectInput::full_name(), Input::Subject),
    ]
}

fn of_metadata(proto: &network::DynamicMetadataInput, d: &mut Diagnostics) -> Option<Found> {
    use network::dynamic_metadata_input::path_segment::Segment;
    let namespace = name(&proto.filter, "filter", d);
    let path = list(&proto.path, "path", d, |segment, d| {
        path_key(segment.segment.as_ref().map(|Segment::Key(key)| &**key), d)
    });
    Some(Found::Metadata(namespace.to_string(), path?))
}

/// The same matcher in Envoy's package.
fn plain(proto: &xds::StringMatcher) -> matcher::StringMatcher {
    matcher::StringMatcher::decode(&proto.encode_to_vec()[..]).unwrap_or_default()
}

fn unsupported<T>(field: &'static str, d: &mut Diagnostics) -> Option<T> {
    d.at(field, |d| d.error("is not supported"));
    None
}
