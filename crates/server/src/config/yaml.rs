//! YAML text to [`Node`]s.
//!
//! Built on the event parser of saphyr: maintained, YAML 1.2 (`no` is a text, not false), no unsafe code, and every
//! event has its line. `serde_yaml` is archived; its forks carry the C library's port and lose the lines; and the
//! `config` crate guesses types before it knows the field.

use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{
    error::ConfigError,
    node::{Data, Node, Origin},
};

/// Deeper than any configuration; keeps the recursion small.
const MAX_DEPTH: usize = 32;

/// Parses a document whose errors name `path`; an empty document is an empty section.
pub(crate) fn parse(text: &str, path: &str) -> Result<Node, ConfigError> {
    Reader::new(text, Place::File(path.into())).document()
}

/// Parses the value of an environment variable that stands for a list or a section.
pub(crate) fn parse_inline(text: &str, origin: &Origin) -> Result<Node, ConfigError> {
    Reader::new(text, Place::Inline(origin.clone())).document()
}

fn alias() -> ConfigError {
    ConfigError::new(
        "",
        "uses an alias",
        "write the value out, and put a text that begins with `*` in quotes",
    )
}

enum Place {
    File(Arc<str>),
    Inline(Origin),
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    place: Place,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, place: Place) -> Self {
        Self { events: Parser::new_from_str(text), place }
    }

    fn origin(&self, line: usize) -> Origin {
        match &self.place {
            Place::File(path) => Origin::File { path: path.clone(), line },
            Place::Inline(origin) => origin.clone(),
        }
    }

    fn fail(&self, span: &Span, problem: &str, mend: &str) -> ConfigError {
        ConfigError::new("", problem, mend).at(&self.origin(span.start.line()))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let origin = self.origin(error.marker().line());
                let not_yaml =
                    || ConfigError::new("", format!("is not YAML: {}", error.info()), "mend the line");
                // `types: [*]` reads as an alias without an anchor.
                let told = if error.info().contains("anchor") { alias() } else { not_yaml() };
                Err(told.at(&origin))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(mut self) -> Result<Node, ConfigError> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => {
                    let origin = self.origin(1);
                    return Ok(root.unwrap_or_else(|| Node::section(origin)));
                }
                _ if root.is_some() => {
                    return Err(self.fail(
                        &span,
                        "has a second document",
                        "remove the `---` and what follows",
                    ));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ConfigError> {
        let origin = self.origin(span.start.line());
        if depth > MAX_DEPTH {
            return Err(self.fail(
                &span,
                "is nested too deeply",
                "no key is deeper than `workers[0].backoff.first`",
            ));
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let data = Data::Text { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                Ok(Node { data, origin })
            }
            Event::SequenceStart(..) => self.list(origin, depth),
            Event::MappingStart(..) => self.map(origin, depth),
            Event::Alias(_) => Err(alias().at(&origin)),
            other => Err(self.fail(&span, &format!("is not YAML: unexpected {other:?}"), "mend the line")),
        }
    }

    fn list(&mut self, origin: Origin, depth: usize) -> Result<Node, ConfigError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node { data: Data::List(items), origin });
            }
            let item = self.node(event, span, depth + 1).map_err(|error| error.under_index(items.len()))?;
            items.push(item);
        }
    }

    fn map(&mut self, origin: Origin, depth: usize) -> Result<Node, ConfigError> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Node { data: Data::Map(entries), origin }),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.fail(&span, "has a key that is not a text", "write `key: value`")),
            };
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(self.fail(&span, "is given twice", "keep one of the two").under_key(&key));
            }
            let (event, value_span) = self.next().map_err(|error| error.under_key(&key))?;
            let mut value = self.node(event, value_span, depth + 1).map_err(|error| error.under_key(&key))?;
            // An empty value has no line of its own, and a section's line is its first key's: point at the key.
            value.origin = self.origin(span.start.line());
            entries.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lines_and_refuses_what_configuration_does_not_need() {
        let root = parse("host: ::1\n\napi:\n  port: 1\n", "c.yaml").unwrap();
        let Data::Map(entries) = root.data else { panic!("a section") };
        assert_eq!(entries[1].1.origin, Origin::File { path: "c.yaml".into(), line: 3 });
        for (text, problem) in [
            ("a: 1\na: 2\n", "given twice"),
            ("a: *b\n", "alias"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("a: [1\n", "is not YAML"),
            ("? [1]\n: 2\n", "not a text"),
        ] {
            let error = parse(text, "c.yaml").unwrap_err().to_string();
            assert!(error.contains(problem), "{text:?} gave {error}");
        }
        let deep = "[".repeat(5_000);
        assert!(parse(&deep, "c.yaml").is_err());
    }
}
