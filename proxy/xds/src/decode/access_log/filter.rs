//! Filters of access logs. One that isn't understood rejects the log's owner: it may be there to keep something out.

use outrigger_config::{Comparison, ComparisonOp, Fraction, LogFilter};
use outrigger_http::{LogType, ResponseFlags};
use outrigger_proto::pb;
use pb::envoy::config::accesslog::v3 as proto;
use pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use pb::envoy::data::accesslog::v3::AccessLogType;
use pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;

use super::super::common::{flag, variant};
use super::super::expression::text;
use super::super::forward::fraction;
use super::super::matcher::{extension, header, metadata};
use crate::Diagnostics;

/// Filters within filters.
const DEPTH_MAX: usize = 32;
/// Of one list.
const FILTERS_MAX: usize = 1000;

pub(super) fn filter(filter: &proto::AccessLogFilter, depth: usize, d: &mut Diagnostics) -> Option<LogFilter> {
    if depth > DEPTH_MAX {
        d.error(format!("is nested more than {DEPTH_MAX} deep"));
        return None;
    }
    match &filter.filter_specifier {
        Some(FilterSpecifier::StatusCodeFilter(filter)) => {
            d.at("status_code_filter", |d| comparison(filter.comparison.as_ref(), d)).map(LogFilter::Status)
        }
        Some(FilterSpecifier::DurationFilter(filter)) => {
            d.at("duration_filter", |d| comparison(filter.comparison.as_ref(), d)).map(LogFilter::Duration)
        }
        Some(FilterSpecifier::NotHealthCheckFilter(_)) => Some(LogFilter::Everything),
        Some(FilterSpecifier::TraceableFilter(_)) => Some(LogFilter::ForcedTrace),
        Some(FilterSpecifier::RuntimeFilter(filter)) => d.at("runtime_filter", |d| share(filter, d)),
        Some(FilterSpecifier::AndFilter(and)) => {
            d.at("and_filter", |d| filters(&and.filters, depth, d)).map(LogFilter::And)
        }
        Some(FilterSpecifier::OrFilter(or)) => d.at("or_filter", |d| filters(&or.filters, depth, d)).map(LogFilter::Or),
        Some(FilterSpecifier::HeaderFilter(filter)) => d.at("header_filter", |d| match &filter.header {
            Some(matcher) => d.at("header", |d| header(matcher, d)).map(LogFilter::Header),
            None => required("header", d),
        }),
        Some(FilterSpecifier::ResponseFlagFilter(filter)) => d.at("response_flag_filter", |d| flags(&filter.flags, d)),
        Some(FilterSpecifier::GrpcStatusFilter(filter)) => d.at("grpc_status_filter", |d| grpc_status(filter, d)),
        Some(FilterSpecifier::MetadataFilter(filter)) => d.at("metadata_filter", |d| of_metadata(filter, d)),
        Some(FilterSpecifier::LogTypeFilter(filter)) => d.at("log_type_filter", |d| log_type(filter, d)),
        Some(FilterSpecifier::ExtensionFilter(filter)) => d.at("extension_filter", |d| of_extension(filter, d)),
        None => {
            d.error("has no filter");
            None
        }
    }
}

fn of_extension(proto: &proto::ExtensionFilter, d: &mut Diagnostics) -> Option<LogFilter> {
    use proto::extension_filter::ConfigType;
    let config = proto.config_type.as_ref().map(|ConfigType::TypedConfig(config)| config);
    d.at("typed_config", |d| {
        let config: ExpressionFilter = extension(config, d)?;
        d.at("expression", |d| text(&config.expression, d)).map(LogFilter::Expression)
    })
}

fn required<T>(field: &'static str, d: &mut Diagnostics) -> Option<T> {
    d.at(field, |d| d.error("is required"));
    None
}

/// There is no runtime that could overrule the value.
fn comparison(proto: Option<&proto::ComparisonFilter>, d: &mut Diagnostics) -> Option<Comparison> {
    use proto::comparison_filter::Op;
    let Some(proto) = proto else { return required("comparison", d) };
    d.at("comparison", |d| {
        let op = match variant::<Op>(proto.op, "op", d)? {
            Op::Eq => ComparisonOp::Equal,
            Op::Ge => ComparisonOp::AtLeast,
            Op::Le => ComparisonOp::AtMost,
            Op::Ne => ComparisonOp::Differs,
        };
        let Some(value) = &proto.value else { return required("value", d) };
        Some(Comparison { op, value: value.default_value })
    })
}

fn share(proto: &proto::RuntimeFilter, d: &mut Diagnostics) -> Option<LogFilter> {
    let fraction = match &proto.percent_sampled {
        Some(percent) => d.at("percent_sampled", |d| fraction(percent, d))?,
        None => Fraction::NONE,
    };
    Some(LogFilter::Share { fraction, independent: proto.use_independent_randomness })
}

fn filters(protos: &[proto::AccessLogFilter], depth: usize, d: &mut Diagnostics) -> Option<Vec<LogFilter>> {
    if !(2..=FILTERS_MAX).contains(&protos.len()) {
        d.at("filters", |d| d.error(format!("are not between 2 and {FILTERS_MAX}")));
        return None;
    }
    let protos = protos.iter().enumerate();
    let found: Vec<_> = protos.map(|(at, proto)| d.at_index("filters", at, |d| filter(proto, depth + 1, d))).collect();
    found.into_iter().collect()
}

fn flags(names: &[String], d: &mut Diagnostics) -> Option<LogFilter> {
    let mut wanted = ResponseFlags::NONE;
    for (index, name) in names.iter().enumerate() {
        match ResponseFlags::by_name(name) {
            Some(flag) => wanted.insert(flag),
            None => d.at_index("flags", index, |d| d.error(format!("{name:?} is no response flag"))),
        }
    }
    Some(LogFilter::Flags((!names.is_empty()).then_some(wanted)))
}

fn grpc_status(proto: &proto::GrpcStatusFilter, d: &mut Diagnostics) -> Option<LogFilter> {
    let mut codes = 0;
    for (index, status) in proto.statuses.iter().enumerate() {
        let known = proto::grpc_status_filter::Status::try_from(*status).is_ok();
        match u32::try_from(*status).ok().filter(|_| known) {
            Some(code) => codes |= 1 << code,
            None => d.at_index("statuses", index, |d| d.error(format!("{status} is no value of this enum"))),
        }
    }
    Some(LogFilter::GrpcStatus { codes, exclude: proto.exclude })
}

fn of_metadata(proto: &proto::MetadataFilter, d: &mut Diagnostics) -> Option<LogFilter> {
    let matcher = match &proto.matcher {
        Some(matcher) => Some(d.at("matcher", |d| {
            if matcher.invert {
                d.at("invert", |d| d.warn("has no effect in a filter of access logs"));
            }
            metadata(matcher, d)
        })?),
        None => None,
    };
    Some(LogFilter::Metadata { matcher, missing: flag(proto.match_if_key_not_found, true) })
}

fn log_type(proto: &proto::LogTypeFilter, d: &mut Diagnostics) -> Option<LogFilter> {
    let mut types = Vec::new();
    for (index, value) in proto.types.iter().enumerate() {
        match AccessLogType::try_from(*value) {
            Ok(AccessLogType::NotSet) => types.push(LogType::NotSet),
            Ok(AccessLogType::TcpConnectionEnd) => types.push(LogType::TcpConnectionEnd),
            Ok(AccessLogType::DownstreamEnd) => types.push(LogType::DownstreamEnd),
            // Lines that are never written.
            Ok(_) => {}
            Err(_) => d.at_index("types", index, |d| d.error(format!("{value} is no value of this enum"))),
        }
    }
    Some(LogFilter::LogType { types, exclude: proto.exclude })
}
