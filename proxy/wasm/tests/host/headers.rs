//! Header maps and trailers.

use outrigger_http::{HeaderName, Headers};
use outrigger_wasm::{Effect, HeadersAction, TrailersAction};

use crate::fixture::{Fixture, effects, on, stream};

#[test]
fn request_headers_are_read_and_changed() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        r#"(call $s %a (call $get #0 @"X-A" #32 #36)) (call $keep %a)
           (call $s %b (call $get #0 @":path" #32 #36)) (call $keep %b)
           (call $s %c (call $get #0 @"host" #32 #36)) (call $keep %c)
           (call $s %d (call $get #0 @"missing" #32 #36))
           (call $s %e (call $add #0 @"X-New" @"one"))
           (call $s %f (call $add #0 @"x-new" @"two"))
           (call $s %g (call $replace #0 @"x-a" @"only"))
           (call $s %h (call $remove #0 @"accept"))
           (call $s %i (call $remove #0 @"missing"))
           (call $s %j (call $replace #0 @":path" @"/other"))
           (call $s %k (call $size #0 #40))
           (call $s %l (i32.load #40))
           (call $s %m (local.get 1))"#,
    ));
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
    let bytes = ":authority:path:method:scheme".len() + "example/otherGEThttp".len() + "x-aonlyx-newonex-newtwo".len();
    assert_eq!(fixture.statuses(), format!("a0 b0 c0 d1 e0 f0 g0 h0 i0 j0 k0 l{bytes} m7"));
    assert_eq!(stream.kept("a").as_deref(), Some("1"));
    assert_eq!(stream.kept("b").as_deref(), Some("/path?query"));
    assert_eq!(stream.kept("c").as_deref(), Some("example"));
    assert_eq!(
        (stream.header("x-a"), stream.header("x-new"), stream.header("accept")),
        ("only".into(), "one|two".into(), String::new())
    );
    assert_eq!(stream.state.borrow().request.path, "/other");
    assert_eq!(effects(&mut vm), ["route"], "the route is selected again, once");
}

#[test]
fn invalid_names_values_and_pointers_are_refused() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        r#"(call $s %a (call $add #0 @"x" @"a\0d\0ab"))
           (call $s %b (call $add #0 @"x" @"\00"))
           (call $s %c (call $add #0 @"x y" @"1"))
           (call $s %d (call $add #0 #0 #0 @"1"))
           (call $s %e (call $replace #0 @":method" @"G T"))
           (call $s %f (call $replace #0 @":status" @"200"))
           (call $s %g (call $add #9 @"x" @"1"))
           (call $s %h (call $add #0 #-1 #1 @"1"))
           (call $s %i (call $add #0 @"x" #262143 #2))
           (call $s %j (call $get #0 @"x-a" #262141 #36))
           (call $s %k (call $get #0 @"x-a" #32 #-4))
           (call $s %l (call $get #0 #-4 #-1 #32 #36))
           (call $s %m (call $get #99 @"x-a" #32 #36))
           (call $s %n (call $set_pairs #0 @"rubbish"))
           (call $s %o (call $size #77 #40))
           (call $s %p (call $get #0 @"x-a" #32 #36))"#,
    ));
    let stream = stream(&mut vm);
    let before = stream.state.borrow().request.clone();
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
    assert_eq!(fixture.statuses(), "a2 b2 c2 d2 e2 f2 g2 h6 i6 j6 k6 l6 m1 n2 o2 p0");
    assert_eq!(stream.state.borrow().request, before);
    assert!(!vm.has_effects());
}

#[test]
fn pairs_are_given_and_taken() {
    let fixture = Fixture::new();
    // Two pairs: x=1 and :path=/p, then the request's own map back as it was given.
    let list = r#"@"\02\00\00\00\01\00\00\00\01\00\00\00\05\00\00\00\02\00\00\00x\001\00:path\00/p\00""#;
    let body = format!(
        r#"(call $s %a (call $pairs #0 #32 #36)) (call $keep %a)
           (call $s %b (call $set_pairs #0 {list}))
           (call $s %c (call $pairs #2 #32 #36)) (call $s %d (i32.or (i32.load #32) (i32.load #36)))
           (call $s %e (call $pairs #1 #32 #36)) (call $s %f (i32.load #36))"#
    );
    let mut vm = fixture.vm(&on("request_headers", &body));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e0 f0");
    let given = stream.kept("a").expect("kept");
    let position = |text: &str| given.find(text).unwrap_or_else(|| panic!("{text} in {given:?}"));
    assert!(given.starts_with('\u{7}'));
    assert!(position(":authority\0example\0") < position(":path\0/path?query\0"));
    assert!(position(":scheme\0http\0") < position("x-a\x001\0") && position("x-a\x001\0") < position("x-a\x002\0"));
    let state = stream.state.borrow();
    assert_eq!((&state.request.path[..], &state.request.authority[..]), (&b"/p"[..], &b"example"[..]));
    assert_eq!(state.request.headers.len(), 1);
}

#[test]
fn maps_are_closed_outside_of_their_phase() {
    let fixture = Fixture::new();
    let probe = |letters: [char; 3]| {
        let [a, b, c] = letters;
        format!(
            r#"(call $s %{a} (call $get #0 @"x-a" #32 #36))
               (call $s %{b} (call $add #0 @"x-b" @"1"))
               (call $s %{c} (call $add #2 @"x-b" @"1"))"#
        )
    };
    let mut vm = fixture.vm(&[
        on("context_create", &probe(['a', 'b', 'c'])),
        on("request_headers", &probe(['d', 'e', 'f'])),
        on("request_body", &probe(['g', 'h', 'i'])),
        on("response_headers", &probe(['j', 'k', 'l'])),
        on("log", &probe(['m', 'n', 'o'])),
    ]
    .concat());
    let stream = stream(&mut vm);
    assert_eq!(fixture.statuses(), "a1 b2 c2");
    vm.on_request_headers(stream.id, false).expect("no trap");
    vm.on_request_body(stream.id, true).expect("no trap");
    stream.respond(200);
    vm.on_response_headers(stream.id, true).expect("no trap");
    vm.on_log(stream.id).expect("no trap");
    assert_eq!(fixture.statuses(), "a1 b2 c2 d0 e0 f2 g1 h2 i2 j1 k2 l0 m0 n2 o2");
}

#[test]
fn held_headers_stay_open_until_they_go_on() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("request_headers", "(return #1)"),
        on(
            "tick",
            r#"(call $s %a (call $effective #2))
                   (call $s %b (call $add #0 @"x-late" @"1"))
                   (call $s %c (call $continue #0))
                   (call $s %d (call $add #0 @"x-too-late" @"1"))"#,
        ),
        on("vm_start", "(drop (call $tick_period #1000))"),
    ]
    .concat());
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::StopAllIterationAndWatermark));
    vm.on_tick().expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d2");
    assert_eq!((stream.header("x-late"), stream.header("x-too-late")), ("1".into(), String::new()));
    assert_eq!(effects(&mut vm), ["route", "continue Request"]);
}

#[test]
fn headers_that_went_on_by_their_own_callback_are_closed() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("request_headers", r#"(drop (call $continue #0)) (call $s %a (call $add #0 @"x-b" @"1")) (return #1)"#),
        on("request_body", r#"(call $s %b (call $add #0 @"x-b" @"2"))"#),
    ]
    .concat());
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, false).expect("no trap");
    assert_eq!(effects(&mut vm), ["route", "continue Request"]);
    vm.on_request_body(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2");
}

#[test]
fn response_headers_show_the_status_first() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "response_headers",
        r#"(call $s %a (call $get #2 @":status" #32 #36)) (call $keep %a)
           (call $s %b (call $replace #2 @":status" @"418"))
           (call $s %c (call $replace #2 @":status" @"99"))
           (call $s %d (call $replace #2 @"server" @"me"))
           (call $s %e (local.get 1))"#,
    ));
    let stream = stream(&mut vm);
    stream.respond(200);
    assert_eq!(vm.on_response_headers(stream.id, false), Ok(HeadersAction::Continue));
    assert_eq!(fixture.statuses(), "a0 b0 c2 d0 e2");
    assert_eq!(stream.kept("a").as_deref(), Some("200"));
    let state = stream.state.borrow();
    let head = state.response.as_ref().expect("there");
    assert_eq!((head.status, head.headers.get(&HeaderName::SERVER).map(|v| &v[..])), (418, Some(&b"me"[..])));
    assert!(!vm.has_effects(), "a response's head does not bear on the route");
}

#[test]
fn trailers_are_read_and_made_by_the_last_body_callback() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("request_body", r#"(call $s %a (call $add #1 @"x-sum" @"7"))"#),
        on("response_trailers", r#"(call $s %b (call $get #3 @"grpc-status" #32 #36)) (call $keep %b) (return #9)"#),
    ]
    .concat());
    let stream = stream(&mut vm);
    vm.on_request_body(stream.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a2");
    vm.on_request_body(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0");
    assert_eq!(stream.state.borrow().request_trailers.as_ref().map(Headers::len), Some(1));
    let mut trailers = Headers::new();
    trailers.append(HeaderName::GRPC_STATUS, bytes::Bytes::from_static(b"0"));
    stream.state.borrow_mut().response_trailers = Some(trailers);
    assert_eq!(vm.on_response_trailers(stream.id), Ok(TrailersAction::StopIteration));
    assert_eq!(stream.kept("b").as_deref(), Some("0"));
}

#[test]
fn lists_that_are_none_change_nothing() {
    let fixture = Fixture::new();
    // Counts, lengths and ends that are not what follows.
    let lists = [
        r"\02\00\00\00\01\00\00\00\01\00\00\00x\001\00",
        r"\ff\ff\ff\ff\01\00\00\00\01\00\00\00x\001\00",
        r"\01\00\00\00\ff\ff\ff\7f\01\00\00\00x\001\00",
        r"\01\00\00\00\01\00\00\00\02\00\00\00x\001\00",
        r"\01\00\00\00\01\00\00\00\01\00\00\00x\001\00\00",
        r"\01\00\00\00\01\00\00\00\01\00\00\00x\001",
        r"\01\00",
    ];
    let mut letters = 'a'..='z';
    let mut letter = || letters.next().expect("26 are enough");
    let body: String = lists
        .iter()
        .map(|list| {
            format!(
                r#"(call $s %{} (call $set_pairs #0 @"{list}"))
                   (call $s %{} (call $http_call @"known" @"{list}" #0 #0 #0 #0 #1000 #40))
                   (call $s %{} (call $reply #403 #0 #0 #0 #0 @"{list}" #-1))"#,
                letter(),
                letter(),
                letter()
            )
        })
        .collect();
    let mut vm = fixture.vm(&on("request_headers", &body));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, false).expect("no trap");
    // A reply takes them for empty ones: SDKs know no other status of it than Ok.
    let expected: Vec<String> =
        ('a'..='u').zip([2, 2, 0].into_iter().cycle()).map(|(letter, status)| format!("{letter}{status}")).collect();
    assert_eq!(fixture.statuses(), expected.join(" "));
    let asked = vm.take_effects();
    let [Effect::LocalReply { reply, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((reply.status, reply.headers.len()), (403, 0));
    assert_eq!(stream.state.borrow().request.headers.len(), 3);
}

#[test]
fn headers_of_a_guest_are_bounded() {
    let fixture = Fixture::new();
    let body = r#"(local i32) (memory.fill #140000 %x #100000)
        (call $s %a (call $add #0 @"x-large" #140000 #60000)) (call $s %b (call $add #0 @"x-larger" #140000 #60000))
        (call $s %c (call $add #0 #140000 #60000 @"1")) (call $s %d (call $replace #0 @"x-a" #140000 #100000))
        (local.set 3 #300)
        (loop (call $s %e (call $add #0 @"x-many" @"1")) (br_if 0 (local.tee 3 (i32.sub (local.get 3) #1))))
        (call $s %f (call $replace #0 @"x-a" @"3")) (i32.store8 #140000 #47)
        (call $s %g (call $replace #0 @":path" #140000 #70000)) (call $s %h (call $replace #0 @":path" #140000 #60000))"#;
    let mut vm = fixture.vm(&on("request_headers", body));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2 c2 d2 e2 f0 g2 h0", "64 KiB and 200 entries");
    assert_eq!(stream.state.borrow().request.headers.len(), 199, "of two x-a one is left");
    assert_eq!(stream.header("x-a"), "3");
}

#[test]
fn a_value_that_grows_by_what_is_added_is_bounded() {
    let fixture = Fixture::new();
    let body = r#"(memory.fill #140000 %x #65300) (call $s %a (call $replace #0 @"accept" #140000 #65300))
        (call $s %b (call $add #0 @"accept" #140000 #500))"#;
    let mut vm = fixture.vm(&on("request_headers", body));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2", "values that are joined are no entry more, and bytes all the same");
    assert_eq!(stream.header("accept").len(), 65_300);
}
