//! What users write in small languages: regular expressions, URI templates, formats of access logs.

use bytes::Bytes;
use outrigger_config::{Format, Regex, UriTemplate};
use outrigger_http::{HeaderName, ResponseHead, StreamState};

use crate::{Run, Target, fingerprint};

pub(super) const REGEXES: Target = Target {
    name: "regexes",
    about: "a pattern of RE2 is compiled or refused; a group around it changes nothing, and a quoted text is itself",
    seeds: || {
        [
            "/re/[0-9]+\n/re/12",
            r"^\d{2,3}(?i:x)\pN$",
            r"[[:alpha:]&&-\]]|\Qa.b\E.*\na.b!",
            r"a{3}{\b\w\S\nb",
            "(?P<n>x)?\\C",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        b"\n",
        b"[",
        b"]",
        b"[^",
        b"[:alpha:]",
        b"&&",
        b"--",
        b"~~",
        b"(",
        b"(?:",
        b"(?i)",
        b"(?P<n>",
        b")",
        b"{2,3}",
        b"{",
        b"*",
        b"+?",
        b"|",
        b"^",
        b"$",
        b"\\d",
        b"\\w",
        b"\\b",
        b"\\B",
        b"\\Q",
        b"\\E",
        b"\\pL",
        b"\\x{10ffff}",
        b"\\z",
        b"\\A",
        b"\\",
        b".",
        b"\xc3\xa9",
    ],
    prepare: || Box::new(|input| fingerprint(&regex(input))),
    short: 2_000,
};

/// The pattern, then texts, one a line.
fn regex(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (pattern, texts) = text.split_once('\n').unwrap_or((&text, ""));
    if !pattern.contains("\\E") {
        let quoted = Regex::new(&format!("\\Q{pattern}\\E"));
        // Long ones are too large to be compiled.
        if let Ok(quoted) = quoted {
            assert!(quoted.matches(pattern.as_bytes()), "{pattern:?} quoted isn't itself");
            assert!(!quoted.matches(format!("{pattern}x").as_bytes()), "{pattern:?} quoted is more than itself");
        }
    }
    let regex = match Regex::new(pattern) {
        Ok(regex) => regex,
        Err(problem) => {
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem:?}");
            return problem.chars().filter(|c| c.is_ascii_lowercase() || *c == ' ').take(60).collect();
        }
    };
    let found: Vec<bool> = texts.split('\n').map(|text| regex.matches(text.as_bytes())).collect();
    // A quotation without an end would swallow the group's.
    if !pattern.contains("\\Q")
        && let Ok(grouped) = Regex::new(&format!("(?:{pattern})"))
    {
        let again: Vec<bool> = texts.split('\n').map(|text| grouped.matches(text.as_bytes())).collect();
        assert_eq!(found, again, "{pattern:?} is another one in a group");
    }
    format!("{} {:?}", regex.groups().min(3), &found[..found.len().min(3)])
}

pub(super) const TEMPLATES: Target = Target {
    name: "templates",
    about: "a URI template is compiled or refused, and matches itself with its variables filled in",
    seeds: || {
        ["/users/{id}/files/{path=**}", "/a/*/b/**", "/{x=a/*/b}/c.{y}", "/v1/{n=*}:verb"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    words: &[b"/", b"{", b"}", b"{x}", b"{y=", b"*", b"**", b"=", b".", b"%", b"~"],
    prepare: || Box::new(|input| fingerprint(&template(input))),
    short: 5_000,
};

fn template(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let template = match UriTemplate::new(&text) {
        Ok(template) => template,
        Err(problem) => return problem.chars().filter(char::is_ascii_lowercase).take(60).collect(),
    };
    let filled = filled(&text);
    assert!(template.matches(filled.as_bytes()), "{text:?} doesn't match {filled:?}");
    assert!(!template.matches(format!("x{filled}").as_bytes()), "{text:?} matches more than itself");
    format!("{} {}", text.matches('{').count(), text.matches('*').count())
}

/// The template with a segment for each variable and wildcard.
fn filled(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (variable, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(variable.split_once('=').map_or("v", |(_, pattern)| pattern));
        rest = after;
    }
    out.push_str(rest);
    out.replace("**", "*").replace('*', "v")
}

pub(super) const FORMATS: Target = Target {
    name: "formats",
    about: "a format is compiled or refused, and nobody's header writes a log line of its own",
    seeds: || {
        [
            "[%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%] %REQ(X-A?:PATH):64% %PROTOCOL%\nva\x01lue",
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DURATION% %UPSTREAM_HOST% 100%%\n\x1b[0m",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %TRAILER(x)% %DYNAMIC_METADATA(a:b):9% %RESP(x-a)%\nb",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        b"%",
        b"%%",
        b"%REQ(",
        b"%RESP(X-A)%",
        b"X-A",
        b"?",
        b")%",
        b"):3%",
        b":0%",
        b"%START_TIME%",
        b"%START_TIME(",
        b"%s",
        b"%6f",
        b"%DURATION%",
        b"%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)%",
        b"%METADATA(CLUSTER:a:b)%",
        b"%ENVIRONMENT(PATH)%",
        b"%REQUEST_HEADERS_BYTES%",
        b"\n",
        b"\r",
        b"\0",
        b"\x7f",
        b"\xff",
        b"\"",
    ],
    prepare: formats,
    short: 10_000,
};

/// The format, then the value of a header and the path.
#[expect(clippy::expect_used, reason = "the name is our own")]
fn formats() -> Run {
    let name = HeaderName::from_bytes(b"x-a").expect("a name");
    Box::new(move |input| {
        let mut lines = input.splitn(2, |byte| *byte == b'\n');
        let text = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let value = Bytes::copy_from_slice(lines.next().unwrap_or_default());
        let mut state = StreamState::default();
        let mut head = ResponseHead::new(200);
        // Past what codecs let through: whatever gets this far must not harm the log.
        state.request.path = value.clone();
        _ = state.request.headers.try_append(name.clone(), value.clone());
        _ = head.headers.try_append(name.clone(), value);
        state.response = Some(head);
        let format = match Format::parse(&text) {
            Ok(format) => format,
            Err(problem) => {
                let problem = problem.to_string();
                return fingerprint(&problem.chars().filter(char::is_ascii_lowercase).take(60).collect::<String>());
            }
        };
        let mut out = Vec::new();
        format.write(&state, &mut out);
        if !text.contains(char::is_control) {
            let line = String::from_utf8_lossy(&out);
            assert!(!line.bytes().any(|byte| byte < b' '), "{text:?} writes {line:?}");
        }
        _ = format.value(&state);
        let mut header = Vec::new();
        Format::parse_header(&text).map(|format| format.write(&state, &mut header)).unwrap_or_default();
        fingerprint(&(text.matches('%').count().min(9), out.len().min(64), header.is_empty()))
    })
}
