//! The arrows between our crates, and what each manifest must say.

use crate::{Repository, Violation};

/// Which of our crates each crate may depend on. Nobody depends on the server.
const ARROWS: &[(&str, &[&str])] = &[
    ("outboard-core", &[]),
    ("outboard-derive", &[]),
    ("outboard-embedded", &["outboard-core"]),
    ("outboard-http", &["outboard-core"]),
    ("outboard", &["outboard-core", "outboard-embedded", "outboard-http", "outboard-derive"]),
    ("outboard-testkit", &[]),
    ("outboard-backends", &["outboard-core", "outboard-testkit"]),
    (
        "outboard-server",
        &[
            "outboard",
            "outboard-core",
            "outboard-embedded",
            "outboard-http",
            "outboard-derive",
            "outboard-backends",
            "outboard-testkit",
        ],
    ),
    (
        "outboard-bench",
        &[
            "outboard",
            "outboard-core",
            "outboard-embedded",
            "outboard-http",
            "outboard-derive",
            "outboard-backends",
            "outboard-testkit",
        ],
    ),
    ("outboard-tidy", &[]),
];

/// Third-party crates that do I/O, which core stays free of.
const IO_CRATES: &[&str] = &[
    "axum",
    "hyper",
    "hyper-util",
    "hyper-rustls",
    "mio",
    "reqwest",
    "rusqlite",
    "socket2",
    "sqlx",
    "tempfile",
    "tower",
];

/// Features of tokio that do I/O.
const IO_FEATURES: &[&str] =
    &["\"full\"", "\"net\"", "\"fs\"", "\"process\"", "\"signal\"", "\"io-std\"", "\"io-util\""];

pub(crate) fn check(repository: &Repository, violations: &mut Vec<Violation>) {
    for (path, text) in &repository.texts {
        if path == "Cargo.toml" {
            unused_in_workspace(repository, text, violations);
        } else if path.ends_with("/Cargo.toml") {
            let manifest = Manifest { path, text };
            manifest.arrows(violations);
            manifest.lints(violations);
            manifest.unused(repository, violations);
            if manifest.name() == "outboard-core" {
                manifest.no_io(violations);
            }
        }
    }
}

/// Versions in the workspace's manifest that no crate takes.
fn unused_in_workspace(repository: &Repository, text: &str, violations: &mut Vec<Violation>) {
    let root = Manifest { path: "Cargo.toml", text };
    let crates = || repository.texts.iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
    for (number, dependency, _) in root.dependencies() {
        let is_taken = |(path, text): (&String, &String)| {
            Manifest { path, text }
                .dependencies()
                .any(|(_, taken, line)| taken == dependency && line.contains("workspace = true"))
        };
        let ours = dependency == "outboard" || dependency.starts_with("outboard-");
        if !ours && !crates().any(is_taken) {
            let mend = format!("no crate takes `{dependency}` from the workspace: remove the line");
            violations.push(root.violation(number, "unused-dependency", mend));
        }
    }
}

/// A crate's manifest, read line by line: we write one key a line.
struct Manifest<'a> {
    path: &'a str,
    text: &'a str,
}

impl<'a> Manifest<'a> {
    /// Lines as (number, section, line).
    fn lines(&self) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
        let mut section = "";
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
                // `[dependencies.name]` is a dependency, too.
                return name.contains("dependencies.").then_some((index + 1, name, name.rsplit('.').next()?));
            }
            let is_key = !line.is_empty() && !line.starts_with('#') && !section.contains("dependencies.");
            is_key.then_some((index + 1, section, line))
        })
    }

    fn name(&self) -> &'a str {
        let name = self.lines().find(|(_, section, line)| *section == "package" && line.starts_with("name"));
        name.and_then(|(_, _, line)| line.split('"').nth(1)).unwrap_or_default()
    }

    /// Dependencies of every kind as (line number, name, the whole line).
    fn dependencies(&self) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
        self.lines().filter(|(_, section, _)| section.contains("dependencies")).map(|(number, _, line)| {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            // `name = { package = "real" }` is the real one.
            let real = line.split("package = \"").nth(1).and_then(|rest| rest.split('"').next());
            (number, real.unwrap_or(name), line)
        })
    }

    fn violation(&self, line: usize, rule: &'static str, mend: String) -> Violation {
        Violation { path: self.path.to_owned(), line, rule, mend }
    }

    fn arrows(&self, violations: &mut Vec<Violation>) {
        let name = self.name();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            let mend = format!(
                "`{name}` has no line in tidy's table: say there which crates it may depend on, and why"
            );
            violations.push(self.violation(1, "arrows", mend));
            return;
        };
        for (number, dependency, _) in self.dependencies() {
            let ours = dependency == "outboard" || dependency.starts_with("outboard-");
            if ours && !allowed.contains(&dependency) {
                let mend = format!(
                    "`{name}` may not depend on `{dependency}`: put a port into core, or move the code"
                );
                violations.push(self.violation(number, "arrows", mend));
            }
        }
    }

    fn lints(&self, violations: &mut Vec<Violation>) {
        if !self.lines().any(|(_, section, line)| section == "lints" && line == "workspace = true") {
            let mend = "add `[lints]` with `workspace = true`".to_owned();
            violations.push(self.violation(1, "lints", mend));
        }
    }

    /// Dependencies that no file of the crate mentions, documentation included: examples in it are code, too.
    fn unused(&self, repository: &Repository, violations: &mut Vec<Violation>) {
        let directory = self.path.trim_end_matches("Cargo.toml");
        let texts = || repository.sources.iter().filter(|source| source.path.starts_with(directory));
        for (number, dependency, line) in self.dependencies() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_");
            if !texts().any(|source| source.text.contains(&name)) {
                let mend = format!("nobody uses `{dependency}`: remove the line");
                violations.push(self.violation(number, "unused-dependency", mend));
            }
        }
    }

    fn no_io(&self, violations: &mut Vec<Violation>) {
        for (number, dependency, line) in self.dependencies() {
            let io = dependency == "tokio" && IO_FEATURES.iter().any(|feature| line.contains(feature));
            if io || IO_CRATES.contains(&dependency) {
                let mend = format!(
                    "core does no I/O: `{dependency}` belongs into the crate that implements the port"
                );
                violations.push(self.violation(number, "core-io", mend));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::repository::found;

    fn rules(name: &str, dependencies: &str) -> Vec<(usize, &'static str)> {
        let text = format!(
            "[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n[dependencies]\n{dependencies}\n"
        );
        let uses =
            "use outboard::app; use outboard_core::a; use {outboard_http, outboard_server, rusqlite, tokio};";
        found(check, &[("crates/a/Cargo.toml", &text), ("crates/a/src/lib.rs", uses)])
    }

    #[test]
    fn every_dependency_is_used() {
        assert_eq!(rules("outboard-core", "bytes.workspace = true"), [(6, "unused-dependency")]);
    }

    #[test]
    fn arrows_point_one_way() {
        assert_eq!(rules("outboard-embedded", "outboard-core.workspace = true"), []);
        assert_eq!(rules("outboard-embedded", "outboard-http.workspace = true"), [(6, "arrows")]);
        assert_eq!(
            rules("outboard", "[dev-dependencies]\noutboard-server = { path = \"../server\" }"),
            [(7, "arrows")]
        );
        assert_eq!(rules("outboard-http", "[dependencies.outboard]\nworkspace = true"), [(6, "arrows")]);
        assert_eq!(
            rules("outboard-http", "app = { package = \"outboard\", path = \"../outboard\" }"),
            [(6, "arrows")]
        );
        assert_eq!(rules("outboard-new", ""), [(1, "arrows")]);
    }

    #[test]
    fn core_stays_free_of_io() {
        assert_eq!(rules("outboard-core", "tokio.workspace = true"), []);
        assert_eq!(rules("outboard-core", "rusqlite.workspace = true"), [(6, "core-io")]);
        assert_eq!(
            rules("outboard-core", "tokio = { workspace = true, features = [\"net\"] }"),
            [(6, "core-io")]
        );
    }

    #[test]
    fn lints_are_inherited() {
        let text = "[package]\nname = \"outboard-core\"\n";
        assert_eq!(found(check, &[("crates/a/Cargo.toml", text)]), [(1, "lints")]);
    }
}
