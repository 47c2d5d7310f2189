//! Reads `supported.txt`; the file explains its own format.

use std::collections::BTreeMap;
use std::error::Error;

/// What the file says about one message.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) line: usize,
    /// Field name (or `*`) to its class and the line that says so.
    pub(crate) classes: BTreeMap<String, (Class, usize)>,
    /// Field name, the value that changes nothing, line.
    pub(crate) inert: Vec<(String, String, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Supported,
    Opaque,
    Warn,
    Reject,
}

impl Entry {
    /// The class of a field: what is said about it, else about `*`, else a rejection.
    pub(crate) fn class(&self, field: &str) -> Class {
        self.classes.get(field).or_else(|| self.classes.get("*")).map_or(Class::Reject, |(class, _)| *class)
    }
}

pub(crate) type Supported = BTreeMap<String, Entry>;

pub(crate) fn parse(text: &str) -> Result<Supported, Box<dyn Error>> {
    let mut supported = Supported::new();
    let mut current: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(head) = words.next() else { continue };
        if head == "message" {
            let name = words.next().ok_or_else(|| at(number, "a message's full name is missing"))?;
            let entry = Entry { line: number, ..Entry::default() };
            if supported.insert(name.to_owned(), entry).is_some() {
                return Err(at(number, &format!("{name} stands here twice")));
            }
            current = Some(name.to_owned());
            continue;
        }
        let entry = current.as_ref().and_then(|name| supported.get_mut(name));
        let entry = entry.ok_or_else(|| at(number, "fields stand before the first message"))?;
        match head {
            "supported" => classify(entry, words, Class::Supported, number)?,
            "opaque" => classify(entry, words, Class::Opaque, number)?,
            "warn" => classify(entry, words, Class::Warn, number)?,
            "reject" => classify(entry, words, Class::Reject, number)?,
            "inert" => inert(entry, words, number)?,
            other => {
                let problem = format!("`{other}` is none of message, supported, opaque, warn, reject, inert");
                return Err(at(number, &problem));
            }
        }
    }
    Ok(supported)
}

fn classify<'a>(
    entry: &mut Entry,
    words: impl Iterator<Item = &'a str>,
    class: Class,
    number: usize,
) -> Result<(), Box<dyn Error>> {
    for word in words {
        if entry.classes.insert(word.to_owned(), (class, number)).is_some() {
            return Err(at(number, &format!("field {word} stands here twice")));
        }
    }
    Ok(())
}

fn inert<'a>(entry: &mut Entry, words: impl Iterator<Item = &'a str>, number: usize) -> Result<(), Box<dyn Error>> {
    for word in words {
        let (field, value) = word.split_once('=').ok_or_else(|| at(number, &format!("`{word}` is not FIELD=VALUE")))?;
        entry.inert.push((field.to_owned(), value.to_owned(), number));
    }
    Ok(())
}

pub(crate) fn at(line: usize, problem: &str) -> Box<dyn Error> {
    format!("supported.txt:{line}: {problem}").into()
}
