//! Access logs' filters: what is taken, and what is wrong with the others.

use outrigger_config::{Comparison, ComparisonOp, LogFilter};

use super::{bad_manager, manager};

fn fields(filter: &str) -> String {
    let logger = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
    let routes = "route_config: {name: r, virtual_hosts: []}";
    let router = super::ROUTER;
    format!(
        "{routes}, http_filters: [{router}], access_log: [{{typed_config: {{'@type': {logger}}}, filter: {filter}}}]"
    )
}

#[test]
fn filters_are_whole_or_rejected() {
    let good = |filter: &str| manager(&fields(filter)).access_logs[0].filter.clone().expect(filter);
    let comparison = Comparison { op: ComparisonOp::AtLeast, value: 500 };
    assert_eq!(
        good("{status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}}"),
        LogFilter::Status(comparison)
    );
    assert_eq!(
        good("{and_filter: {filters: [{not_health_check_filter: {}}, {traceable_filter: {}}]}}"),
        LogFilter::And(vec![LogFilter::Everything, LogFilter::ForcedTrace])
    );
    let check = |filter: &str, expected: &str| {
        assert_eq!(bad_manager(&fields(filter)).replace("access_log[0].filter", ""), expected);
    };
    check("{}", ": has no filter");
    check("{status_code_filter: {}}", ".status_code_filter.comparison: is required");
    check("{duration_filter: {comparison: {op: LE}}}", ".duration_filter.comparison.value: is required");
    check("{header_filter: {}}", ".header_filter.header: is required");
    check("{and_filter: {filters: [{traceable_filter: {}}]}}", ".and_filter.filters: are not between 2 and 1000");
    check("{or_filter: {filters: [{traceable_filter: {}}, {}]}}", ".or_filter.filters[1]: has no filter");
    check("{response_flag_filter: {flags: [UF, XX]}}", ".response_flag_filter.flags[1]: \"XX\" is no response flag");
    check("{metadata_filter: {matcher: {filter: f, path: [{key: k}]}}}", ".metadata_filter.matcher.value: is required");
}
