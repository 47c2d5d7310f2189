//! Addresses of endpoints.

use std::path::Path;

use outrigger_config::{Discovery, ResourceKind};
use outrigger_http::EndpointAddress;

use super::{bad, cluster};

#[test]
fn endpoints_on_unix_sockets() {
    let of = |endpoint: &str| {
        format!("{{name: a, load_assignment: {{endpoints: [{{lb_endpoints: [{{endpoint: {endpoint}}}]}}]}}}}")
    };
    let check = |path: &str, expected: &str| {
        let found = cluster(&of(&format!("{{address: {{pipe: {{path: '{path}'}}}}}}")));
        let Discovery::Static(endpoints) = &found.discovery else { panic!() };
        let pipe = EndpointAddress::Pipe(Path::new(expected).into());
        assert_eq!(endpoints.endpoints().next().unwrap().address, pipe);
        assert_eq!(pipe.to_string(), path);
    };
    check("/run/agent.sock", "/run/agent.sock");
    check("@agent", "\0agent");
    let field = "load_assignment.endpoints[0].lb_endpoints[0].endpoint";
    let check = |endpoint: &str, expected: &str| {
        let reason = bad(ResourceKind::Cluster, &of(endpoint));
        assert!(reason.starts_with(&format!("{field}.{expected}: ")), "{reason}");
    };
    check("{address: {pipe: {}}}", "address.pipe.path");
    check(&format!("{{address: {{pipe: {{path: '{}'}}}}}}", "a".repeat(108)), "address.pipe.path");
    let other = "{address: {socket_address: {address: 10.0.0.1, port_value: 1}}}";
    check(&format!("{{address: {{pipe: {{path: /a}}}}, additional_addresses: [{other}]}}"), "additional_addresses");
}
