//! Foreign functions.

use std::time::Duration;

use outrigger_wasm::Limits;

use crate::fixture::{Fixture, guest, on, plugin, stream, with_limits};

#[test]
fn compression_goes_there_and_back_within_bounds() {
    let fixture = Fixture::new();
    let body = on(
        "configure",
        r#"(call $s %a (call $foreign @"compress" #0 #60000 #32 #36)) (call $s %b (i32.lt_u (i32.load #36) #2000))
           (call $s %c (call $foreign @"uncompress" (i32.load #32) (i32.load #36) #32 #36)) (call $s %d (i32.load #36))
           (call $s %e (call $foreign @"uncompress" @"rubbish" #32 #36))
           (call $s %f (call $foreign @"compress" #0 #0 #32 #36)) (call $s %g (i32.gt_u (i32.load #36) #0))
           (call $s %h (call $foreign @"uncompress" #0 #0 #32 #36))
           (call $s %i (call $foreign @"compress" #0 #70000 #32 #36))
           (call $s %j (call $foreign @"compress" #-8 #100 #32 #36))
           (call $s %k (call $foreign @"compress" #0 #100 #0 #0))
           (call $s %l (call $foreign @"compress" #0 #100 #-1 #36))
           ;; 100 KB of zeroes in 120 bytes.
           (call $s %m (call $foreign @"uncompress" @"\78\9c\ed\c1\01\0d\00\00\00\c2\a0\f7\4f\6d\0e\37\a0" #32 #36))"#,
    );
    let limits = Limits { body_buffer_bytes: 64 << 10, ..Limits::default() };
    let _vm = fixture.start(&guest(&body), &with_limits(limits)).expect("starts");
    assert_eq!(fixture.statuses(), "a0 b1 c0 d60000 e3 f0 g1 h3 i2 j6 k0 l6 m3");
}

#[test]
fn filter_state_is_of_known_keys_and_properties_are_declared_once() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on(
            "configure",
            r#"(call $s %a (call $foreign @"declare_property" @"\0a\04once\10\01" #0 #0))
               (call $s %b (call $foreign @"declare_property" @"\0a\04once" #0 #0))
               (call $s %c (call $foreign @"declare_property" @"\0a\ff" #0 #0))
               (call $s %d (call $foreign @"set_envoy_filter_state" @"\0a\0cenvoy.string\12\01v" #0 #0))"#,
        ),
        on(
            "request_headers",
            r#"(call $s %e (call $foreign @"set_envoy_filter_state" @"\0a\0cenvoy.string\12\01v\18\01" #0 #0))
               (call $s %f (call $foreign @"set_envoy_filter_state" @"\0a\05other\12\01v" #0 #0))
               (call $s %g (call $foreign @"set_envoy_filter_state" @"\ff" #0 #0))
               (call $s %h (call $property @"filter_state\00envoy.string" #32 #36))
               (call $s %i (call $set_property @"once" @"1")) (call $s %j (call $set_property @"once" @"2"))
               (call $s %k (call $set_property @"often" @"1")) (call $s %l (call $set_property @"often" @"2"))
               (call $s %m (call $property @"once" #32 #36)) (call $s %n (i32.load8_u (i32.load #32)))"#,
        ),
    ]
    .concat());
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2 c2 d1 e0 f1 g2 h0 i0 j2 k0 l0 m0 n49");
    assert!(stream.state.borrow().info.extras().filter_state.contains_key("envoy.string"));
}

/// Creates an expression, evaluates it and keeps the value under `letter`.
fn evaluate(expression: &str, letter: char) -> String {
    format!(
        r#"(drop (call $foreign @"expr_create" @"{expression}" #32 #36)) (i32.store #48 (i32.load (i32.load #32)))
           (i32.store #32 #0) (i32.store #36 #0)
           (drop (call $foreign @"expr_evaluate" #48 #4 #32 #36)) (call $keep %{letter})"#
    )
}

#[test]
fn expressions_are_evaluated() {
    let fixture = Fixture::new();
    let body: String = [
        ("request.path.startsWith('/path')", 'a'),
        ("request.headers['accept'] + request.method", 'b'),
        ("request.headers['x-a'] == '1,2' ? 'joined' : 'not'", 'c'),
        ("request.query.matches('^q[a-z]+$')", 'd'),
        ("plugin_name", 'e'),
        ("node.metadata.NAME + xds.cluster_name", 'f'),
        ("request.nothing", 'g'),
        ("size(request.headers) > 3", 'h'),
    ]
    .map(|(expression, letter)| evaluate(expression, letter))
    .concat();
    // Built for debugging, a parser takes its time.
    let plugin = with_limits(Limits { callback_timeout: Duration::from_secs(5), ..Limits::default() });
    let mut vm = fixture
        .start(
            &guest(
                &[
                    on(
                        "configure",
                        r#"(call $s %a (call $foreign @"expr_create" @"1 +" #32 #36))
               (call $s %b (call $foreign @"expr_evaluate" @"\ff\ff\00\00" #32 #36))
               (call $s %c (call $foreign @"expr_evaluate" @"\00" #32 #36))
               (call $s %d (call $foreign @"expr_create" @"request.path" #32 #36))
               (i32.store #48 (i32.load (i32.load #32)))
               (call $s %e (call $foreign @"expr_evaluate" #48 #4 #32 #36))
               (call $s %f (call $foreign @"expr_delete" #48 #4 #0 #0))
               (call $s %g (call $foreign @"expr_evaluate" #48 #4 #32 #36))
               (call $s %h (call $foreign @"expr_delete" #48 #3 #0 #0))"#,
                    ),
                    on("request_headers", &body),
                ]
                .concat(),
            ),
            &plugin,
        )
        .expect("starts");
    assert_eq!(fixture.statuses(), "a2 b1 c2 d0 e10 f0 g1 h2");
    let stream = stream(&mut vm);
    stream.state.borrow_mut().info.cluster_name = Some("cluster".into());
    vm.on_request_headers(stream.id, true).expect("no trap");
    let kept = |letter| stream.kept(letter);
    assert_eq!(kept("a").as_deref(), Some("\u{1}"));
    assert_eq!(kept("b").as_deref(), Some("*/*GET"));
    assert_eq!(kept("c").as_deref(), Some("joined"));
    assert_eq!(kept("d").as_deref(), Some("\u{1}"));
    assert_eq!(kept("e").as_deref(), Some("tested"));
    assert_eq!(kept("f").as_deref(), Some("node-namecluster"));
    assert_eq!(kept("g").as_deref(), Some(""));
    assert_eq!(kept("h").as_deref(), Some("\u{1}"));
}

/// A field of a message: `tag len bytes` in WebAssembly text.
fn field(number: u8, bytes: &[u8]) -> String {
    let mut out = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).expect("seven bits"));
    out.extend_from_slice(bytes);
    out.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn what_is_signed_verifies() {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    let private = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let private_der = private.to_pkcs8v1().expect("pkcs8");
    let public_der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(private.public_key()).expect("spki");
    let (hash, text) = (field(1, b"SHA256"), field(3, b"text"));
    let private_pem = field(4, pem("PRIVATE KEY", private_der.as_ref()).as_bytes());
    let public_pem = field(5, pem("PUBLIC KEY", public_der.as_ref()).as_bytes());
    let (private_key, public_key) = (field(2, private_der.as_ref()), field(2, public_der.as_ref()));
    let fixture = Fixture::new();
    // The signature of the answer (field 2) is copied behind the other fields as field 3.
    let verify = |letters: [char; 3], arguments: &str, text: &str| {
        format!(
            r#"(i32.store #60 (i32.load8_u (i32.add (i32.load #56) #3)))
               (memory.copy #4096 @"{arguments}{}")
               (i32.store #52 (i32.add #4096 (i32.const {})))
               (i32.store8 (i32.load #52) #26) (i32.store8 (i32.add (i32.load #52) #1) (i32.load #60))
               (memory.copy (i32.add (i32.load #52) #2) (i32.add (i32.load #56) #4) (i32.load #60))
               (call $s %{} (call $foreign @"verify_signature" #4096
                 (i32.add (i32.sub (i32.load #52) #4096) (i32.add #2 (i32.load #60))) #32 #36))
               (call $s %{} (i32.load8_u (i32.load #32))) (call $s %{} (i32.load8_u (i32.add (i32.load #32) #1)))"#,
            field(4, text.as_bytes()),
            (arguments.len() + field(4, text.as_bytes()).len()) / 3,
            letters[0],
            letters[1],
            letters[2],
        )
    };
    let body = format!(
        r#"(call $s %a (call $foreign @"sign" @"{hash}{text}{private_key}" #56 #36))
           (call $s %b (i32.load16_u (i32.load #56)))
           {}{}
           (call $s %i (call $foreign @"sign" @"{hash}{text}{private_pem}" #56 #36))
           {}
           (call $s %m (call $foreign @"sign" @"{hash}{text}{private_pem}{private_key}" #32 #36))
           (call $s %n (call $foreign @"sign" @"{hash}{text}" #32 #36))
           (call $s %o (call $foreign @"sign" @"rubbish" #32 #36))
           (call $s %p (call $foreign @"sign" @"{}{text}{private_key}" #32 #36))
           (call $s %q (i32.load8_u (i32.load #32)))
           (call $s %r (call $foreign @"sign" @"{hash}{text}{}" #32 #36))"#,
        verify(['c', 'd', 'e'], &format!("{hash}{public_key}"), "text"),
        verify(['f', 'g', 'h'], &format!("{hash}{public_key}"), "other"),
        verify(['j', 'k', 'l'], &format!("{hash}{public_pem}"), "text"),
        field(1, b"md5"),
        field(2, b"no key"),
    );
    let _vm = fixture.start(&guest(&on("configure", &body)), &plugin()).expect("starts");
    // `08 01`: it worked. `12`: an error, and no result. `1a`: an error and no signature.
    assert_eq!(fixture.statuses(), "a0 b264 c0 d8 e1 f0 g18 h24 i0 j0 k8 l1 m2 n2 o2 p0 q26 r2");
}
