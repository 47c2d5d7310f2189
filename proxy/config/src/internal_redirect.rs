//! Redirects of origins that the proxy follows itself (`envoy.config.route.v3.InternalRedirectPolicy`).

use std::sync::Arc;

use bytes::Bytes;
use outrigger_http::{HeaderName, Scheme};

/// `internal_redirect_policy` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalRedirect {
    /// How often one request is redirected at most; once unless set.
    pub redirects_max: u32,
    /// 302 unless set.
    pub status_codes: Vec<u16>,
    /// Between http and https.
    pub cross_scheme: bool,
    /// `response_headers_to_copy`: taken over from the answer; gone where it has none.
    pub copied_headers: Vec<HeaderName>,
    pub predicates: Vec<RedirectPredicate>,
}

/// What must hold of the route that a redirect leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// This route hasn't sent the request to it before.
    PreviousRoutes,
    /// It has one of these names.
    AllowListedRoutes(Vec<Arc<str>>),
    /// A request in cleartext doesn't go on to https.
    SafeCrossScheme,
}

/// Where a `location` leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectTarget {
    pub scheme: Scheme,
    pub authority: Bytes,
    /// With its query, without a fragment.
    pub path: Bytes,
}

impl RedirectTarget {
    /// An absolute URL of http or https, without user information; `None` for everything else.
    #[must_use]
    pub fn parse(location: &[u8]) -> Option<RedirectTarget> {
        let after = |prefix: &[u8]| {
            let (start, rest) = location.split_at_checked(prefix.len())?;
            start.eq_ignore_ascii_case(prefix).then_some(rest)
        };
        let (scheme, rest) = match (after(b"http://"), after(b"https://")) {
            (Some(rest), _) => (Scheme::Http, rest),
            (None, Some(rest)) => (Scheme::Https, rest),
            (None, None) => return None,
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let host_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte);
        let port = authority.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        let has_port = authority.contains(&b':') && !port.ends_with(b"]");
        let good_port = !has_port || (!port.is_empty() && port.iter().all(u8::is_ascii_digit));
        if authority.is_empty() || authority[0] == b':' || !authority.iter().all(host_byte) || !good_port {
            return None;
        }
        let path = rest.split(|byte| *byte == b'#').next().unwrap_or_default();
        if !path.iter().all(|byte| (0x21..0x7f).contains(byte)) {
            return None;
        }
        let path = match path.first() {
            Some(b'/') => Bytes::copy_from_slice(path),
            _ => [b"/", path].concat().into(),
        };
        Some(RedirectTarget { scheme, authority: Bytes::copy_from_slice(authority), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_urls_lead_somewhere() {
        let check = |location: &str, expected: Option<(Scheme, &str, &str)>| {
            let found = RedirectTarget::parse(location.as_bytes());
            let found = found.as_ref().map(|found| {
                let text = |bytes: &'_ Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                (found.scheme, text(&found.authority), text(&found.path))
            });
            let expected = expected.map(|(scheme, authority, path)| (scheme, authority.to_owned(), path.to_owned()));
            assert_eq!(found, expected, "{location}");
        };
        check("http://a.test/x?y#z", Some((Scheme::Http, "a.test", "/x?y")));
        check("HTTPS://a.test:81", Some((Scheme::Https, "a.test:81", "/")));
        check("http://[::1]:8/?x", Some((Scheme::Http, "[::1]:8", "/?x")));
        check("http://a.test?x", Some((Scheme::Http, "a.test", "/?x")));
        for bad in [
            "",
            "/x",
            "//a.test/x",
            "ftp://a.test/",
            "http://",
            "http:///x",
            "http://u@a.test/",
            "http://a.test:/",
            "http://:80/",
            "http://a.test:b/",
            "http://a.test/ x",
            "http://a.test/\r\n",
            "http://a test/",
        ] {
            check(bad, None);
        }
    }
}
