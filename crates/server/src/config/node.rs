//! The tree that file, environment and flags are merged into before it becomes a [`Config`](super::Config).

use std::{fmt, sync::Arc};

/// Where a value came from, so that an error can point at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A line of a file.
    File {
        /// The file's path as it was given.
        path: Arc<str>,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One value and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The value.
    pub data: Data,
    /// Where it came from.
    pub origin: Origin,
}

/// Scalars stay text: the field that takes one knows its type, the source does not.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// A scalar.
    Text {
        /// As it was written, without quotes.
        text: String,
        /// Whether it was written without quotes, so that nothing, `~` and `null` mean "no value".
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A section, in the order written.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A scalar that means exactly this text.
    pub(crate) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self { data: Data::Text { text: text.into(), plain: false }, origin }
    }

    /// An empty section.
    pub(crate) fn section(origin: Origin) -> Self {
        Self { data: Data::Map(Vec::new()), origin }
    }

    /// Whether it stands for "no value".
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Text { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Sets what `path` leads to, making the sections on the way; a number in the path is a place in a list.
    pub(crate) fn set(&mut self, path: &[String], value: Node) {
        let Some((first, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if let (Data::List(items), Ok(index)) = (&mut self.data, first.parse::<usize>()) {
            if index < items.len() {
                items[index].set(rest, value);
                return;
            }
            if index == items.len() {
                let mut item = Self::section(value.origin.clone());
                item.set(rest, value);
                items.push(item);
                return;
            }
        }
        if !matches!(self.data, Data::Map(_)) {
            // A later source replaces a scalar or a list that it names inside of: the error, if it is one, then
            // names the later source.
            *self = Self::section(value.origin.clone());
        }
        if let Data::Map(entries) = &mut self.data {
            if let Some((_, entry)) = entries.iter_mut().find(|(key, _)| key == first) {
                entry.set(rest, value);
            } else {
                let mut entry = Self::section(value.origin.clone());
                entry.set(rest, value);
                entries.push((first.clone(), entry));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn leaf(node: &Node, at: &str) -> Option<String> {
        let mut node = node;
        for key in at.split('.') {
            node = match &node.data {
                Data::Map(entries) => &entries.iter().find(|(name, _)| name == key)?.1,
                Data::List(items) => items.get(key.parse::<usize>().ok()?)?,
                Data::Text { .. } => return None,
            };
        }
        match &node.data {
            Data::Text { text, .. } => Some(text.clone()),
            _ => None,
        }
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one_and_leaves_its_neighbours() {
        let mut root = Node::section(Origin::Flag("test"));
        root.set(&path("api.port"), Node::text("1", Origin::Flag("a")));
        root.set(&path("api.host"), Node::text("::1", Origin::Flag("a")));
        root.set(&path("api.port"), Node::text("2", Origin::Flag("b")));
        assert_eq!(leaf(&root, "api.port").as_deref(), Some("2"));
        assert_eq!(leaf(&root, "api.host").as_deref(), Some("::1"));
    }

    #[test]
    fn a_number_in_the_path_reaches_into_a_list_and_may_extend_it_by_one() {
        let mut root = Node { data: Data::List(Vec::new()), origin: Origin::Flag("test") };
        root.set(&path("0.name"), Node::text("a", Origin::Flag("a")));
        root.set(&path("0.url"), Node::text("u", Origin::Flag("a")));
        assert_eq!(leaf(&root, "0.name").as_deref(), Some("a"));
        assert_eq!(leaf(&root, "0.url").as_deref(), Some("u"));
    }
}
