//! RE2's syntax in the words of the `regex` crate.
//!
//! Both are of one family, and match in linear time. Where a pattern would mean something else to the crate it is
//! translated, so that it matches what it does in Envoy; what RE2 doesn't know, or the crate can't do, is an error. The
//! tests have the table.

/// Why a pattern can't be used.
pub(super) type Problem = &'static str;

/// RE2's bound for the numbers of a repetition.
const REPEAT_MAX: u32 = 1000;

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\x0C\r ";

/// The pattern for the crate.
pub(super) fn translate(pattern: &str) -> Result<String, Problem> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(after, false, &mut out)?,
            '[' => class(after, &mut out)?,
            '{' => brace(after, &mut out)?,
            '(' => group(after, &mut out)?,
            _ => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

/// What follows a backslash; what remains after it.
fn escape<'p>(rest: &'p str, in_class: bool, out: &mut String) -> Result<&'p str, Problem> {
    let c = rest.chars().next().ok_or("ends with a backslash")?;
    let after = &rest[c.len_utf8()..];
    let set = |out: &mut String, negated: bool, set: &str| {
        let text = match (in_class, negated) {
            (true, false) => set.to_owned(),
            (_, true) => format!("[^{set}]"),
            (false, false) => format!("[{set}]"),
        };
        out.push_str(&text);
    };
    match c {
        // Of ASCII only, other than the crate's.
        'd' => set(out, false, DIGIT),
        'D' => set(out, true, DIGIT),
        'w' => set(out, false, WORD),
        'W' => set(out, true, WORD),
        's' => set(out, false, SPACE),
        'S' => set(out, true, SPACE),
        'b' | 'B' if !in_class => {
            if after.starts_with('{') {
                return Err("has a { right after a word boundary");
            }
            out.push_str(if c == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
        }
        // Word boundaries to the crate, a literal to RE2.
        '<' | '>' => out.push(c),
        'Q' if !in_class => {
            let (literal, after) = after.split_once(r"\E").unwrap_or((after, ""));
            literal.chars().for_each(|c| push_literal(c, out));
            return Ok(after);
        }
        'p' | 'P' => return Err("has a class of Unicode's, which are not supported"),
        'u' | 'U' => return Err("has an escape that RE2 doesn't know"),
        c if c.is_ascii_alphanumeric() || !c.is_ascii() => {
            out.push('\\');
            out.push(c);
        }
        c => push_literal(c, out),
    }
    Ok(after)
}

fn push_literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() && c != '<' && c != '>' {
        out.push('\\');
    }
    out.push(c);
}

/// A class, from after its bracket: nested brackets and the crate's set operations are literals to RE2.
fn class<'p>(rest: &'p str, out: &mut String) -> Result<&'p str, Problem> {
    out.push('[');
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    // First in a class it is a literal.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str(r"\]");
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' => {
                out.push(']');
                return Ok(after);
            }
            '\\' => escape(after, true, out)?,
            '[' if after.starts_with(':') => {
                let end = after.find(":]").ok_or("has a class without an end")?;
                out.push('[');
                out.push_str(&after[..end + 2]);
                &after[end + 2..]
            }
            '-' if after.starts_with('-') => return Err("has -- in a class"),
            '[' | '&' | '~' => {
                push_literal(c, out);
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
    }
    Err("has a class without an end")
}

/// A repetition, or a literal brace.
fn brace<'p>(rest: &'p str, out: &mut String) -> Result<&'p str, Problem> {
    let inner = rest.split_once('}').filter(|(inner, _)| {
        let (from, to) = inner.split_once(',').unwrap_or((inner, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        !from.is_empty() && digits(from) && digits(to)
    });
    let Some((inner, after)) = inner else {
        out.push_str(r"\{");
        return Ok(rest);
    };
    let numbers = inner.split(',').filter(|number| !number.is_empty());
    if numbers.into_iter().any(|number| number.parse().map_or(true, |number: u32| number > REPEAT_MAX)) {
        return Err("repeats more than 1000 times");
    }
    out.push('{');
    out.push_str(inner);
    out.push('}');
    Ok(after)
}

/// The start of a group: of the flags those that RE2 has.
fn group<'p>(rest: &'p str, out: &mut String) -> Result<&'p str, Problem> {
    out.push('(');
    let Some(after) = rest.strip_prefix('?') else { return Ok(rest) };
    if after.starts_with("P<") || after.starts_with('<') {
        return Ok(rest);
    }
    let flags = after.split([':', ')']).next().unwrap_or_default();
    if !flags.chars().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'U' | '-')) {
        return Err("has a flag that RE2 doesn't know");
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::super::Regex;

    /// What RE2 and the crate would read differently, and what it is here.
    #[test]
    fn patterns_mean_what_they_mean_to_re2() {
        let check = |pattern: &str, text: &str, expected: bool| {
            let regex = Regex::new(pattern).unwrap_or_else(|problem| panic!("{pattern}: {problem}"));
            assert_eq!(regex.matches(text.as_bytes()), expected, "{pattern} on {text:?}");
        };
        // Perl's classes are ASCII.
        check(r"\d+", "12", true);
        check(r"\d+", "\u{661}\u{662}", false);
        check(r"\w+", "\u{e9}", false);
        check(r"\W", "\u{e9}", true);
        check(r"[\d\-]+", "1-2", true);
        check(r"[^\w]", "a", false);
        check(r"[\D]", "a", true);
        check(r"\s", "\u{a0}", false);
        check(r"\s", "\u{b}", false);
        check(r"a\b.*", "a\u{e9}", true);
        check(r"a\B.*", "ab", true);
        // Literals that the crate has another use for.
        check(r"\<a\>", "<a>", true);
        check(r"[[]", "[", true);
        check(r"[a&&b]+", "&ab", true);
        check(r"[a~~b]+", "~ab", true);
        check(r"[]a]+", "]a", true);
        check(r"[^]a]", "]", false);
        check(r"a{", "a{", true);
        check(r"a{,2}", "a{,2}", true);
        check(r"a{x}", "a{x}", true);
        check(r"\Qa.b\E+", "a.bb", true);
        check(r"\Qa.b", "a.b", true);
        check(r"\.\-\/", ".-/", true);
        // The same in both.
        check(r"a{2,3}", "aaa", true);
        check(r"[[:alpha:]]+", "ab", true);
        check(r"[[:^alpha:]]+", "12", true);
        check(r"(?i)AbC", "aBc", true);
        check(r"(?P<n>a)(?:b|c)", "ac", true);
        check(r"(?s).", "\n", true);
        check(r".", "\n", false);
        check(r"a|b", "b", true);
        check(r"a|b", "ab", false);
        check(r"\x41\x{42}", "AB", true);
        check("a$", "a", true);
        check("(?m)a$", "a\nb", false);
        check(".", "\u{e9}", true);
    }

    #[test]
    fn what_either_lacks_is_refused() {
        // RE2 knows \C, \p and octal escapes.
        for pattern in [
            r"\p{Greek}",
            r"\pL",
            r"\C",
            r"\u0041",
            r"\U00000041",
            r"\b{start}",
            "(?x)a b",
            "(?=a)",
            "(?!a)",
            "(?<=a)b",
            r"(a)\1",
            "a{1001}",
            "[a--b]",
            "[a",
            "a\\",
            "(?u)a",
            r"\Z",
            "(",
            "*a",
            r"\123",
            "(?R)a",
        ] {
            assert!(Regex::new(pattern).is_err(), "{pattern}");
        }
    }
}
