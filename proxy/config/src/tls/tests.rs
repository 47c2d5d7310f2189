use super::*;

fn reference(name: &str, from: Source) -> SecretRef {
    SecretRef::new(Dependency { name: name.into(), from, initial_fetch_timeout: None })
}

fn secret(content: SecretContent) -> Arc<Secret> {
    Arc::new(Secret { name: "s".into(), origin: crate::testing::origin("s"), content })
}

#[test]
fn secrets_of_two_sources_are_two() {
    assert_eq!(&*reference("a", Source::Ads).key, "a");
    assert_eq!(&*reference("a", Source::File("/x".into())).key, "a of the file /x");
    assert_eq!(&*reference("a", Source::Static).key, "a of static_resources");
}

#[test]
fn keys_are_not_shown() {
    let key = PrivateKey::new(PrivateKeyDer::Pkcs8(vec![0x41; 8].into()));
    let certificate = TlsCertificate {
        chain: vec![CertificateDer::from(vec![1])],
        key,
        path: "".into(),
        staple: None,
        must_staple: false,
    };
    let text = format!("{:?}", secret(SecretContent::Certificate(Arc::new(certificate))));
    assert!(text.contains("[redacted]") && !text.contains("65, 65"), "{text}");
}

#[test]
fn a_context_has_what_its_secrets_say() {
    let bundle = |byte: u8| {
        Trust::Bundle(Arc::new(Bundle { certificates: vec![CertificateDer::from(vec![byte])], path: "".into() }))
    };
    let default = ValidationContext { hashes: vec![[1; 32]], trust: bundle(1), ..ValidationContext::default() };
    let context = TlsContext {
        params: TlsParams::default(),
        certificates: Vec::new(),
        validation: Some(Arc::new(default)),
        validation_secret: Some(reference("ca", Source::Ads)),
        alpn: Vec::new(),
        ticket_keys: None,
        key_log: None,
    };
    assert_eq!(context.resolve(|_| None), Err(Unresolved::Missing("ca".into())));
    let dynamic = ValidationContext { hashes: vec![[2; 32]], trust: bundle(2), ..ValidationContext::default() };
    let found = secret(SecretContent::Validation(Arc::new(dynamic)));
    let resolved = context.resolve(|key| (key == "ca").then_some(&found)).unwrap();
    let validation = resolved.validation.unwrap();
    assert_eq!(validation.hashes, [[1; 32], [2; 32]]);
    assert_eq!(validation.trust, bundle(2));
    let key = PrivateKey::new(PrivateKeyDer::Pkcs8(vec![0; 8].into()));
    let wrong = TlsCertificate {
        chain: vec![CertificateDer::from(vec![1])],
        key,
        path: "".into(),
        staple: None,
        must_staple: false,
    };
    let wrong = secret(SecretContent::Certificate(Arc::new(wrong)));
    assert_eq!(context.resolve(|_| Some(&wrong)), Err(Unresolved::NoValidation("ca".into())));
}
