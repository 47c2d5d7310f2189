//! Several plugins in one VM: each has its root context, its configuration, its name, its streams and its end.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_stats::{Name, Value};
use outrigger_wasm::{
    Effect, HeadersAction, Plugin, RootId, StartError, StartMode, StartedVm, TrapKind, VmConfig, start, start_vm,
};

use crate::fixture::{Clusters, Fixture, OneVm, effects, guest, load, on, plugin, stream_of};

/// Another plugin of the same VM configuration.
fn another(name: &str, configuration: &'static str) -> Arc<Plugin> {
    Arc::new(Plugin {
        name: Arc::from(name),
        root_id: format!("root of {name}"),
        configuration: Bytes::from_static(configuration.as_bytes()),
        ..Plugin::clone(&plugin())
    })
}

/// Keeps the first letter of its configuration by root context, and shows it with each stream: memory is one, roots differ.
const BY_ROOT: &str = r#"
(func $at (param $context i32) (result i32) (i32.add #2048 (local.get $context)))
"#;

fn by_root() -> String {
    [
        BY_ROOT.to_owned(),
        on(
            "context_create",
            // A stream takes its root's letter.
            "(if (local.get 1) (then (i32.store8 (call $at (local.get 0)) (i32.load8_u (call $at (local.get 1))))))",
        ),
        on(
            "configure",
            r#"(drop (call $buffer #7 #0 #99 #32 #36))
               (if (i32.eq (i32.load8_u (i32.load #32)) %!) (then (return #0)))
               (if (i32.eq (i32.load8_u (i32.load #32)) %?) (then (unreachable)))
               (if (i32.eq (i32.load8_u (i32.load #32)) %+) (then
                 (i32.store #64 (i32.add (i32.load #64) #1))
                 (if (i32.gt_u (i32.load #64) #50) (then (unreachable)))))
               (i32.store8 (call $at (local.get 0)) (i32.load8_u (i32.load #32)))"#,
        ),
        on(
            "request_headers",
            r#"(drop (call $replace #0 @"x-letter" (call $at (local.get 0)) #1))
               (drop (call $property @"plugin_name" #32 #36)) (call $keep %n)
               (drop (call $property @"plugin_root_id" #32 #36)) (call $keep %r)"#,
        ),
        on("tick", "(drop (call $tick_period #70))"),
        on("delete", r#"(call $s %z (local.get 0))"#),
    ]
    .concat()
}

fn add(vm: &mut OneVm, plugin: &Arc<Plugin>) -> RootId {
    vm.add(plugin).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn plugins_of_one_vm_have_their_own_configuration_name_and_streams() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&by_root());
    let first = vm.root;
    let second = add(&mut vm, &another("second", "Second's"));
    assert_ne!(first.get(), second.get());
    let check = |vm: &mut OneVm, root, letter: &str, name: &str, root_id: &str| {
        let stream = stream_of(vm, root);
        assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
        assert_eq!(stream.header("x-letter"), letter);
        assert_eq!((stream.kept("n").as_deref(), stream.kept("r").as_deref()), (Some(name), Some(root_id)));
        effects(vm);
    };
    check(&mut vm, first, "p", "tested", "root");
    check(&mut vm, second, "S", "second", "root of second");
    check(&mut vm, first, "p", "tested", "root");
    assert_eq!(vm.roots().map(|(_, plugin)| plugin.name.to_string()).collect::<Vec<_>>(), ["tested", "second"]);
    let callbacks = |name: &str| {
        fixture.value(&Name::new("wasm", "callbacks").tag("wasm_plugin", name).tag("wasm_revision", "000000000000"))
    };
    let (Some(Value::Counter(of_first)), Some(Value::Counter(of_second))) = (callbacks("tested"), callbacks("second"))
    else {
        panic!("each has its count");
    };
    assert_eq!(of_first, 2 * of_second);
}

#[test]
fn a_changed_configuration_is_a_new_context_and_the_old_one_ends_by_itself() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&by_root());
    let old = vm.root;
    let running = stream_of(&mut vm, old);
    let new = add(&mut vm, &another("tested", "New"));
    let next = stream_of(&mut vm, new);
    vm.on_request_headers(running.id, true).expect("no trap");
    vm.on_request_headers(next.id, true).expect("no trap");
    assert_eq!((running.header("x-letter").as_str(), next.header("x-letter").as_str()), ("p", "N"));
    vm.delete_stream(running.id).expect("no trap");
    assert!(vm.shutdown() && vm.is_root_over(old) && !vm.is_root_over(new) && !vm.is_over());
    assert_eq!(fixture.statuses(), format!("z{}", old.get()), "the last that was deleted");
    assert!(vm.create_stream(next.state.clone()).is_err(), "the old one has no streams any more");
}

#[test]
fn a_refused_configuration_leaves_the_others_alone() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&by_root());
    let error = vm.add(&another("bad", "!")).expect_err("refused");
    assert!(matches!(error, StartError::ConfigurationRefused { .. }), "{error}");
    assert_eq!((vm.failed(), vm.roots().count()), (None, 1));
    let root = vm.root;
    let stream = stream_of(&mut vm, root);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(stream.header("x-letter"), "p");
}

#[test]
fn a_configuration_that_traps_takes_the_vm_and_says_whose_it_was() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&by_root());
    let error = vm.add(&another("bad", "?")).expect_err("traps");
    let StartError::Trap(trap) = &error else { panic!("{error}") };
    assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, "proxy_on_configure"));
    assert_eq!(vm.failed(), Some(trap));
    assert!(vm.add(&another("next", "n")).is_err());
    let name = Name::new("wasm", "traps")
        .tag("wasm_plugin", "bad")
        .tag("wasm_revision", "000000000000")
        .tag("kind", "unreachable");
    assert_eq!(fixture.value(&name), Some(Value::Counter(1)));
}

#[test]
fn ticks_and_calls_are_each_plugins_own() {
    let fixture = Fixture::new();
    let headers = r#"@"\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\01\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/\00:authority\00a\00""#;
    let body = [
        on("vm_start", "(drop (call $tick_period (i32.mul (local.get 0) #10)))"),
        on("tick", &format!(r#"(drop (call $http_call @"known" {headers} #0 #0 #0 #0 #9 #40))"#)),
        on("http_call_response", "(call $s %h (local.get 0))"),
    ]
    .concat();
    let mut vm = fixture.vm(&body);
    let (first, second) = (vm.root, add(&mut vm, &another("second", "2")));
    let period = |vm: &OneVm, root| outrigger_wasm::Vm::tick_period(vm, root).map(|period| period.as_millis());
    assert_eq!((period(&vm, first), period(&vm, second)), (Some(10), Some(20)));
    assert!(vm.take_ticks_changed() && !vm.take_ticks_changed());
    outrigger_wasm::Vm::on_tick(&mut vm, second).expect("no trap");
    let found = vm.take_effects();
    let [Effect::HttpCall(call)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(call.root, second);
    vm.on_http_call_response(call.token, outrigger_wasm::CallResponse::default()).expect("no trap");
    assert_eq!(fixture.statuses(), format!("h{}", second.get()));
    outrigger_wasm::Vm::on_tick(&mut vm, second).expect("no trap");
    let found = vm.take_effects();
    let [Effect::HttpCall(call)] = &found[..] else { panic!("{found:?}") };
    assert!(outrigger_wasm::Vm::shutdown(&mut vm, second));
    assert_eq!((period(&vm, first), period(&vm, second)), (Some(10), None));
    vm.on_http_call_response(call.token, outrigger_wasm::CallResponse::default()).expect("nobody waits any more");
    assert_eq!(fixture.statuses(), format!("h{}", second.get()));
}

#[test]
fn a_thousand_configurations_fit_into_one_vm() {
    let fixture = Fixture::new();
    let module = load(&guest(&by_root())).expect("loads");
    let mut ready = start(&module, &plugin(), &fixture.services, StartMode::Serving).expect("starts");
    let configurations: Vec<Arc<Plugin>> = (0..1000)
        .map(|index| Arc::new(Plugin { configuration: Bytes::from(format!("{index}")), ..Plugin::clone(&plugin()) }))
        .collect();
    for configuration in &configurations {
        ready.add(configuration).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut vm = ready.into_vm(std::rc::Rc::new(Clusters));
    let roots: Vec<RootId> = vm.roots().map(|(root, _)| root).collect();
    assert_eq!(roots.len(), 1001);
    assert_eq!(vm.memory_bytes(), 4 << 16, "the guest alone says what they cost");
    for (root, expected) in [(roots[1], "0"), (roots[1000], "9")] {
        let stream = stream_of(&mut vm, root);
        vm.on_request_headers(stream.id, true).expect("no trap");
        assert_eq!(stream.header("x-letter"), expected);
    }
    assert_eq!(
        fixture
            .value(&Name::new("wasm", "vm_active").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000")),
        Some(Value::Gauge(1))
    );
}

#[test]
fn what_makes_a_vm_another_one_is_in_its_configuration() {
    let base = VmConfig::default();
    let differ = |vm: VmConfig| assert_ne!(vm, base);
    differ(VmConfig { code: [1; 32], ..base.clone() });
    differ(VmConfig { vm_id: "x".to_owned(), ..base.clone() });
    differ(VmConfig { configuration: Bytes::from_static(b"x"), ..base.clone() });
    differ(VmConfig { environment: vec![("a".to_owned(), "b".to_owned())], ..base.clone() });
    differ(VmConfig { capabilities: Some(Default::default()), ..base.clone() });
    differ(VmConfig { isolation: outrigger_wasm::Isolation::Plugin(Arc::from("x")), ..base.clone() });
    assert_eq!(VmConfig { code: [0xab; 32], ..base }.revision(), "abababababab");
}

#[test]
fn statistics_of_revisions_that_are_gone_go() {
    let fixture = Fixture::new();
    let revision = |code: u8| {
        Arc::new(Plugin {
            vm: Arc::new(VmConfig { code: [code; 32], ..VmConfig::clone(&plugin().vm) }),
            ..Plugin::clone(&plugin())
        })
    };
    let shown = |code: u8| {
        let name = Name::new("wasm", "vm_created").tag("wasm_plugin", "tested");
        fixture.value(&name.tag("wasm_revision", revision(code).vm.revision())).is_some()
    };
    let run = |code: u8| {
        let plugin = revision(code);
        let labels = outrigger_wasm::PluginLabels::new(&fixture.services, &plugin);
        drop(fixture.start(&guest(""), &plugin).unwrap_or_else(|error| panic!("{error}")));
        labels
    };
    let stays = run(1);
    for code in 2..40 {
        drop(run(code));
        assert!(shown(code), "shown for a while");
    }
    assert!(shown(1) && !shown(2) && !shown(30) && shown(39));
    drop(stays);
    let again = run(1);
    (40..60).for_each(|code| drop(run(code)));
    assert!(shown(1), "one that comes back stays");
    drop(again);
}

/// What comes of plugins in one VM, by their configurations: how many are in it, why the others aren't, and how many VMs
/// were begun for it.
fn together(configurations: &[&'static str]) -> (usize, Vec<String>, u64) {
    let fixture = Fixture::new();
    let plugins = configurations.iter().map(|configuration| another("tested", configuration)).collect();
    let module = load(&guest(&by_root())).expect("a module");
    let StartedVm { vm, failed } = start_vm(&module, plugins, &fixture.services);
    let made = Name::new("wasm", "vm_created").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000");
    let Some(Value::Counter(begun)) = fixture.value(&made) else { panic!("no VM was begun") };
    let reasons = failed.into_iter().map(|(_, error)| error.to_string()).collect();
    (vm.map_or(0, |vm| vm.roots().count()), reasons, begun)
}

#[test]
fn who_refuses_is_left_out_of_the_same_vm_and_who_traps_was_never_in_it() {
    let (configured, reasons, begun) = together(&["a", "!", "b", "!", "!", "c"]);
    assert_eq!((configured, reasons.len(), begun), (3, 3, 1));
    assert!(reasons[0].starts_with("refused its configuration"), "{reasons:?}");
    let (configured, reasons, begun) = together(&["a", "?", "b", "?", "!", "c"]);
    assert_eq!((configured, reasons.len(), begun), (3, 3, 4), "the last one is named for one that is in it");
}

#[test]
fn nobody_stands_in_the_way_of_those_behind() {
    let behind = |others: &[&'static str]| together(&[others, &["a", "b", "c"]].concat());
    assert_eq!(together(&["!"; 100]).2, 1);
    let (configured, reasons, begun) = behind(&["!"; 100]);
    assert_eq!((configured, reasons.len(), begun), (3, 100, 2), "a VM is named for one that is in it");
    let (configured, reasons, begun) = behind(&["?"; 100]);
    assert_eq!((configured, reasons.len(), begun), (3, 100, 101));
    let spread: Vec<&'static str> = ["a", "?", "b", "!"].into_iter().cycle().take(400).collect();
    let (configured, reasons, _) = together(&spread);
    assert_eq!((configured, reasons.len()), (200, 200));
    assert!(reasons.iter().all(|reason| !reason.starts_with("was not tried")), "{reasons:?}");
}

#[test]
fn who_traps_for_its_company_leaves_the_others_a_vm() {
    // More than 50 are too many for it.
    let (configured, reasons, begun) = together(&["+"; 55]);
    assert_eq!((configured, reasons.len(), begun), (50, 5, 6));
    // So that nobody is tried for ever, though the VM takes all that it may.
    let (configured, reasons, begun) = together(&["+"; 100]);
    assert_eq!((configured, reasons.len(), begun), (50, 50, 17));
    assert_eq!(reasons.last().expect("50"), "was not tried: 16 others of its VM don't start");
}
