//! How large files and functions get, what modules are called, and that each says what it is.

use crate::{Repository, Violation, source::Source};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// Names that say nothing, so that anything can be put there.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "utility", "common", "helper", "helpers", "manager", "managers", "misc"];

pub(crate) fn check(repository: &Repository, violations: &mut Vec<Violation>) {
    for source in &repository.sources {
        file_length(source, violations);
        function_lengths(source, violations);
        module_name(source, violations);
        module_doc(source, violations);
    }
}

fn file_length(source: &Source, violations: &mut Vec<Violation>) {
    let lines = source.text.lines().count();
    if lines > MAX_FILE_LINES {
        violations.push(Violation {
            path: source.path.clone(),
            line: MAX_FILE_LINES + 1,
            rule: "file-length",
            mend: format!("{lines} lines, at most {MAX_FILE_LINES}: split it by what changes together"),
        });
    }
}

fn function_lengths(source: &Source, violations: &mut Vec<Violation>) {
    for (at, name) in functions(&source.code) {
        let Some(end) = body_end(&source.code, at) else { continue };
        let lines = source.code[at..end].lines().count();
        if lines > MAX_FUNCTION_LINES {
            let mend = format!("`{name}` has {lines} lines, at most {MAX_FUNCTION_LINES}: name its steps");
            violations.push(Violation::at(source, at, "function-length", mend));
        }
    }
}

/// Where each `fn name` stands, and the name.
fn functions(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices("fn ").filter_map(move |(at, _)| {
        let rest = &code[at + 3..];
        let name = &rest[..rest.find(|character| !is_word(character)).unwrap_or(rest.len())];
        (!name.is_empty() && !code[..at].ends_with(is_word)).then_some((at, name))
    })
}

/// Where the body of the function ends that begins at `at`; `None` for one without a body.
fn body_end(code: &str, at: usize) -> Option<usize> {
    let end = crate::source::item_end(code, at);
    code[..end].ends_with('}').then_some(end)
}

fn module_name(source: &Source, violations: &mut Vec<Violation>) {
    let Some((_, inside)) = source.path.split_once("src/").or_else(|| source.path.split_once("tests/"))
    else {
        return;
    };
    for name in inside.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&name) {
            violations.push(Violation::at(source, 0, "module-name", empty_name(name)));
        }
    }
    for (at, _) in source.code.match_indices("mod ") {
        let name = source.code[at + 4..].split([' ', ';', '\n']).next().unwrap_or_default();
        let is_inline = source.code[at + 4 + name.len()..].trim_start().starts_with('{');
        if is_inline && EMPTY_NAMES.contains(&name) {
            violations.push(Violation::at(source, at, "module-name", empty_name(name)));
        }
    }
}

fn empty_name(name: &str) -> String {
    format!("a module `{name}` attracts everything: call it by what it holds")
}

fn module_doc(source: &Source, violations: &mut Vec<Violation>) {
    let first = source.text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        let mend = "begin the file with `//!` and a sentence that says what it holds";
        violations.push(Violation::at(source, 0, "module-doc", mend));
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::repository::found;

    fn function(lines: usize) -> String {
        format!("//! A.\nfn long(a: [u8; 4]) {{\n{}}}\n", "    one();\n".repeat(lines - 2))
    }

    #[test]
    fn long_files_and_functions_are_found() {
        assert_eq!(found(check, &[("crates/core/src/a.rs", &function(70))]), []);
        assert_eq!(found(check, &[("crates/core/src/a.rs", &function(71))]), [(2, "function-length")]);
        let file = |lines: usize| format!("//! A.\n{}", "const A: u8 = 1;\n".repeat(lines - 1));
        assert_eq!(found(check, &[("crates/core/src/a.rs", &file(500))]), []);
        assert_eq!(found(check, &[("crates/core/src/a.rs", &file(501))]), [(501, "file-length")]);
    }

    #[test]
    fn a_declared_function_has_no_length() {
        let text = format!(
            "//! A.\ntrait A {{\n    fn a(&self) -> [u8; 2];\n{}}}\n",
            "    const B: u8;\n".repeat(90)
        );
        assert_eq!(found(check, &[("crates/core/src/a.rs", &text)]), []);
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        let rule = [(1, "module-name")];
        assert_eq!(found(check, &[("crates/core/src/utils.rs", "//! A.\n")]), rule);
        assert_eq!(found(check, &[("crates/server/tests/common/mod.rs", "//! A.\n")]), rule);
        assert_eq!(
            found(check, &[("crates/core/src/a.rs", "//! A.\nmod helpers { }\n")]),
            [(2, "module-name")]
        );
        assert_eq!(found(check, &[("crates/core/src/a.rs", "//! A.\nmod harbour;\n")]), []);
    }

    #[test]
    fn a_file_says_what_it_holds() {
        assert_eq!(found(check, &[("crates/core/src/a.rs", "use std::fmt;\n")]), [(1, "module-doc")]);
        assert_eq!(found(check, &[("crates/core/src/a.rs", "#![cfg(unix)]\n//! A.\n")]), []);
    }
}
