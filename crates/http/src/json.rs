//! What is checked about a JSON text before it is parsed.

/// How deep objects and arrays may lie in each other.
pub const MAX_DEPTH: usize = 128;

/// Why a text is not parsed, and where in it, in bytes from its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("is not valid UTF-8 at byte {offset}")]
    Utf8 {
        /// The first byte that does not fit.
        offset: usize,
    },
    /// Nested too deeply.
    #[error("is nested more than {limit} levels deep at byte {offset}")]
    Depth {
        /// The bracket that is one too many.
        offset: usize,
        /// How deep it may be.
        limit: usize,
    },
}

impl JsonError {
    /// Where, in bytes from the text's begin.
    pub fn offset(self) -> usize {
        match self {
            Self::Utf8 { offset } | Self::Depth { offset, .. } => offset,
        }
    }
}

/// Checks that bytes are UTF-8 and nested at most `depth` levels deep. Whether they are JSON is the parser's to say.
///
/// ```
/// use outboard_http::json::{check, MAX_DEPTH};
/// assert_eq!(check(br#"{"a":[1]}"#, MAX_DEPTH), Ok(r#"{"a":[1]}"#));
/// assert_eq!(check(b"[[[]]]", 2).unwrap_err().offset(), 2);
/// ```
pub fn check(bytes: &[u8], depth: usize) -> Result<&str, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Utf8 { offset: error.valid_up_to() })?;
    let (mut offset, mut level) = (0, 0_usize);
    while let Some(&byte) = bytes.get(offset) {
        match byte {
            b'"' => offset = end_of_string(bytes, offset),
            b'[' | b'{' => {
                level += 1;
                if level > depth {
                    return Err(JsonError::Depth { offset, limit: depth });
                }
            }
            // A closing bracket too many is the parser's to refuse.
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
        offset += 1;
    }
    Ok(text)
}

/// The offset of the quote that closes the string which begins at `start`, or of the last byte.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut offset = start + 1;
    while let Some(&byte) = bytes.get(offset) {
        match byte {
            b'"' => return offset,
            b'\\' => offset += 2,
            _ => offset += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings_only() {
        for text in [
            "",
            "1",
            "[[[[",
            "[][][][][]",
            r#""[[[[[[[[[""#,
            r#"["\"[[[[[[[","\\"]"#,
            "]]]][",
            r#"""#,
            r#""\"#,
        ] {
            assert_eq!(check(text.as_bytes(), 4), Ok(text), "{text}");
        }
        for (text, offset) in
            [("[[[[[", 4), (r#"{"a":{"b":[{"c":[]}]}}"#, 16), (r#"["\\",[[[[]]]]]"#, 9), ("[[[[]],[[[", 9)]
        {
            assert_eq!(check(text.as_bytes(), 4), Err(JsonError::Depth { offset, limit: 4 }), "{text}");
        }
    }

    #[test]
    fn a_million_brackets_are_refused_at_the_limit() {
        let deep = vec![b'['; 1_000_000];
        assert_eq!(check(&deep, MAX_DEPTH), Err(JsonError::Depth { offset: 128, limit: 128 }));
        let fits = [vec![b'['; 128], vec![b']'; 128]].concat();
        assert!(check(&fits, MAX_DEPTH).is_ok());
    }

    #[test]
    fn bad_utf_8_is_found_where_it_begins() {
        assert_eq!(check(b"\"ab\xff\"", MAX_DEPTH), Err(JsonError::Utf8 { offset: 3 }));
        assert_eq!(check(b"\xed\xa0\x80", MAX_DEPTH), Err(JsonError::Utf8 { offset: 0 }), "a surrogate");
        assert_eq!(check(b"[\xe2\x82", MAX_DEPTH), Err(JsonError::Utf8 { offset: 1 }), "cut off");
    }
}
