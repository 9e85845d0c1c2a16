//! The files that the rules look at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{Violation, source::Source};

/// Directories that are not ours, wherever they are.
const SKIPPED: &[&str] = &[".git", "node_modules", "__pycache__"];

/// Directories at the root that the build and a run from the root leave behind.
const SKIPPED_AT_ROOT: &[&str] = &["target", "outboard-data"];

/// Kinds of text files that are read.
const EXTENSIONS: &[&str] =
    &["rs", "toml", "md", "sh", "py", "rb", "js", "mjs", "ts", "yaml", "yml", "json", "sql", "txt"];

/// A repository's text files, read into memory.
#[derive(Debug, Default)]
pub struct Repository {
    /// Rust files, by path.
    pub(crate) sources: Vec<Source>,
    /// All text files that are not Rust, by path relative to the root.
    pub(crate) texts: BTreeMap<String, String>,
    /// Every path, directories included.
    pub(crate) paths: BTreeSet<String>,
}

impl Repository {
    /// Reads every text file below `root`.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        let mut repository = Self::default();
        walk(root, "", &mut files, &mut repository.paths)?;
        repository.fill(files);
        Ok(repository)
    }

    /// Sorts files into Rust and other text, and finds out which are test code.
    fn fill(&mut self, files: BTreeMap<String, String>) {
        for (path, text) in files {
            if path.ends_with(".rs") {
                let is_test = is_test_path(&path);
                self.sources.push(Source::new(path, text, is_test));
            } else {
                self.texts.insert(path, text);
            }
        }
        let test_modules: Vec<String> = self.sources.iter().flat_map(test_module_stems).collect();
        for source in &mut self.sources {
            source.is_test |= test_modules.iter().any(|stem| {
                source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/"))
            });
        }
        self.spread_paused_time();
    }

    /// Time is paused for a tree of tests as a whole: a test says so at its head, and the code that it shares with
    /// others is in another file.
    fn spread_paused_time(&mut self) {
        let of_paused_tree = |source: &Source| {
            let paused = self.sources.iter().filter(|other| other.is_paused);
            source.is_paused
                || paused
                    .into_iter()
                    .any(|other| is_in_one_tree(other, source) || is_in_one_tree(source, other))
        };
        let paused: Vec<bool> = self.sources.iter().map(of_paused_tree).collect();
        for (source, is_paused) in self.sources.iter_mut().zip(paused) {
            source.is_paused = is_paused;
        }
    }

    /// A repository made of these files, for a rule's own test.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut repository = Self::default();
        for (path, _) in files {
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            repository.paths.extend(ends.map(|end| path[..end].to_owned()));
        }
        repository.fill(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect());
        repository
    }
}

/// What a rule finds in these files.
#[cfg(test)]
pub(crate) fn found(
    rule: fn(&Repository, &mut Vec<Violation>),
    files: &[(&str, &str)],
) -> Vec<(usize, &'static str)> {
    let mut violations = Vec::new();
    rule(&Repository::of(files), &mut violations);
    violations.sort();
    violations.iter().map(|violation| (violation.line, violation.rule)).collect()
}

impl Violation {
    /// A violation in a Rust file, at a byte offset.
    pub(crate) fn at(source: &Source, offset: usize, rule: &'static str, mend: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line: source.line_at(offset), rule, mend: mend.into() }
    }
}

/// Files that are test code by their place.
fn is_test_path(path: &str) -> bool {
    let inside = |directory: &str| path.split('/').any(|part| part == directory);
    inside("tests") || inside("benches") || path.ends_with("/tests.rs")
}

/// Whether a file measures or shows, and may print and read the environment.
pub(crate) fn is_bench_or_example(path: &str) -> bool {
    path.split('/').any(|part| part == "bench" || part == "benches" || part == "examples")
}

/// Paths without `.rs` of the modules that a file declares under `#[cfg(test)]`.
fn test_module_stems(source: &Source) -> Vec<String> {
    let base = source.module_directory();
    source.test_modules().iter().map(|module| format!("{base}/{module}")).collect()
}

/// Whether one file is a module above or below the other, and both are of one tree of tests.
fn is_in_one_tree(above: &Source, below: &Source) -> bool {
    let directory = above.module_directory();
    above.is_test && below.is_test && below.path.starts_with(&format!("{directory}/"))
}

fn walk(
    directory: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, String>,
    paths: &mut BTreeSet<String>,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if SKIPPED.contains(&name.as_str()) || SKIPPED_AT_ROOT.contains(&path.as_str()) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &path, files, paths)?;
        } else if kind.is_file() && is_text(&path) {
            // A file may go away while its author renames it; what is gone breaks no rule.
            match fs::read_to_string(entry.path()) {
                Ok(text) => drop(files.insert(path.clone(), text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
            }
        }
        paths.insert(path);
    }
    Ok(())
}

/// Whether a file is text that we wrote: by its extension, or because it is a script or a licence.
fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => EXTENSIONS.contains(&extension),
        _ => path.starts_with("scripts/") || path.starts_with(".ci/") || name.starts_with("LICENSE"),
    }
}
