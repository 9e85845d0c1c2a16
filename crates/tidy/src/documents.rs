//! What our documents point to exists, and nothing points out of the repository.

use std::collections::BTreeSet;

use crate::{Repository, Violation};

/// Roots that are somebody's machine, not the reader's.
const MACHINE_ROOTS: &[&str] = &["home", "root", "Users", "work", "mnt"];

/// First parts of paths in code spans that must exist.
const OUR_ROOTS: &[&str] = &["crates/", "scripts/", "bench/", "examples/", "docs/"];

pub(crate) fn check(repository: &Repository, violations: &mut Vec<Violation>) {
    for (path, text) in &repository.texts {
        machine_paths(path, text, violations);
        if path.ends_with(".md") {
            links(repository, path, text, violations);
            code_spans(repository, path, text, violations);
        }
    }
    for source in &repository.sources {
        machine_paths(&source.path, &source.text, violations);
    }
}

/// Absolute paths of a developer's machine, and paths beside the repository.
fn machine_paths(path: &str, text: &str, violations: &mut Vec<Violation>) {
    let beside = concat!("../", "shared");
    for (index, line) in text.lines().enumerate() {
        let mut refuse = |mend: String| {
            violations.push(Violation { path: path.to_owned(), line: index + 1, rule: "machine-path", mend });
        };
        for root in MACHINE_ROOTS {
            let found = format!("/{root}/");
            // In `src/home/page.rs` the root is a part of a longer path.
            let is_inside = |before: char| before.is_alphanumeric() || "._-*}>$~".contains(before);
            if line.match_indices(&found).any(|(at, _)| !line[..at].ends_with(is_inside)) {
                refuse(format!("`{found}` is one machine's: use a relative path, or a temporary directory"));
            }
        }
        if line.contains(beside) {
            refuse("the repository knows nothing beside itself: say it here, or leave it out".to_owned());
        }
    }
}

/// Lines of a document outside fenced code, from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((index + 1, line))
    })
}

fn links(repository: &Repository, path: &str, text: &str, violations: &mut Vec<Violation>) {
    for (line, prose) in prose(text) {
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let resolved = if file.is_empty() { Some(path.to_owned()) } else { resolve(path, file) };
            let known = resolved.filter(|resolved| repository.paths.contains(resolved));
            let mend = match known {
                None => format!("`{target}` leads nowhere: correct the link"),
                Some(known) if !anchor.is_empty() && !anchors(repository, &known).contains(anchor) => {
                    format!("`{known}` has no heading `#{anchor}`: correct the link")
                }
                Some(_) => continue,
            };
            violations.push(Violation { path: path.to_owned(), line, rule: "link", mend });
        }
    }
}

/// Paths of ours in code spans: a document that names a file which has moved misleads.
fn code_spans(repository: &Repository, path: &str, text: &str, violations: &mut Vec<Violation>) {
    for (line, prose) in prose(text) {
        for span in prose.split('`').skip(1).step_by(2) {
            let ours = OUR_ROOTS.iter().any(|root| span.starts_with(root));
            let plain =
                span.chars().all(|character| character.is_alphanumeric() || "/._-".contains(character));
            if ours && plain && !repository.paths.contains(span.trim_end_matches('/')) {
                let mend = format!("`{span}` does not exist: name the file as it is called now");
                violations.push(Violation { path: path.to_owned(), line, rule: "link", mend });
            }
        }
    }
}

/// `target` seen from the file `from`; `None` when it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a document's headings, as the usual renderers make them.
fn anchors(repository: &Repository, path: &str) -> BTreeSet<String> {
    let Some(text) = repository.texts.get(path) else { return BTreeSet::new() };
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
    kept.map(|character| if character == ' ' { '-' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::repository::found;

    fn rules(text: &str) -> Vec<(usize, &'static str)> {
        found(
            check,
            &[("docs/a.md", text), ("README.md", "# The house\n"), ("crates/core/src/a.rs", "//! A.\n")],
        )
    }

    #[test]
    fn links_must_lead_somewhere() {
        assert_eq!(rules("[a](../README.md#the-house) [b](https://example.com/x) [c](../crates/core/)"), []);
        assert_eq!(rules("[a](../README.md#the-hut)"), [(1, "link")]);
        assert_eq!(rules("\n[a](README.md)"), [(2, "link")]);
        assert_eq!(rules("[a](../../README.md)"), [(1, "link")]);
        assert_eq!(
            rules("see `crates/core/src/b.rs`, not `crates/core/src/a.rs` or `crates/*`"),
            [(1, "link")]
        );
    }

    #[test]
    fn machine_paths_are_found() {
        let root = concat!("/ho", "me/");
        assert_eq!(rules(&format!("look into {root}me/notes")), [(1, "machine-path")]);
        assert_eq!(rules(&format!("look into src{root}page.rs")), []);
        assert_eq!(rules(concat!("look into ../", "shared/notes")), [(1, "machine-path")]);
    }
}
