//! YAML to a tree.
//!
//! As Envoy reads it: one document; an entry whose key has the tag `!ignore` is left out, which is where people keep
//! anchors. An alias is a reference to the node it names, not a copy, so that a text can't grow in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::tree::{DEPTH_MAX, Entry, NODES_MAX, Node, Unreadable, Value, plain};

pub(crate) fn read(text: &str) -> Result<Node<'_>, Unreadable> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| Unreadable::new(line(error.marker()), error.info()))?;
        builder.event(event, &span)?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

fn line(marker: &Marker) -> u32 {
    u32::try_from(marker.line()).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Builder<'t> {
    root: Option<Node<'t>>,
    open: Vec<Collection<'t>>,
    anchors: HashMap<usize, Anchored<'t>>,
    nodes: usize,
}

#[derive(Clone)]
struct Anchored<'t> {
    node: Rc<Node<'t>>,
    height: usize,
}

/// A list or mapping that has not ended yet.
struct Collection<'t> {
    line: u32,
    anchor: usize,
    /// Of the highest child, counted through aliases: a chain of aliases is as deep as what it stands for.
    height: usize,
    content: Content<'t>,
}

enum Content<'t> {
    List(Vec<Node<'t>>),
    Map { entries: Vec<Entry<'t>>, key: Option<Key<'t>> },
}

/// A key whose value has not come yet.
struct Key<'t> {
    text: Cow<'t, str>,
    line: u32,
    ignored: bool,
}

impl<'t> Builder<'t> {
    fn event(&mut self, event: Event<'t>, span: &Span) -> Result<(), Unreadable> {
        let line = line(&span.start);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Unreadable::new(line, "a second document starts here; there must be one"))
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_deref(), line),
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), line)?;
                self.start(line, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), line)?;
                self.start(line, anchor, Content::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(line),
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).cloned();
                let target = target.ok_or_else(|| Unreadable::new(line, "an alias names a node that it is part of"))?;
                self.place(Node { line, value: Value::Shared(target.node) }, target.height)
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: u32,
    ) -> Result<(), Unreadable> {
        if let Some(Collection { content: Content::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            let ignored = tag.is_some_and(|tag| tag.original() == "!ignore");
            if !ignored {
                check_tag(tag, line)?;
            }
            if anchor != 0 {
                let node = Rc::new(Node { line, value: Value::Text(text.clone()) });
                self.anchors.insert(anchor, Anchored { node, height: 0 });
            }
            *key = Some(Key { text, line, ignored });
            return Ok(());
        }
        check_tag(tag, line)?;
        let quoted = style != ScalarStyle::Plain || tag.is_some_and(is_text);
        let value = if quoted { Value::Text(text) } else { plain(text) };
        self.finish(Node { line, value }, anchor, 0)
    }

    fn start(&mut self, line: u32, anchor: usize, content: Content<'t>) -> Result<(), Unreadable> {
        if let Some(Collection { content: Content::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(Unreadable::new(line, "a key must be a word or a text, not a list or mapping"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Unreadable::new(line, format!("nested more than {DEPTH_MAX} deep")));
        }
        self.open.push(Collection { line, anchor, height: 0, content });
        Ok(())
    }

    fn end(&mut self, line: u32) -> Result<(), Unreadable> {
        let Some(Collection { line, anchor, height, content }) = self.open.pop() else {
            return Err(Unreadable::new(line, "something ends that never started"));
        };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        self.finish(Node { line, value }, anchor, height + 1)
    }

    /// A node is complete; the parser's anchors start at 1.
    fn finish(&mut self, node: Node<'t>, anchor: usize, height: usize) -> Result<(), Unreadable> {
        if anchor == 0 {
            return self.place(node, height);
        }
        let line = node.line;
        let node = Rc::new(node);
        self.anchors.insert(anchor, Anchored { node: Rc::clone(&node), height });
        self.place(Node { line, value: Value::Shared(node) }, height)
    }

    fn place(&mut self, node: Node<'t>, height: usize) -> Result<(), Unreadable> {
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(height);
        }
        if height > DEPTH_MAX {
            return Err(Unreadable::new(node.line, format!("nested more than {DEPTH_MAX} deep")));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Unreadable::new(node.line, format!("more than {NODES_MAX} values")));
        }
        match self.open.last_mut().map(|collection| &mut collection.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(key) if key.ignored => {}
                Some(Key { text, line, .. }) => entries.push(Entry { key: text, line, value: node }),
                // An alias stands where a key does.
                None => return self.alias_as_key(&node),
            },
        }
        Ok(())
    }

    fn alias_as_key(&mut self, node: &Node<'t>) -> Result<(), Unreadable> {
        let line = node.line;
        let text = match &node.value {
            Value::Shared(shared) => match &shared.value {
                Value::Plain(text) | Value::Text(text) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        };
        let Some(text) = text else {
            return Err(Unreadable::new(line, "a key must be a word or a text, not a list or mapping"));
        };
        if let Some(Collection { content: Content::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = Some(Key { text, line, ignored: false });
        }
        Ok(())
    }
}

/// Tags that say what a scalar is (`!!int`) change nothing, for the field decides; others have no meaning here.
fn check_tag(tag: Option<&Tag>, line: u32) -> Result<(), Unreadable> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() && !is_text(tag) => {
            Err(Unreadable::new(line, format!("the tag {} has no meaning here", tag.original())))
        }
        _ => Ok(()),
    }
}

/// `!!str`, and `!` alone.
fn is_text(tag: &Tag) -> bool {
    tag.core_suffix() == Some("str") || tag.original() == "!"
}
