//! Listener filters (`envoy.config.listener.v3.ListenerFilter`): what looks at a connection before its filter chain is
//! chosen.

use std::ops::Range;
use std::sync::Arc;

use crate::PassedEntries;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerFilter {
    pub name: Arc<str>,
    pub kind: ListenerFilterKind,
    /// `filter_disabled`.
    pub disabled: Option<PortPredicate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerFilterKind {
    TlsInspector(TlsInspector),
    HttpInspector,
    /// Takes the address that the connection had before it was redirected.
    OriginalDst,
    ProxyProtocol(ProxyProtocol),
}

/// `envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInspector {
    /// `max_client_hello_size`: 16 KiB unless set, which no honest client needs.
    pub hello_bytes_max: u32,
    /// `close_connection_on_client_hello_parsing_errors`: else such a connection is one in cleartext.
    pub close_on_malformed: bool,
    /// `enable_ja3_fingerprinting`, `enable_ja4_fingerprinting`: for logs.
    pub ja3: bool,
    pub ja4: bool,
}

/// `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// `allow_requests_without_proxy_protocol`.
    pub optional: bool,
    /// Allowed versions: all but `disallowed_versions`.
    pub version1: bool,
    pub version2: bool,
    /// One for each type.
    pub rules: Vec<ProxyEntryRule>,
    /// `pass_through_tlvs`: what endpoints may be told.
    pub passed: PassedEntries,
}

/// `ProxyProtocol.Rule`: what is noted in the metadata of a connection whose header has such an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyEntryRule {
    /// `tlv_type`.
    pub kind: u8,
    pub namespace: Arc<str>,
    pub key: Arc<str>,
    /// The value in base64; else as text.
    pub base64: bool,
}

/// `ListenerFilterChainMatchPredicate`: by the destination's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortPredicate {
    Any,
    /// From the first up to, and without, the last.
    Ports(Range<u32>),
    Not(Box<PortPredicate>),
    And(Vec<PortPredicate>),
    Or(Vec<PortPredicate>),
}

impl PortPredicate {
    /// `None`: a Unix socket, which has no port.
    #[must_use]
    pub fn matches(&self, port: Option<u16>) -> bool {
        match self {
            PortPredicate::Any => true,
            PortPredicate::Ports(range) => port.is_some_and(|port| range.contains(&u32::from(port))),
            PortPredicate::Not(inner) => !inner.matches(port),
            PortPredicate::And(all) => all.iter().all(|inner| inner.matches(port)),
            PortPredicate::Or(any) => any.iter().any(|inner| inner.matches(port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_decide() {
        let ports = |from, to| PortPredicate::Ports(from..to);
        let check = |predicate: &PortPredicate, yes: &[u16], no: &[u16]| {
            for (list, expected) in [(yes, true), (no, false)] {
                list.iter()
                    .for_each(|port| assert_eq!(predicate.matches(Some(*port)), expected, "{predicate:?} {port}"));
            }
        };
        check(&PortPredicate::Any, &[0, 80], &[]);
        check(&ports(80, 82), &[80, 81], &[79, 82]);
        check(&ports(65535, 65536), &[65535], &[65534]);
        check(&PortPredicate::Not(Box::new(ports(80, 81))), &[81], &[80]);
        check(&PortPredicate::Or(vec![ports(1, 2), ports(5, 6)]), &[1, 5], &[2]);
        check(&PortPredicate::And(vec![ports(1, 9), ports(5, 12)]), &[5, 8], &[1, 10]);
        assert!(PortPredicate::Any.matches(None) && !ports(1, 2).matches(None));
    }
}
