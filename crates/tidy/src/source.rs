//! A Rust file, split into what is code and what is comment.

use std::ops::Range;

/// A Rust file.
///
/// `code` and `comments` have the text's length and line breaks; what does not belong there is blank.
#[derive(Debug)]
pub(crate) struct Source {
    /// The file, relative to the repository's root.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// Without comments and without what stands in strings.
    pub(crate) code: String,
    /// Comments only.
    pub(crate) comments: String,
    /// Whether all of it is test code.
    pub(crate) is_test: bool,
    /// Whether its tests run on paused time, in which a sleep takes none.
    pub(crate) is_paused: bool,
    /// Test code inside.
    test_ranges: Vec<Range<usize>>,
}

impl Source {
    /// Reads a file's text. `is_test` says that its place makes it test code.
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>, is_test: bool) -> Self {
        let (path, text) = (path.into(), text.into());
        let (code, comments) = split(&text);
        let test_ranges = test_ranges(&code);
        let is_test = is_test || code.contains("#![cfg(test)]");
        let is_paused = code.contains("start_paused") || code.contains("time::pause()");
        Self { path, text, code, comments, is_test, is_paused, test_ranges }
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.text[..offset].bytes().filter(|&byte| byte == b'\n').count() + 1
    }

    /// Whether the byte at `offset` is test code.
    pub(crate) fn is_test_at(&self, offset: usize) -> bool {
        self.is_test || self.test_ranges.iter().any(|range| range.contains(&offset))
    }

    /// Where the files of its child modules are.
    pub(crate) fn module_directory(&self) -> &str {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let (parent, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        if matches!(name, "mod" | "lib" | "main") { parent } else { stem }
    }

    /// The names of modules in files of their own that are test code: `#[cfg(test)] mod name;`.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let items = self.code.split("#[cfg(test)]").skip(1).filter_map(|rest| rest.split_once(';'));
        items.filter_map(|(item, _)| item.trim().strip_prefix("mod ")).map(str::to_owned).collect()
    }
}

/// Code with comments and strings blanked, and comments with the code blanked.
fn split(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let blank = || bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect::<Vec<u8>>();
    let (mut code, mut comments) = (blank(), blank());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = at
            + if rest.starts_with(b"//") {
                let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                comments[at..at + length].copy_from_slice(&rest[..length]);
                length
            } else if rest.starts_with(b"/*") {
                let length = block_comment(rest);
                comments[at..at + length].copy_from_slice(&rest[..length]);
                length
            } else if let Some(length) = literal(rest, at.checked_sub(1).map(|before| bytes[before])) {
                // The quotes stay, so that an empty argument list can be told from one with a string.
                code[at] = rest[0];
                code[at + length - 1] = rest[length - 1];
                length
            } else {
                code[at] = rest[0];
                1
            };
        at = end;
    }
    // Only whole comments and single bytes were copied: a multi-byte character in code is copied byte by byte.
    (String::from_utf8_lossy(&code).into_owned(), String::from_utf8_lossy(&comments).into_owned())
}

/// The length of a block comment, which may hold others.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a string or character literal at the beginning of `rest`; `None` when there is none.
fn literal(rest: &[u8], before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let prefix = match rest {
        [b'r', b'"' | b'#', ..] if !in_word => 1,
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !in_word => 2,
        _ => 0,
    };
    if prefix > 0 {
        let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = prefix + hashes + 1;
            let found = rest[body..].windows(close.len()).position(|window| window == close);
            return Some(found.map_or(rest.len(), |found| body + found + close.len()));
        }
    }
    match rest[0] {
        b'"' => Some(quoted(rest, b'"')),
        // A character, not a lifetime: escaped, or closed after one character of at most four bytes.
        b'\'' if rest.get(1) == Some(&b'\\') => Some(quoted(rest, b'\'')),
        b'\'' => (2..=5.min(rest.len() - 1))
            .find(|&at| rest[at] == b'\'')
            .filter(|&at| std::str::from_utf8(&rest[1..at]).is_ok_and(|inner| inner.chars().count() == 1))
            .map(|at| at + 1),
        _ => None,
    }
}

/// The length of a literal with escapes, both quotes included.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Items under an attribute that makes them test code.
fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[test]", "#[tokio::test"] {
        for (start, _) in code.match_indices(attribute) {
            ranges.push(start..item_end(code, start + attribute.len()));
        }
    }
    ranges
}

/// Where the item ends whose attributes end at or after `from`: its closing brace, or its semicolon.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let (mut depth, mut parens) = (0_usize, 0_usize);
    for (offset, byte) in code[from..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => parens += 1,
            b')' | b']' => parens = parens.saturating_sub(1),
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return from + offset + 1;
                }
            }
            b';' if depth == 0 && parens == 0 => return from + offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_not_code() {
        let text = r##"let a = "sleep(\" // no"; // sleep(1)
let b = r#"todo!("x")"#; let c = '"'; let d: &'static str = b"{"; /* a /* b */ { */ f('\'', 'é');"##;
        let source = Source::new("a.rs", text, false);
        assert!(!source.code.contains("sleep"), "{}", source.code);
        assert!(!source.code.contains("todo"), "{}", source.code);
        assert!(!source.code.contains('{'), "{}", source.code);
        assert!(source.code.contains("&'static str"), "{}", source.code);
        assert!(source.comments.contains("// sleep(1)"));
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.code.lines().count(), text.lines().count());
    }

    #[test]
    fn test_code_is_found() {
        let text = "fn a() { one() }\n#[cfg(test)]\nmod tests {\n fn b() { two() }\n}\nfn c() { three() }\n";
        let source = Source::new("a.rs", text, false);
        let at = |name| source.is_test_at(text.find(name).expect("it is there"));
        assert!(!at("one") && at("two") && !at("three"));
        let modules = Source::new("a.rs", "#[cfg(test)]\nmod model;\nmod other;\n", false).test_modules();
        assert_eq!(modules, ["model"]);
    }
}
