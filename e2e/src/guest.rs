//! Guests for the conformance tests, assembled from a script: which hostcalls a callback makes, in order. Each call reports
//! its status, and what it gave, in a log line, so that what two proxies answered can be compared.
//!
//! ```text
//! request_headers:                          the callback, `proxy_on_` left out
//!   get_header_map_value 0 ':path' *v       the hostcall, `proxy_` left out
//!   return 1
//! ```
//!
//! Arguments: `7` and `-1` are i32, `7L` is i64, `'text'` is a pointer and a length (escapes: `\xNN`), `{a=b;c=d}` is an
//! encoded list of pairs, `*v` are places for a pointer and a length (what lies there is reported), `*n` is a place for a
//! number (reported), `*w` for one of 64 bits (not reported), `$n` and `$w` are the numbers that lie there, `$v` the
//! pointer and length, `$context` the last stream's context, `$1` the callback's second argument. `args` instead of a hostcall
//! reports the callback's arguments but for the context, `until_end` pauses a body callback
//! until the last one, `if_data` ends a data callback that has only the end, `repeat N hostcall …` calls without a report, `grow N` takes so many
//! pages of memory and traps without them, `trap` and `loop` do what they say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a log line of a guest begins and ends with.
const BEGIN: &str = "REPORT ";
const END: &str = " END";

/// Where hostcalls put what they give: pointer, length, number.
const PTR: usize = 32;
const LEN: usize = 36;
const NUMBER: usize = 40;
const WIDE: usize = 48;
/// Texts are put from here on, up to the report's buffer.
const TEXTS_AT: usize = 1024;
const REPORT_AT: usize = 65536;

const RUNTIME: &str = r#"
(memory (export "memory") 16)
(global $heap (mut i32) (i32.const 131072))
(global $at (mut i32) (i32.const 0))
(global $context (mut i32) (i32.const 0))
(func (export "malloc") (param $n i32) (result i32)
  (if (i32.gt_u (i32.add (global.get $heap) (local.get $n)) (i32.const 1040000)) (then (global.set $heap (i32.const 131072))))
  (global.get $heap)
  (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $n)) (i32.const 15)) (i32.const -8))))
(func $byte (param $b i32)
  (if (i32.lt_u (global.get $at) (i32.const 70000)) (then
    (i32.store8 (global.get $at) (local.get $b))
    (global.set $at (i32.add (global.get $at) (i32.const 1))))))
(func $text (param $p i32) (param $n i32)
  (loop $l (if (local.get $n) (then
    (call $byte (i32.load8_u (local.get $p)))
    (local.set $p (i32.add (local.get $p) (i32.const 1)))
    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
    (br $l)))))
(func $number (param $n i32)
  (if (i32.ge_u (local.get $n) (i32.const 10)) (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
  (call $byte (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
(func $digit (param $n i32)
  (call $byte (i32.add (local.get $n) (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $n) (i32.const 10))))))
(func $escaped (param $p i32) (param $n i32) (local $b i32)
  (loop $l (if (local.get $n) (then
    (local.set $b (i32.load8_u (local.get $p)))
    (if (i32.and (i32.gt_u (local.get $b) (i32.const 32)) (i32.lt_u (local.get $b) (i32.const 127)))
      (then (call $byte (local.get $b)))
      (else (call $byte (i32.const 37)) (call $digit (i32.shr_u (local.get $b) (i32.const 4)))
        (call $digit (i32.and (local.get $b) (i32.const 15)))))
    (local.set $p (i32.add (local.get $p) (i32.const 1)))
    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
    (br $l)))))
(func $begin (param $p i32) (param $n i32)
  (global.set $at (i32.const 65536))
  (call $text (local.get $p) (local.get $n)))
(func $end
  (call $byte (i32.const 32)) (call $byte (i32.const 69)) (call $byte (i32.const 78)) (call $byte (i32.const 68))
  (drop (call $report_log (i32.const 2) (i32.const 65536) (i32.sub (global.get $at) (i32.const 65536)))))
"#;

/// A callback's parameters, and whether it has a result.
fn shape(callback: &str, abi: &str) -> (usize, bool) {
    match callback {
        "request_headers" | "response_headers" if abi == "0_1_0" => (2, true),
        "request_headers" | "response_headers" | "request_body" | "response_body" | "downstream_data"
        | "upstream_data" => (3, true),
        "request_trailers" | "response_trailers" | "vm_start" | "configure" => (2, true),
        "done" | "new_connection" => (1, true),
        "tick" | "log" | "delete" => (1, false),
        "http_call_response" => (5, false),
        "grpc_receive_initial_metadata" | "grpc_receive" | "grpc_receive_trailing_metadata" | "grpc_close" => {
            (3, false)
        }
        _ => (2, false),
    }
}

/// A guest under construction.
#[derive(Debug)]
struct Assembler<'a> {
    case: &'a str,
    imports: BTreeMap<String, String>,
    data: String,
    texts_at: usize,
}

/// The module in text form. `abi` is the version of the marker, such as `0_2_1`.
pub fn assemble(case: &str, abi: &str, script: &str) -> String {
    let mut assembler = Assembler { case, imports: BTreeMap::new(), data: String::new(), texts_at: TEXTS_AT };
    let mut functions = String::new();
    let mut body: Option<(String, String, usize)> = None;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(callback) = line.strip_suffix(':') {
            functions += &body.take().map(|(name, code, _)| function(&name, abi, &code)).unwrap_or_default();
            body = Some((callback.to_owned(), String::new(), 0));
        } else if let Some((callback, code, index)) = &mut body {
            *code += &assembler.line(callback, *index, line, shape(callback, abi).0);
            *index += 1;
        }
    }
    functions += &body.map(|(name, code, _)| function(&name, abi, &code)).unwrap_or_default();
    if !script.contains("delete:") {
        // Every stream says when it is over, so that a test knows what it waits for.
        let code = assembler.line("delete", 0, "args", 1);
        functions += &function("delete", abi, &code);
    }
    let imports: String = assembler.imports.values().map(String::as_str).collect();
    format!(
        "(module (import \"env\" \"proxy_log\" (func $report_log (param i32 i32 i32) (result i32))) {imports} {RUNTIME} \
         (func (export \"proxy_abi_version_{abi}\")) {functions} {})",
        assembler.data
    )
}

fn function(callback: &str, abi: &str, code: &str) -> String {
    let (params, result) = shape(callback, abi);
    let (ty, default) = match (result, callback) {
        (false, _) => ("", ""),
        (true, "vm_start" | "configure" | "done") => ("(result i32)", "(i32.const 1)"),
        (true, _) => ("(result i32)", "(i32.const 0)"),
    };
    // Streams are numbered by their callbacks; those of roots leave the last stream's number.
    let of_stream = callback.starts_with("request") || callback.starts_with("response") || callback == "new_connection";
    let remember = if of_stream { "(global.set $context (local.get 0))" } else { "" };
    format!(
        "(func (export \"proxy_on_{callback}\") (param {}) {ty} (local $status i32) {remember} {code} {default})\n",
        "i32 ".repeat(params)
    )
}

impl Assembler<'_> {
    /// A text in memory: pointer and length.
    fn text(&mut self, bytes: &[u8]) -> String {
        let at = self.texts_at;
        assert!(at + bytes.len() < REPORT_AT, "the texts of {} take too much room", self.case);
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = write!(self.data, "(data (i32.const {at}) \"{escaped}\")");
        self.texts_at += bytes.len().max(1);
        format!("(i32.const {at}) (i32.const {})", bytes.len())
    }

    fn line(&mut self, callback: &str, index: usize, line: &str, params: usize) -> String {
        let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let prefix = format!("{BEGIN}{}|{callback}.{index} {name}=", self.case);
        let prefix = self.text(prefix.as_bytes());
        match name {
            "return" => return format!("(return (i32.const {arguments}))"),
            // Body callbacks: keep what came until all is there.
            "until_end" => return "(if (i32.eqz (local.get 2)) (then (return (i32.const 1))))".to_owned(),
            // Data callbacks: nothing came but the end.
            "if_data" => return "(if (i32.eqz (local.get 1)) (then (return (i32.const 0))))".to_owned(),
            "grow" => {
                return format!(
                    "(if (i32.eq (memory.grow (i32.const {arguments})) (i32.const -1)) (then (unreachable)))"
                );
            }
            "trap" => return "(unreachable)".to_owned(),
            "loop" => return "(loop $forever (br $forever))".to_owned(),
            "args" => {
                let numbers: String = (1..params)
                    .map(|at| format!("(call $number (local.get {at})) (call $byte (i32.const 32))"))
                    .collect();
                return format!("(call $begin {prefix}) {numbers} (call $end)\n");
            }
            _ => {}
        }
        if let ("repeat", Some((times, call))) = (name, arguments.split_once(' ')) {
            return self.repeated(times, call);
        }
        let mut pushes = String::new();
        let mut types = Vec::new();
        let mut shown = String::new();
        for token in tokens(arguments) {
            let (push, ty) = self.argument(&token);
            pushes.push_str(&push);
            types.push(ty);
            match token.as_str() {
                "*v" => {
                    shown += &format!(
                        "(call $byte (i32.const 32)) (call $escaped (i32.load (i32.const {PTR})) (i32.load (i32.const {LEN})))"
                    );
                }
                "*n" => shown += &format!("(call $byte (i32.const 32)) (call $number (i32.load (i32.const {NUMBER})))"),
                _ => {}
            }
        }
        self.import(name, &types);
        format!(
            "(local.set $status (call ${name} {pushes})) (call $begin {prefix}) (call $number (local.get $status)) \
             (if (i32.eqz (local.get $status)) (then {shown})) (call $end)\n"
        )
    }

    fn import(&mut self, name: &str, types: &[String]) {
        let types = types.join(" ");
        let (module, import) = match name.strip_prefix("wasi.") {
            Some(function) => ("wasi_snapshot_preview1", function.to_owned()),
            None => ("env", format!("proxy_{name}")),
        };
        self.imports.entry(name.to_owned()).or_insert_with(|| {
            format!("(import \"{module}\" \"{import}\" (func ${name} (param {types}) (result i32)))")
        });
    }

    /// A hostcall many times, without a report. A text's first byte counts, so that names differ.
    fn repeated(&mut self, times: &str, call: &str) -> String {
        let (name, arguments) = call.split_once(' ').unwrap_or((call, ""));
        let (mut pushes, mut types, mut first_text) = (String::new(), Vec::new(), None);
        for token in tokens(arguments) {
            if token.starts_with('\'') && token.len() > 6 {
                first_text.get_or_insert(self.texts_at);
            }
            let (push, ty) = self.argument(&token);
            pushes.push_str(&push);
            types.push(ty);
        }
        self.import(name, &types);
        // Digits of the count, as letters that a header's name may hold.
        let letters: String = first_text.map_or_else(String::new, |at| {
            (0..4)
                .map(|digit| {
                    format!(
                        "(i32.store8 (i32.const {}) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $status) \
                         (i32.const {})) (i32.const 15))))",
                        at + digit,
                        digit * 4
                    )
                })
                .collect()
        });
        format!(
            "(local.set $status (i32.const {times})) (loop $again {letters} (drop (call ${name} {pushes})) \
             (br_if $again (local.tee $status (i32.sub (local.get $status) (i32.const 1)))))"
        )
    }

    /// What an argument pushes, and of which types.
    fn argument(&mut self, token: &str) -> (String, String) {
        let (i32_, two) = ("i32".to_owned(), "i32 i32".to_owned());
        if let Some(text) = token.strip_prefix('\'') {
            return (self.text(&unescape(text.trim_end_matches('\''))), two);
        }
        if let Some(pairs) = token.strip_prefix('{') {
            let encoded = encode_pairs(pairs.trim_end_matches('}'));
            return (self.text(&encoded), two);
        }
        match token {
            "*v" => (format!("(i32.const {PTR}) (i32.const {LEN})"), two),
            "*n" => (format!("(i32.const {NUMBER})"), i32_),
            "*w" => (format!("(i32.const {WIDE})"), i32_),
            "$w" => (format!("(i32.load (i32.const {WIDE}))"), i32_),
            "$n" => (format!("(i32.load (i32.const {NUMBER}))"), i32_),
            "$v" => (format!("(i32.load (i32.const {PTR})) (i32.load (i32.const {LEN}))"), two),
            "$context" => ("(global.get $context)".to_owned(), i32_),
            "$1" => ("(local.get 1)".to_owned(), i32_),
            number => match number.strip_suffix('L') {
                Some(wide) => (format!("(i64.const {wide})"), "i64".to_owned()),
                None => (format!("(i32.const {number})"), i32_),
            },
        }
    }
}

/// Arguments, split at spaces outside texts and pairs.
fn tokens(arguments: &str) -> Vec<String> {
    let (mut tokens, mut token, mut closing) = (Vec::new(), String::new(), None);
    for c in arguments.chars() {
        match (closing, c) {
            (None, ' ') => {
                if !token.is_empty() {
                    tokens.push(std::mem::take(&mut token));
                }
                continue;
            }
            (None, '\'') => closing = Some('\''),
            (None, '{') => closing = Some('}'),
            (Some(end), c) if c == end => closing = None,
            _ => {}
        }
        token.push(c);
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    tokens
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(1..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, after.first(), digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'\\', Some(b'x'), Some(byte)) => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// `a=b;c=d` in the ABI's encoding.
fn encode_pairs(pairs: &str) -> Vec<u8> {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (unescape(key), unescape(value)))
        .collect();
    let number = |len: usize| u32::try_from(len).unwrap_or_default().to_le_bytes();
    let mut out = number(pairs.len()).to_vec();
    for (key, value) in &pairs {
        out.extend(number(key.len()));
        out.extend(number(value.len()));
    }
    for (key, value) in &pairs {
        out.extend(key);
        out.push(0);
        out.extend(value);
        out.push(0);
    }
    out
}

/// What the guests of each case reported in a proxy's log: `callback.index hostcall=status value`, each line once, in the
/// order in which it first came. (A root's callbacks run in a canary and on each worker.)
pub fn reports(log: &str) -> BTreeMap<String, Vec<String>> {
    let mut cases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in log.lines() {
        let Some((_, report)) = line.split_once(BEGIN) else { continue };
        let Some((report, _)) = report.split_once(END) else { continue };
        let Some((case, report)) = report.split_once('|') else { continue };
        let lines = cases.entry(case.to_owned()).or_default();
        if !lines.iter().any(|known| known == report) {
            lines.push(report.to_owned());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_assemble() {
        let script = "configure:\n  repeat 9 add_header_map_value 0 'aaaa-name' 'v'\nrequest_headers:\n  get_header_map_value 0 ':path' *v\n  set_header_map_pairs 0 {a=b;c=\\x00}\n  increment_metric $n -5L\n  args\n  return 1\nlog:\n  log 9 'a b'\n";
        let text = assemble("case", "0_1_0", script);
        wat::parse_str(&text).expect("it assembles");
        assert!(text.contains("proxy_on_delete"));
        assert_eq!(unescape("a\\x0d\\x0ab"), b"a\r\nb");
        assert_eq!(encode_pairs("a=bc"), b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0");
        let log = "x REPORT a|log.0 log=2 END tail\ny REPORT a|log.0 log=2 END\nREPORT b|x.1 args=1 2  END";
        let found = reports(log);
        assert_eq!((found["a"].len(), found["b"][0].as_str()), (1, "x.1 args=1 2 "));
    }
}
