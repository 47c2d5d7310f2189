//! URI templates: `envoy.extensions.path.match.uri_template.v3` and `…path.rewrite.uri_template.v3`.
//!
//! `/users/{id}/files/{path=**}`: a variable stands for one segment, `*` too, `**` for any number of segments at the end.

use bytes::{BufMut, Bytes, BytesMut};

/// What may stand in a segment.
const SEGMENT: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]";
const SEGMENTS: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=/]";
const VARIABLES_MAX: usize = 5;
const NAME_BYTES_MAX: usize = 16;

/// A compiled template.
#[derive(Debug, Clone)]
pub struct UriTemplate {
    text: String,
    regex: regex::bytes::Regex,
    /// In the order of the groups.
    variables: Vec<String>,
}

impl PartialEq for UriTemplate {
    fn eq(&self, other: &UriTemplate) -> bool {
        self.text == other.text
    }
}

impl Eq for UriTemplate {}

impl UriTemplate {
    /// The error says what is wrong.
    pub fn new(text: &str) -> Result<UriTemplate, String> {
        let Some(rest) = text.strip_prefix('/') else { return Err("doesn't start with /".to_owned()) };
        let mut parser = Parser { pattern: String::from(r"\A"), variables: Vec::new(), wildcard_ended: false };
        for segment in split(rest)? {
            parser.pattern.push('/');
            parser.segment(segment)?;
        }
        parser.pattern.push_str(r"\z");
        let built =
            regex::bytes::RegexBuilder::new(&parser.pattern).size_limit(super::Regex::PROGRAM_BYTES_MAX).build();
        let regex = built.map_err(|_| "is too long".to_owned())?;
        Ok(UriTemplate { text: text.to_owned(), regex, variables: parser.variables })
    }

    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.regex.is_match(path)
    }
}

/// The segments of a template; a variable's own slashes divide nothing.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut segments, mut start, mut open) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '{' if open => return Err("has a { within a variable".to_owned()),
            '{' => open = true,
            '}' if !open => return Err("has a } without its {".to_owned()),
            '}' => open = false,
            '/' if !open => {
                segments.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if open {
        return Err("has a variable without its end".to_owned());
    }
    segments.push(&text[start..]);
    Ok(segments)
}

struct Parser {
    pattern: String,
    variables: Vec<String>,
    /// A `**` was there: only a literal may follow.
    wildcard_ended: bool,
}

impl Parser {
    fn segment(&mut self, text: &str) -> Result<(), String> {
        if self.wildcard_ended {
            return Err("goes on after **".to_owned());
        }
        match text.split_once('{') {
            Some(("", rest)) => {
                let Some((inner, suffix)) = rest.split_once('}') else { return Err("has no end".to_owned()) };
                self.variable(inner)?;
                self.literal(suffix)
            }
            Some(_) => Err("has a variable within a segment".to_owned()),
            None => self.part(text),
        }
    }

    fn variable(&mut self, inner: &str) -> Result<(), String> {
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid {
            return Err(format!("{name:?} is no name of a variable"));
        }
        if self.variables.iter().any(|known| known == name) {
            return Err(format!("the variable {name} stands here twice"));
        }
        if self.variables.len() == VARIABLES_MAX {
            return Err(format!("has more than {VARIABLES_MAX} variables"));
        }
        self.variables.push(name.to_owned());
        self.pattern.push('(');
        for (index, part) in pattern.split('/').enumerate() {
            if index > 0 {
                self.pattern.push('/');
            }
            self.part(part)?;
        }
        self.pattern.push(')');
        Ok(())
    }

    /// `*`, `**`, either with a literal after it, or a literal.
    fn part(&mut self, text: &str) -> Result<(), String> {
        if self.wildcard_ended {
            return Err("goes on after **".to_owned());
        }
        if let Some(suffix) = text.strip_prefix("**") {
            self.wildcard_ended = true;
            self.pattern.push_str(SEGMENTS);
            self.pattern.push('*');
            return self.literal(suffix);
        }
        if let Some(suffix) = text.strip_prefix('*') {
            self.pattern.push_str(SEGMENT);
            self.pattern.push('+');
            return self.literal(suffix);
        }
        self.literal(text)
    }

    fn literal(&mut self, text: &str) -> Result<(), String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte);
        if !text.bytes().all(allowed) {
            return Err(format!("{text:?} is no part of a path"));
        }
        self.pattern.push_str(&regex::escape(text));
        Ok(())
    }
}

/// A rewrite by a template's variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplateRewrite {
    from: UriTemplate,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Bytes),
    /// A group of the template's expression.
    Group(usize),
}

impl UriTemplateRewrite {
    /// `text` uses variables of the template that the route matches by.
    pub fn new(text: &str, from: &UriTemplate) -> Result<UriTemplateRewrite, String> {
        if !text.starts_with('/') {
            return Err("doesn't start with /".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err("has a variable without its end".to_owned());
            };
            let Some(at) = from.variables.iter().position(|known| known == name) else {
                return Err(format!("the route's template has no variable {name:?}"));
            };
            parts.push(Part::Literal(Bytes::copy_from_slice(literal.as_bytes())));
            parts.push(Part::Group(at + 1));
            rest = after;
        }
        if rest.contains(['}', '*', '?', '#']) || rest.bytes().any(|byte| byte <= b' ') {
            return Err("is no path".to_owned());
        }
        parts.push(Part::Literal(Bytes::copy_from_slice(rest.as_bytes())));
        Ok(UriTemplateRewrite { from: from.clone(), parts })
    }

    /// The new path; the old one where the template doesn't match it any more.
    #[must_use]
    pub fn rewrite(&self, path: &[u8]) -> Bytes {
        let Some(groups) = self.from.regex.captures(path) else { return Bytes::copy_from_slice(path) };
        let mut out = BytesMut::with_capacity(path.len());
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.put_slice(text),
                Part::Group(group) => out.put_slice(groups.get(*group).map_or(b"", |found| found.as_bytes())),
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_segments() {
        let check = |template: &str, path: &str, expected: bool| {
            let template = UriTemplate::new(template).unwrap_or_else(|problem| panic!("{template}: {problem}"));
            assert_eq!(template.matches(path.as_bytes()), expected, "{} on {path}", template.text);
        };
        check("/a/{b}", "/a/x", true);
        check("/a/{b}", "/a/x/y", false);
        check("/a/{b}", "/a/", false);
        check("/a/*/c", "/a/x/c", true);
        check("/a/**", "/a/x/y", true);
        check("/a/**", "/a/", true);
        check("/a/{b=x/*}/c", "/a/x/y/c", true);
        check("/a/{b=**}.m3u8", "/a/x/y.m3u8", true);
        check("/a/{b=**}.m3u8", "/a/x/y.mp4", false);
    }

    #[test]
    fn bad_templates() {
        for template in
            ["a", "/{a}/{a}", "/{", "/}", "/**/a", "/{a=**}/b", "/a{b}", "/{1}", "/{a}/{b}/{c}/{d}/{e}/{f}", "/?a"]
        {
            assert!(UriTemplate::new(template).is_err(), "{template}");
        }
    }

    #[test]
    fn rewrites_move_variables() {
        let from = UriTemplate::new("/{country}/{lang=**}").unwrap();
        let rewrite = UriTemplateRewrite::new("/to/{lang}/{country}", &from).unwrap();
        assert_eq!(&rewrite.rewrite(b"/de/a/b")[..], b"/to/a/b/de");
        assert!(UriTemplateRewrite::new("/{other}", &from).is_err());
        assert!(UriTemplateRewrite::new("x", &from).is_err());
    }
}
