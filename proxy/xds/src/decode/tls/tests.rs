//! Transport sockets and secrets, by example.

use std::sync::Arc;

use outrigger_config::{
    CertificateSource, CipherSuite, Curve, DownstreamTls, Resource, ResourceKind, SanKind, Secret, SecretContent,
    Source, TlsVersions, Trust, UpstreamTls, ValidationContext,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256};

use crate::testing::decode_yaml;

struct Made {
    certificate: String,
    key: String,
}

fn made(change: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Made { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn authority() -> String {
    made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).certificate
}

/// A text as a YAML scalar.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\n', "\\n"))
}

fn certificate_yaml(certificate: &str, key: &str) -> String {
    let (certificate, key) = (quoted(certificate), quoted(key));
    format!("{{certificate_chain: {{inline_string: {certificate}}}, private_key: {{inline_string: {key}}}}}")
}

fn secret(yaml: &str) -> Result<Arc<Secret>, String> {
    match decode_yaml(ResourceKind::Secret, yaml) {
        Ok(accepted) => match accepted.resource {
            Resource::Secret(secret) => Ok(secret),
            other => panic!("{other:?}"),
        },
        Err(invalid) => Err(invalid.reason()),
    }
}

fn of_certificate(certificate: &str, key: &str) -> Result<Arc<Secret>, String> {
    secret(&format!("{{name: s, tls_certificate: {}}}", certificate_yaml(certificate, key)))
}

fn validation(fields: &str) -> Result<Arc<ValidationContext>, String> {
    let secret = secret(&format!("{{name: s, validation_context: {{{fields}}}}}"))?;
    match &secret.content {
        SecretContent::Validation(validation) => Ok(Arc::clone(validation)),
        _ => panic!(),
    }
}

#[test]
fn certificates_are_checked_where_they_come() {
    let good = made(|_| {});
    let SecretContent::Certificate(found) = &of_certificate(&good.certificate, &good.key).unwrap().content else {
        panic!()
    };
    assert_eq!((found.chain.len(), &*found.path), (1, ""));

    let other = made(|_| {});
    let check = |certificate: &str, key: &str, expected: &str| {
        let reason = of_certificate(certificate, key).unwrap_err();
        assert_eq!(reason, format!("tls_certificate.{expected}"));
    };
    check(&good.certificate, &other.key, "private_key: is not the key of the certificate");
    check("", &good.key, "certificate_chain: holds no certificate in PEM");
    check(&good.certificate, "", "private_key: holds no private key in PEM");
    check(&good.certificate, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n", "private_key: holds no private key in PEM");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n";
    check(&good.certificate, encrypted, "private_key: is encrypted, which is not supported");
    let rubbish = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
    check(rubbish, &good.key, "certificate_chain: certificate 1 is malformed");
    let cut = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n";
    check(cut, &good.key, "certificate_chain: is no well-formed PEM");
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    check(&good.certificate, key, "private_key: is of a kind that is not supported: RSA, ECDSA or Ed25519");

    let expired = made(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let reason = of_certificate(&expired.certificate, &expired.key).unwrap_err();
    assert!(reason.contains("certificate_chain: the certificate expired at "), "{reason}");
}

#[test]
fn keys_come_in_every_form() {
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = params.self_signed(&rsa).unwrap().pem();
    of_certificate(&certificate, &rsa.serialize_pem()).unwrap();

    // PKCS#8 of a P-256 key holds its SEC 1 form.
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let der = key.serialize_der();
    let sec1 = der.windows(4).position(|window| window == [0x30, 0x6b, 0x02, 0x01]).map(|at| &der[at..]);
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(sec1.expect("a SEC 1 key"));
    let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n");
    of_certificate(&certificate, &pem).unwrap();
}

#[test]
fn no_problem_tells_a_secret() {
    let good = made(|_| {});
    let body = good.key.lines().nth(1).unwrap().to_owned();
    for key in
        [good.key.replace("-----END", "----END"), good.key.replace("BEGIN PRIVATE", "BEGIN PUBLIC"), body.clone()]
    {
        let reason = of_certificate(&good.certificate, &key).unwrap_err();
        assert!(!reason.contains(&body[..16]), "{reason}");
    }
}

#[test]
fn bundles_and_who_is_trusted() {
    let ca = authority();
    let trusted = format!("trusted_ca: {{inline_string: {}}}", quoted(&(ca.clone() + &authority())));
    let found = validation(&format!(
        "{trusted}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: 'spiffe://a/'}}}}], \
         verify_certificate_hash: ['{}'], verify_certificate_spki: ['{}='], allow_expired_certificate: true",
        "AB:".repeat(31) + "ab",
        "A".repeat(43),
    ))
    .unwrap();
    let Trust::Bundle(bundle) = &found.trust else { panic!() };
    assert_eq!(bundle.certificates.len(), 2);
    assert_eq!(found.sans[0].kind, SanKind::Uri);
    assert_eq!((found.hashes[0], found.spkis[0]), ([0xab; 32], [0; 32]));
    assert!(found.allow_expired_certificate);

    let check = |fields: &str, expected: &str| assert_eq!(validation(fields).unwrap_err(), expected, "{fields}");
    let sans = "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]";
    let insecure = "validation_context.match_typed_subject_alt_names: without trusted_ca is insecure, and not allowed";
    check(sans, insecure);
    check("trusted_ca: {inline_string: ''}", "validation_context.trusted_ca: holds no certificate in PEM");
    check(
        &format!("{trusted}, match_typed_subject_alt_names: [{{matcher: {{exact: a}}}}]"),
        "validation_context.match_typed_subject_alt_names[0].san_type: is required",
    );
    check(
        &format!("{trusted}, verify_certificate_hash: [ab]"),
        "validation_context.verify_certificate_hash[0]: is no SHA-256 digest",
    );
    check(&format!("{trusted}, crl: {{inline_string: x}}"), "validation_context.crl: holds no revocation list in PEM");
    check(&format!("{trusted}, max_verify_depth: 1"), "validation_context.max_verify_depth: is not supported");

    let spiffe = |domains: &str| {
        format!(
            "custom_validator_config: {{name: envoy.tls.cert_validator.spiffe, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, \
             trust_domains: [{domains}]}}}}"
        )
    };
    let domain = |name: &str| format!("{{name: {name}, trust_bundle: {{inline_string: {}}}}}", quoted(&ca));
    let found = validation(&spiffe(&format!("{}, {}", domain("a"), domain("b")))).unwrap();
    assert!(matches!(&found.trust, Trust::Spiffe(domains) if domains.len() == 2 && *domains[1].name == *"b"));
    let twice = validation(&spiffe(&format!("{0}, {0}", domain("a")))).unwrap_err();
    assert!(twice.ends_with("trust_domains[1].name: is empty, or stands here twice"), "{twice}");
}

#[test]
fn revocation_lists_are_read() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2044, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    let fields =
        format!("trusted_ca: {{inline_string: {}}}, crl: {{inline_string: {}}}", quoted(&issuer.pem()), quoted(&list));
    assert_eq!(validation(&fields).unwrap().crls.len(), 1);
}

fn cluster(context: &str) -> Result<(Arc<UpstreamTls>, Vec<String>), String> {
    let yaml = format!(
        "{{name: c, load_assignment: {{cluster_name: c}}, transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, {context}}}}}}}"
    );
    match decode_yaml(ResourceKind::Cluster, &yaml) {
        Ok(accepted) => match accepted.resource {
            Resource::Cluster(cluster) => {
                Ok((cluster.transports.default.tls.as_ref().unwrap().clone(), accepted.warnings))
            }
            other => panic!("{other:?}"),
        },
        Err(invalid) => Err(invalid.reason().replace("transport_socket.typed_config.", "")),
    }
}

fn listener(context: &str) -> Result<(Arc<DownstreamTls>, Vec<String>), String> {
    let yaml = format!(
        "{{name: l, address: {{socket_address: {{address: '::1', port_value: 1}}}}, filter_chains: [{{filters: [{{name: \
         t, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: t, cluster: c}}}}], transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, {context}}}}}}}]}}"
    );
    match decode_yaml(ResourceKind::Listener, &yaml) {
        Ok(accepted) => match accepted.resource {
            Resource::Listener(listener) => {
                Ok((listener.chains[0].transport.tls().unwrap().clone(), accepted.warnings))
            }
            other => panic!("{other:?}"),
        },
        Err(invalid) => Err(invalid.reason().replace("filter_chains[0].transport_socket.typed_config.", "")),
    }
}

const SDS: &str = "tls_certificate_sds_secret_configs: [{name: s, sds_config: {ads: {}}}]";

#[test]
fn contexts_towards_origins() {
    let (found, warnings) = cluster(
        "sni: A.test, max_session_keys: 0, common_tls_context: {alpn_protocols: [h2], \
         validation_context_sds_secret_config: {name: ca, sds_config: {api_config_source: {api_type: DELTA_GRPC, \
         transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds}}]}}}}",
    )
    .unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((&*found.sni, found.max_session_keys), ("a.test", 0));
    let secret = found.context.validation_secret.as_ref().unwrap();
    let Source::Stream(stream) = &secret.dependency.from else { panic!() };
    assert_eq!((&*stream.cluster, stream.is_delta, &*stream.authority), ("sds", true, "sds"));
    assert_eq!(&*secret.key, "ca of a stream to sds");

    let (_, warnings) = cluster("sni: a.test").unwrap();
    assert_eq!(
        warnings,
        [
            "transport_socket.typed_config.common_tls_context: without a validation_context any server will do, as in Envoy"
        ]
    );
    let check = |context: &str, expected: &str| assert_eq!(cluster(context).unwrap_err(), expected);
    check("sni: 'a b'", "sni: \"a b\" is no DNS name");
    check("common_tls_context: {key_log: {}}", "common_tls_context.key_log.path: is required");
    check(
        "common_tls_context: {key_log: {path: /dev/null, remote_address_range: [{address_prefix: 1.2.3.4, prefix_len: 33}]}}",
        "common_tls_context.key_log.remote_address_range[0].prefix_len: 33 is longer than the address",
    );
    check("allow_renegotiation: true", "allow_renegotiation: is not supported");
}

#[test]
fn contexts_towards_clients() {
    let (found, warnings) = listener(&format!(
        "require_client_certificate: true, common_tls_context: {{{SDS}, tls_params: {{tls_minimum_protocol_version: \
         TLSv1_2, tls_maximum_protocol_version: TLSv1_2, cipher_suites: ['[ECDHE-RSA-AES128-GCM-SHA256|\
         ECDHE-RSA-CHACHA20-POLY1305]', AES128-GCM-SHA256], ecdh_curves: [P-256]}}, combined_validation_context: \
         {{default_validation_context: {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: x}}}}]}}, \
         validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {{ads: {{}}}}}}}}}}"
    ))
    .unwrap();
    assert_eq!(
        warnings,
        [
            "filter_chains[0].transport_socket.typed_config.common_tls_context.tls_params.cipher_suites[1]: AES128-GCM-SHA256 is left out"
        ]
    );
    assert!(found.require_client_certificate);
    let params = &found.context.params;
    assert_eq!(params.versions, TlsVersions::Only12);
    assert_eq!(params.cipher_suites, [CipherSuite::EcdheRsaAes128, CipherSuite::EcdheRsaChacha20]);
    assert_eq!(params.curves, [Curve::P256]);
    assert!(matches!(&found.context.certificates[..], [CertificateSource::Secret(secret)] if &*secret.key == "s"));
    let names: Vec<&str> = found.context.secrets().map(|secret| &*secret.key).collect();
    assert_eq!(names, ["s", "ROOTCA"]);

    let check = |context: &str, expected: &str| assert_eq!(listener(context).unwrap_err(), expected);
    check(
        "common_tls_context: {}",
        "common_tls_context: has no certificate for the server: tls_certificates or tls_certificate_sds_secret_configs",
    );
    let of_server = |context: &str, expected: &str| {
        let reason = listener(&format!("{context}, common_tls_context: {{{SDS}}}")).unwrap_err();
        assert_eq!(reason, expected);
    };
    of_server("session_ticket_keys: {keys: []}", "session_ticket_keys.keys: 0 keys are not between 1 and 64");
    of_server(
        "session_ticket_keys: {keys: [{inline_bytes: AA==}]}",
        "session_ticket_keys.keys[0]: has 1 bytes, not 80",
    );
    // What is set and not there is refused where it stands.
    let of_leaf = |more: &str, field: &str| {
        let reason = listener(&format!("common_tls_context: {{tls_certificates: [{{{more}}}]}}")).unwrap_err();
        let expected = format!("common_tls_context.tls_certificates[0].{field}: is not supported");
        assert!(reason.lines().any(|line| line == expected), "{reason}");
    };
    of_leaf("pkcs12: {inline_bytes: AA==}", "pkcs12");
    let params = |params: &str| format!("common_tls_context: {{{SDS}, tls_params: {{{params}}}}}");
    check(
        &params("cipher_suites: [X]"),
        "common_tls_context.tls_params.cipher_suites[0]: \"X\" is not supported\ncommon_tls_context.tls_params.cipher_suites: names no cipher suite that is supported",
    );
    check(
        &params("cipher_suites: [AES128-SHA]"),
        "common_tls_context.tls_params.cipher_suites: names no cipher suite that is supported",
    );
    check(
        &params("tls_maximum_protocol_version: TLSv1_1"),
        "common_tls_context.tls_params.tls_maximum_protocol_version: is below TLS 1.2, the lowest version",
    );
    check(
        &params("signature_algorithms: [ed25519]"),
        "common_tls_context.tls_params.signature_algorithms: is not supported",
    );
    let good = made(|_| {});
    let other = made(|_| {});
    check(
        &format!("common_tls_context: {{tls_certificates: [{}]}}", certificate_yaml(&good.certificate, &other.key)),
        "common_tls_context.tls_certificates[0].private_key: is not the key of the certificate",
    );
}
