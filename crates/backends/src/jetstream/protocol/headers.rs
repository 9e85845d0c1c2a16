//! A message's headers as NATS writes them.

use outboard_core::{Kind, PortError};

/// The first line of every block without a status.
const VERSION: &str = "NATS/1.0\r\n";

/// A block of headers in the making.
#[derive(Debug)]
pub(crate) struct Block {
    text: String,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self { text: VERSION.to_owned() }
    }

    /// Adds one. `Invalid` for a name or value that would be read as something else.
    pub(crate) fn push(&mut self, name: &str, value: &str) -> Result<(), PortError> {
        let is_bad = |byte: u8| byte == b':' || byte <= b' ' || byte == 0x7f;
        if name.is_empty() || name.bytes().any(is_bad) {
            let text = format!("a header's name has no spaces, colons or control characters: {name:?}");
            return Err(PortError::new(Kind::Invalid, text));
        }
        if value.contains(['\r', '\n', '\0']) {
            let text = format!("the header {name:?} has a line break in its value; NATS cannot carry it");
            return Err(PortError::new(Kind::Invalid, text));
        }
        self.add(name, value);
        Ok(())
    }

    /// Adds one of ours, the value on one line whatever it says.
    pub(crate) fn push_own(&mut self, name: &str, value: &str) {
        if value.contains(['\r', '\n', '\0']) {
            self.add(name, &value.replace(['\r', '\n', '\0'], " "));
        } else {
            self.add(name, value);
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.text.push_str(part);
        }
    }

    /// The whole block; empty when nothing was added.
    pub(crate) fn finish(mut self) -> String {
        if self.text.len() == VERSION.len() {
            return String::new();
        }
        self.text.push_str("\r\n");
        self.text
    }
}

/// The names and values of a block, in its order. What is no text is left out.
pub(crate) fn pairs(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut lines = block.split(|&byte| byte == b'\n');
    lines.next();
    lines.filter_map(|line| {
        let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
        let (name, value) = line.split_once(':')?;
        Some((name, value.strip_prefix(' ').unwrap_or(value)))
    })
}

/// One value by its name, whatever its case.
pub(crate) fn value<'a>(block: &'a [u8], name: &str) -> Option<&'a str> {
    pairs(block).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut block = Block::new();
        block.push("größe", "数: 1").unwrap();
        block.push_own("Reason", "two\r\nlines");
        let text = block.finish();
        let found: Vec<_> = pairs(text.as_bytes()).collect();
        assert_eq!(found, [("größe", "数: 1"), ("Reason", "two  lines")]);
        assert_eq!(value(text.as_bytes(), "reason"), Some("two  lines"));
        assert_eq!(Block::new().finish(), "");
    }

    #[test]
    fn what_would_be_read_as_something_else_is_refused() {
        for (name, value) in [("a b", "c"), ("a:b", "c"), ("", "c"), ("a", "b\r\nc: d")] {
            assert_eq!(Block::new().push(name, value).unwrap_err().kind, Kind::Invalid);
        }
    }
}
