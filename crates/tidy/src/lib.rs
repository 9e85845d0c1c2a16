//! The house rules that a compiler does not know, as a test: `cargo test -p outboard-tidy`.
//!
//! STYLE.md says why each rule is there. A rule is a function from the repository to violations; every rule has a
//! test that shows it bite.

mod repository;
mod source;

mod bans;
mod documents;
mod manifests;
mod shape;

use std::{fmt, path::Path};

pub use repository::Repository;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the repository's root.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong, and what to do instead.
    pub mend: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.mend)
    }
}

/// Places that may break a rule: path, rule, how many times, why.
///
/// The number is exact, so that the list only ever shrinks. It should be empty.
const EXCEPTIONS: &[(&str, &str, usize, &str)] = &[];

/// Every violation in the repository at `root`, by path and line. Fails when the files cannot be read.
pub fn check(root: &Path) -> std::io::Result<Vec<Violation>> {
    let repository = Repository::read(root)?;
    let mut violations = Vec::new();
    for rule in [bans::check, documents::check, manifests::check, shape::check] {
        rule(&repository, &mut violations);
    }
    let mut violations = without_exceptions(violations, EXCEPTIONS);
    violations.sort();
    Ok(violations)
}

/// Takes out what the exceptions allow, and adds a violation for each exception that is not used as written.
fn without_exceptions(
    mut violations: Vec<Violation>,
    exceptions: &[(&str, &'static str, usize, &str)],
) -> Vec<Violation> {
    for &(path, rule, allowed, reason) in exceptions {
        let matches = |violation: &Violation| violation.path == path && violation.rule == rule;
        let found = violations.iter().filter(|violation| matches(violation)).count();
        if found == allowed && !reason.is_empty() {
            violations.retain(|violation| !matches(violation));
        } else {
            violations.push(Violation {
                path: path.to_owned(),
                line: 1,
                rule,
                mend: format!(
                    "tidy's exception says {allowed}, {found} found: correct the number, and give a reason"
                ),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let violations = check(&root).expect("the repository can be read");
        let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "{} violations of the house rules:\n{}\n", list.len(), list.join("\n"));
    }

    #[test]
    fn an_exception_counts_exactly() {
        let violation = |line| Violation { path: "a.rs".into(), line, rule: "sleep", mend: String::new() };
        let two = vec![violation(1), violation(2)];
        assert!(without_exceptions(two.clone(), &[("a.rs", "sleep", 2, "why")]).is_empty());
        assert_eq!(without_exceptions(two.clone(), &[("a.rs", "sleep", 3, "why")]).len(), 3);
        assert_eq!(without_exceptions(two, &[("a.rs", "sleep", 2, "")]).len(), 3, "a reason is needed");
    }
}
