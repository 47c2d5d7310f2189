//! `x-forwarded-client-cert`: who the client proved to be, for origins. Only a client that has shown a certificate may say
//! who others were.

use bytes::{Bytes, BytesMut};
use outrigger_config::{ClientCertDetails, ForwardClientCert, HttpConnectionManager};
use outrigger_http::{HeaderName, Headers, StreamState, TlsInfo};

/// Makes the header what `forward_client_cert_details` says.
pub(crate) fn forward(state: &mut StreamState, hcm: &HttpConnectionManager) {
    let mode = hcm.forward_client_cert;
    if mode == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    let headers = &mut state.request.headers;
    let tls = state.info.downstream.tls.as_ref().filter(|tls| tls.peer.is_some());
    let Some(tls) = tls.filter(|_| mode != ForwardClientCert::Sanitize) else {
        // Nearly every request has none.
        if headers.contains(&HeaderName::X_FORWARDED_CLIENT_CERT) {
            headers.remove(&HeaderName::X_FORWARDED_CLIENT_CERT);
        }
        return;
    };
    if mode == ForwardClientCert::ForwardOnly {
        return;
    }
    let element = element(tls, hcm.client_cert_details);
    let value = match mode {
        ForwardClientCert::AppendForward => joined(headers, &element),
        _ => Bytes::from(element),
    };
    // What a certificate says may be anything; as a header it can't be.
    if value.is_empty() || headers.try_set(HeaderName::X_FORWARDED_CLIENT_CERT, value).is_err() {
        headers.remove(&HeaderName::X_FORWARDED_CLIENT_CERT);
    }
}

fn joined(headers: &Headers, element: &str) -> Bytes {
    let mut joined = BytesMut::new();
    for value in headers.get_all(&HeaderName::X_FORWARDED_CLIENT_CERT) {
        if !joined.is_empty() {
            joined.extend_from_slice(b",");
        }
        joined.extend_from_slice(value);
    }
    if !joined.is_empty() && !element.is_empty() {
        joined.extend_from_slice(b",");
    }
    joined.extend_from_slice(element.as_bytes());
    joined.freeze()
}

/// One element, its parts in Envoy's order.
pub(crate) fn element(tls: &TlsInfo, details: ClientCertDetails) -> String {
    let Some(peer) = &tls.peer else { return String::new() };
    let mut parts: Vec<String> = Vec::new();
    let ours = tls.local.iter().flat_map(|local| &local.uri_sans);
    parts.extend(ours.map(|uri| format!("By={}", quoted_if_needed(uri))));
    parts.push(format!("Hash={}", peer.sha256));
    if details.cert {
        parts.push(format!("Cert=\"{}\"", peer.url_encoded_pem()));
    }
    if details.chain {
        parts.push(format!("Chain=\"{}\"", peer.url_encoded_pem_chain()));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", escaped(&peer.subject)));
    }
    if details.uri {
        match &peer.uri_sans[..] {
            [] => parts.push("URI=".to_owned()),
            uris => parts.extend(uris.iter().map(|uri| format!("URI={}", quoted_if_needed(uri)))),
        }
    }
    if details.dns {
        parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={}", quoted_if_needed(dns))));
    }
    parts.join(";")
}

/// A name that could end its part, or the element, stands in quotes.
fn quoted_if_needed(text: &str) -> String {
    let is_plain = !text.bytes().any(|byte| matches!(byte, b',' | b';' | b'=' | b'"' | b'\\'));
    if is_plain { text.to_owned() } else { format!("\"{}\"", escaped(text)) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_http::CertificateInfo;

    use super::*;

    fn certificate(uris: &[&str], subject: &str) -> Option<Arc<CertificateInfo>> {
        Some(Arc::new(CertificateInfo {
            subject: subject.to_owned(),
            uri_sans: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            dns_sans: vec!["d.test".to_owned()],
            sha256: "00ff".to_owned(),
            ..CertificateInfo::default()
        }))
    }

    #[test]
    fn elements() {
        let tls = TlsInfo {
            local: certificate(&["spiffe://a/us"], ""),
            peer: certificate(&["spiffe://a/them"], "CN=x,O=y"),
            ..TlsInfo::default()
        };
        let none = ClientCertDetails::default();
        let check = |details, expected: &str| assert_eq!(element(&tls, details), expected);
        check(none, "By=spiffe://a/us;Hash=00ff");
        check(
            ClientCertDetails { subject: true, uri: true, dns: true, ..none },
            "By=spiffe://a/us;Hash=00ff;Subject=\"CN=x,O=y\";URI=spiffe://a/them;DNS=d.test",
        );
        let hostile = TlsInfo { peer: certificate(&["a,By=b;Hash=\"1\""], "CN=\\\"q"), ..TlsInfo::default() };
        assert_eq!(
            element(&hostile, ClientCertDetails { subject: true, uri: true, ..none }),
            "Hash=00ff;Subject=\"CN=\\\\\\\"q\";URI=\"a,By=b;Hash=\\\"1\\\"\"",
        );
        let nameless = TlsInfo { peer: certificate(&[], ""), ..TlsInfo::default() };
        assert_eq!(
            element(&nameless, ClientCertDetails { subject: true, uri: true, ..none }),
            "Hash=00ff;Subject=\"\";URI=",
        );
    }
}
