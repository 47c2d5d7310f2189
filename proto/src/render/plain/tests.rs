use super::*;
use crate::render::yaml;

/// A tree without lines, for a null may be said to stand where its key does or behind it.
fn show(node: &Node<'_>) -> String {
    let line = node.line;
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Plain(text) => format!("{line}:{text}"),
        Value::Text(text) => format!("{line}:{text:?}"),
        Value::List(items) => format!("{line}:[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let show = |entry: &Entry<'_>| format!("{}:{:?}= {}", entry.line, entry.key, show(&entry.value));
            format!("{line}:{{{}}}", entries.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        Value::Shared(node) => format!("shared {}", show(node)),
    }
}

/// What this reader takes, the full one reads as the same.
#[track_caller]
fn agrees(text: &str) -> bool {
    let Some(quick) = read(text) else { return false };
    match yaml::read(text) {
        Ok(full) => assert_eq!(show(&quick), show(&full), "{text}"),
        Err(unreadable) => panic!("{unreadable:?}: read as {}\n{text}", show(&quick)),
    }
    true
}

#[test]
fn plain_texts_are_taken() {
    for text in [
        "a: b",
        "a: b # c\n\n# d\nb: 'it''s' # e\n",
        "a:\n  b: 1\n  c:\nd:\n- x\n- y\ne: ~\n",
        "a:\n  - x: 1\n    y: 2\n  -\n    z: 3\n  -\n  - - p\n    - q\n",
        "- a\n- b: c\n- {a: b, c: [d, 'e', \"f\"], g: {}}\n- []\n",
        "a: [x, -1, http://h:80/p, a b]\nb: {k: 0.5s, 'q': \"r\"}",
        "key with spaces : no\n",
        "a: http://x:80/#frag\nb: x#y\n",
        "\"quoted key\": 1\n'other': 2\n",
        "a: -1\nb: -x\n",
        "  a: 1\n  b: 2\n",
        "a: # nothing\nb: #\n  c: d\n",
    ] {
        assert!(agrees(text), "{text}");
    }
}

#[test]
fn everything_else_is_left_to_the_full_reader() {
    for text in [
        "",
        "a",
        "'a'",
        "{a: b}",
        "[a]",
        "# only a comment",
        "---\na: b",
        "a: b\n---\nc: d",
        "a: b\n...",
        "%YAML 1.2\n---\na: b",
        "a: &x b",
        "a: *x",
        "a: !!str b",
        "a: |\n  b",
        "a: >-\n  b",
        "a: b\n  c",
        "a: 'b\n  c'",
        "a: \"b\\n\"",
        "? a\n: b",
        "a: b: c",
        "a: - b",
        "a:\n b: c\n  d: e",
        "a: [b\n]",
        "a: [b, c: d]",
        "a: {b}",
        "a: {b: c}}",
        "a: [b",
        "a: [b]x",
        "a: 'b'x",
        "a: 'b'#x",
        "a\tb: c",
        "a: \u{e4}",
        "- a\nb: c",
        "a: b\n- c",
        "a: {b:c}",
        "a: {b: }",
        "a: [b,, c]",
        "a: @b",
        "a: `b`",
        "a: %b",
        "a: [b #c]",
        "a: {'b':c}",
        "a: ?b",
        "a: :b",
        "a:\n  b",
    ] {
        assert!(read(text).is_none(), "{text}");
    }
    assert!(read(&format!("{}: b", "k".repeat(1025))).is_none());
    assert!(read(&format!("a: {}{}", "[".repeat(200), "]".repeat(200))).is_none());
    assert!(read(&"- ".repeat(100_000)).is_none());
}

#[test]
fn random_texts_are_read_as_the_full_reader_does() {
    const PIECES: [&str; 44] = [
        "a",
        "b c",
        "key: ",
        "k:",
        ": ",
        ":",
        "- ",
        "-",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\n  - ",
        "\n\n",
        "'",
        "\"",
        "'x'",
        "\"y\"",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ",",
        " # c",
        "#",
        " ",
        "  ",
        "~",
        "null",
        "1",
        "-1",
        "0.25s",
        "http://h:1/p",
        "a: b",
        "\na: b",
        "\nb: ",
        "\n  c: d",
        "{a: b}",
        "[x, y]",
        "{}",
        "''",
        "x-y",
        "\n---",
    ];
    let mut seed = 0x6a09_e667_f3bc_c908_u64;
    let mut next = |end: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % end as u64) as usize
    };
    let seeds = [
        "",
        "a:\n- b: c\n  d: {e: f, g: [h, i]}\n-\n  j: k\nl: m\n",
        "a:\n  b:\n    - c\n    - d: 'e' # f\n\n  g: h\n",
    ];
    let mut taken = 0;
    for round in 0..60_000 {
        let mut text = seeds[round % seeds.len()].to_owned();
        for _ in 0..=next(if text.is_empty() { 12 } else { 3 }) {
            let at = next(text.len() + 1);
            if next(4) == 0 && !text.is_empty() {
                text.remove(at.min(text.len() - 1));
            } else {
                text.insert_str(at, PIECES[next(PIECES.len())]);
            }
        }
        taken += usize::from(agrees(&text));
    }
    assert!(taken > 5000, "{taken} texts were compared");
}
