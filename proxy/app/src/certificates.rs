//! The certificates of the published generation: for `/certs`, and when they end.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_config::{
    CertificateSource, Resource, ResourceKind, SecretContent, Snapshot, TlsCertificate, TlsContext, Trust,
    ValidationContext,
};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Contexts of clusters and listeners that are shown and counted at most; secrets are all.
const INLINE_MAX: usize = 1000;

/// A certificate or a bundle, and whose it is.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The secret's name; empty for what stands in a listener or a cluster.
    pub(crate) name: Arc<str>,
    certificate: Option<Arc<TlsCertificate>>,
    validation: Option<Arc<ValidationContext>>,
}

/// Everything that a generation serves with.
pub(crate) fn all(snapshot: &Snapshot) -> Vec<Shown> {
    let mut shown: Vec<Shown> = snapshot
        .resources()
        .resources(ResourceKind::Secret)
        .filter_map(|resource| match resource {
            Resource::Secret(secret) => Some(of_secret(&secret.name, &secret.content)),
            _ => None,
        })
        .collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    let listeners = snapshot.listeners.values().flat_map(|listener| &listener.chains);
    let listeners = listeners.filter_map(|chain| chain.transport.tls().map(|tls| &tls.context));
    let clusters = snapshot.clusters.values().flat_map(|entry| entry.cluster.transports.contexts());
    shown.extend(listeners.chain(clusters).flat_map(of_context).take(INLINE_MAX));
    shown
}

fn of_secret(name: &Arc<str>, content: &SecretContent) -> Shown {
    let name = Arc::clone(name);
    match content {
        SecretContent::Certificate(certificate) => {
            Shown { name, certificate: Some(Arc::clone(certificate)), validation: None }
        }
        SecretContent::Validation(validation) => {
            Shown { name, certificate: None, validation: Some(Arc::clone(validation)) }
        }
        SecretContent::TicketKeys(_) => Shown { name, certificate: None, validation: None },
    }
}

/// What stands in a context itself.
fn of_context(context: &TlsContext) -> impl Iterator<Item = Shown> {
    let name: Arc<str> = Arc::default();
    let certificates = context.certificates.iter().filter_map(|source| match source {
        CertificateSource::Inline(certificate) => Some(Arc::clone(certificate)),
        CertificateSource::Secret(_) => None,
    });
    let certificates: Vec<Shown> = certificates
        .map(|certificate| Shown { name: Arc::clone(&name), certificate: Some(certificate), validation: None })
        .collect();
    let validation = context.validation.iter().filter(|validation| validation.verifies_chain());
    let validation: Vec<Shown> = validation
        .map(|validation| Shown { name: Arc::clone(&name), certificate: None, validation: Some(validation.clone()) })
        .collect();
    certificates.into_iter().chain(validation)
}

impl Shown {
    fn chain(&self) -> impl Iterator<Item = (&[u8], &Arc<str>)> {
        let certificates = self.certificate.iter();
        certificates.flat_map(|certificate| certificate.chain.iter().map(|der| (&**der, &certificate.path)))
    }

    fn authorities(&self) -> impl Iterator<Item = (&[u8], &Arc<str>)> {
        let bundles = self.validation.iter().flat_map(|validation| match &validation.trust {
            Trust::Anybody => Vec::new(),
            Trust::Bundle(bundle) => vec![bundle],
            Trust::Spiffe(domains) => domains.iter().map(|domain| &domain.bundle).collect(),
        });
        bundles.flat_map(|bundle| bundle.certificates.iter().map(|der| (&**der, &bundle.path)))
    }

    /// When the first of its certificates ends, in seconds since the epoch.
    pub(crate) fn ends(&self) -> Option<i64> {
        let all = self.chain().chain(self.authorities());
        all.filter_map(|(der, _)| Some(X509Certificate::from_der(der).ok()?.1.validity().not_after.timestamp())).min()
    }
}

/// Now, in seconds since the epoch.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// Whole days until then; none once it is over.
pub(crate) fn days_until(seconds: i64) -> i64 {
    (seconds.saturating_sub(now()) / 86_400).max(0)
}

/// `envoy.admin.v3.Certificates` as JSON.
pub(crate) fn page(snapshot: &Snapshot) -> Value {
    let mut seen = HashSet::new();
    let mut certificates = Vec::new();
    for shown in all(snapshot) {
        let list = |ders: &mut dyn Iterator<Item = (&[u8], &Arc<str>)>| -> Vec<Value> {
            ders.filter_map(|(der, path)| details(der, path)).collect()
        };
        let (authorities, chain) = (list(&mut shown.authorities()), list(&mut shown.chain()));
        let entry = json!({"ca_cert": authorities, "cert_chain": chain});
        // Clusters often have the same.
        if seen.insert(entry.to_string()) {
            certificates.push(entry);
        }
    }
    json!({"certificates": certificates})
}

fn details(der: &[u8], path: &str) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
        _ => Vec::new(),
    };
    let serial: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    let serial = serial.trim_start_matches('0');
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(json!({
        "path": if path.is_empty() { "<inline>" } else { path },
        "serial_number": serial,
        "subject_alt_names": names,
        "days_until_expiration": days_until(until).to_string(),
        "valid_from": rfc_3339(from),
        "expiration_time": rfc_3339(until),
    }))
}

fn name(name: &GeneralName<'_>) -> Option<Value> {
    match name {
        GeneralName::DNSName(dns) => Some(json!({"dns": dns})),
        GeneralName::URI(uri) => Some(json!({"uri": uri})),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))));
            ip.ok().map(|ip| json!({"ip_address": ip.to_string()}))
        }
        _ => None,
    }
}

/// Such as `2026-11-26T00:00:00Z`.
fn rfc_3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a civil date, in years that begin in March (Howard Hinnant's algorithm).
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc_3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc_3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc_3339(1_795_651_199), "2026-11-25T23:59:59Z");
        assert_eq!(rfc_3339(-1), "1969-12-31T23:59:59Z");
    }
}
