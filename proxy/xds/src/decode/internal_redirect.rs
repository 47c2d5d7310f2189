//! `internal_redirect_policy` of a route.

use std::sync::Arc;

use outrigger_config::{InternalRedirect, RedirectPredicate};
use outrigger_proto::pb;
use outrigger_proto::type_url::message_name;
use pb::envoy::config::route::v3 as route;
use pb::envoy::extensions::internal_redirect as kinds;
use pb::google::protobuf::Any;
use prost::Name;

use super::access_log::message;
use super::common::number;
use super::matcher::header_name;
use crate::Diagnostics;

/// A request that is sent on more often is a mistake.
const REDIRECTS_MAX: u32 = 100;
const STATUS_CODES_MAX: usize = 5;

pub(crate) fn policy(
    proto: Option<&route::InternalRedirectPolicy>,
    d: &mut Diagnostics,
) -> Option<Arc<InternalRedirect>> {
    let proto = proto?;
    d.at("internal_redirect_policy", |d| {
        if proto.redirect_response_codes.len() > STATUS_CODES_MAX {
            d.at("redirect_response_codes", |d| d.error(format!("are more than {STATUS_CODES_MAX}")));
        }
        let mut status_codes = Vec::new();
        for (index, code) in proto.redirect_response_codes.iter().enumerate() {
            match code {
                301 | 302 | 303 | 307 | 308 => status_codes.extend(u16::try_from(*code)),
                _ => d.at_index("redirect_response_codes", index, |d| d.warn("is no redirect, and has no effect")),
            }
        }
        if proto.redirect_response_codes.is_empty() {
            status_codes.push(302);
        }
        let copied = proto.response_headers_to_copy.iter().enumerate();
        let copied = copied.filter_map(|(index, name)| {
            d.at_index("response_headers_to_copy", index, |d| {
                if name.eq_ignore_ascii_case("host") {
                    d.error("the host is where the redirect leads to");
                }
                header_name(name, d)
            })
        });
        let copied_headers = copied.collect();
        let predicates = proto.predicates.iter().enumerate();
        let predicates = predicates.filter_map(|(index, proto)| {
            d.at_index("predicates", index, |d| d.at("typed_config", |d| predicate(proto.typed_config.as_ref(), d)))
        });
        let predicates = predicates.collect();
        Some(Arc::new(InternalRedirect {
            redirects_max: number(proto.max_internal_redirects, 1, 0..=REDIRECTS_MAX, "max_internal_redirects", d),
            status_codes,
            cross_scheme: proto.allow_cross_scheme_redirect,
            copied_headers,
            predicates,
        }))
    })
}

fn predicate(config: Option<&Any>, d: &mut Diagnostics) -> Option<RedirectPredicate> {
    use kinds::allow_listed_routes::v3::AllowListedRoutesConfig;
    use kinds::previous_routes::v3::PreviousRoutesConfig;
    use kinds::safe_cross_scheme::v3::SafeCrossSchemeConfig;
    let Some(config) = config else {
        d.error("is required");
        return None;
    };
    match message_name(&config.type_url) {
        name if name == PreviousRoutesConfig::full_name() => Some(RedirectPredicate::PreviousRoutes),
        name if name == SafeCrossSchemeConfig::full_name() => Some(RedirectPredicate::SafeCrossScheme),
        name if name == AllowListedRoutesConfig::full_name() => {
            let config: AllowListedRoutesConfig = message(config, d)?;
            let names = config.allowed_route_names.iter().map(|name| Arc::from(name.as_str()));
            Some(RedirectPredicate::AllowListedRoutes(names.collect()))
        }
        name => {
            let text = format!(
                "type {name} is not supported, only PreviousRoutesConfig, AllowListedRoutesConfig and SafeCrossSchemeConfig"
            );
            d.error(text);
            None
        }
    }
}
