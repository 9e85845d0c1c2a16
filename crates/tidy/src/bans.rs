//! Calls and words that do not stand in our code, each with what stands there instead.

use crate::{Repository, Violation, repository::is_bench_or_example, source::Source};

/// Something that is not to be written.
struct Ban {
    rule: &'static str,
    /// What is looked for in code. A leading word character means a whole word.
    patterns: &'static [&'static str],
    /// Where it is refused.
    refused: fn(&Source, usize) -> bool,
    mend: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        rule: "unbounded",
        patterns: &[
            "unbounded_channel",
            "mpsc::unbounded",
            "mpsc::channel()",
            "UnboundedSender",
            "unbounded()",
        ],
        refused: |_, _| true,
        mend: "nothing is unbounded: take a channel with a capacity, and say what happens when it is full",
    },
    Ban {
        rule: "env",
        patterns: &["env::var", "env::vars", "env::var_os", "env::vars_os"],
        refused: |source, at| {
            !source.path.starts_with("crates/server/src/config")
                && !source.is_test_at(at)
                && !is_bench_or_example(&source.path)
        },
        mend: "the environment is read in crates/server/src/config only: take the value as an argument",
    },
    Ban {
        rule: "sleep",
        patterns: &["sleep(", "sleep_until("],
        refused: |source, at| {
            let is_suite = source.path.contains("/conformance/");
            (source.is_test_at(at) || is_suite) && !source.is_paused
        },
        mend: "a test never sleeps: await a signal, or let the runtime's time be paused (start_paused)",
    },
    Ban {
        rule: "sleep",
        patterns: &["thread::sleep"],
        refused: |source, at| source.is_test_at(at) && source.is_paused,
        mend: "this sleep is a real one, although the test's time is paused: await a signal",
    },
    Ban {
        rule: "ignored-test",
        patterns: &["#[ignore", "#[cfg_attr(ignore"],
        refused: |_, _| true,
        mend: "a test runs or is deleted: make it smaller, or read its scale from OUTBOARD_TEST_SCALE",
    },
    Ban {
        rule: "unfinished",
        patterns: &["todo!", "unimplemented!"],
        refused: |_, _| true,
        mend: "write it, or delete the place that would need it",
    },
    Ban {
        rule: "unwrap",
        patterns: &[".unwrap()", ".unwrap_err()"],
        refused: |source, at| !source.is_test_at(at) && !is_bench_or_example(&source.path),
        mend: "return the error, or `expect` with the invariant that makes it impossible",
    },
    Ban {
        rule: "print",
        patterns: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        refused: |source, at| {
            !source.path.starts_with("crates/server/src/output")
                && !source.is_test_at(at)
                && !is_bench_or_example(&source.path)
        },
        mend: "log with `tracing`; only crates/server/src/output writes to the terminal",
    },
    Ban {
        rule: "log-target",
        patterns: &["(%target,", "(?target,", ", %target,", ", ?target,", "target = %", "target = ?"],
        refused: |_, _| true,
        mend: "every log line has a `target` already, its module: call the field `server`, or after what it holds",
    },
    Ban {
        rule: "dead-code",
        patterns: &["allow(dead_code", "allow(unused"],
        refused: |_, _| true,
        mend: "delete what nobody uses; for a guard that is only held, `expect` with a reason",
    },
    Ban {
        rule: "core-io",
        patterns: &[
            "std::fs",
            "std::net",
            "std::io",
            "std::process",
            "tokio::fs",
            "tokio::net",
            "tokio::process",
        ],
        refused: |source, _| source.path.starts_with("crates/core/src/"),
        mend: "core does no I/O: put it behind a port, and into the crate that implements it",
    },
];

/// Words that mark unfinished work, in comments.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

pub(crate) fn check(repository: &Repository, violations: &mut Vec<Violation>) {
    for source in &repository.sources {
        for ban in BANS {
            for pattern in ban.patterns {
                for at in occurrences(&source.code, pattern) {
                    if (ban.refused)(source, at) {
                        violations.push(Violation::at(
                            source,
                            at,
                            ban.rule,
                            format!("`{pattern}`: {}", ban.mend),
                        ));
                    }
                }
            }
        }
        for mark in MARKS {
            for at in occurrences(&source.comments, mark) {
                let mend = format!("`{mark}`: do it now, or open an issue and say in words what is missing");
                violations.push(Violation::at(source, at, "unfinished", mend));
            }
        }
    }
}

/// Where `pattern` stands, but not where it begins or ends inside a longer word.
fn occurrences<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    let begins = pattern.as_bytes().first().is_some_and(is_word);
    let ends = pattern.as_bytes().last().is_some_and(is_word);
    text.match_indices(pattern).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(is_word);
        let after = bytes.get(at + pattern.len()).is_some_and(is_word);
        !(begins && before || ends && after)
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::repository::found;

    #[test]
    fn each_ban_bites() {
        for (code, rule) in [
            ("fn f() { tokio::sync::mpsc::unbounded_channel(); }", "unbounded"),
            ("fn f() { std::sync::mpsc::channel(); }", "unbounded"),
            ("fn f() { std::env::var(name); }", "env"),
            ("#[test] fn f() { std::thread::sleep(time); }", "sleep"),
            ("#[ignore = \"slow\"] fn f() {}", "ignored-test"),
            ("fn f() { todo!() }", "unfinished"),
            ("// FIXME: later\nfn f() {}", "unfinished"),
            ("fn f() { g().unwrap() }", "unwrap"),
            ("fn f() { println!(\"x\") }", "print"),
            ("fn f() { tracing::info!(%target, \"reached\") }", "log-target"),
            ("fn f() { tracing::info!(target = %url, \"reached\") }", "log-target"),
            ("#[allow(dead_code)] fn f() {}", "dead-code"),
            ("use std::fs::File;", "core-io"),
        ] {
            let rules = found(check, &[("crates/core/src/a.rs", code)]);
            assert_eq!(rules.iter().map(|(_, rule)| *rule).collect::<Vec<_>>(), [rule], "{code}");
        }
    }

    #[test]
    fn a_suite_for_backends_never_sleeps() {
        let sleeps = [("crates/core/src/conformance/log.rs", "async fn f() { sleep(one).await }")];
        assert_eq!(found(check, &sleeps), [(1, "sleep")]);
    }

    #[test]
    fn time_is_paused_for_a_tree_of_tests() {
        let child = ("crates/a/src/b/tests/c.rs", "#[tokio::test(start_paused = true)] async fn f() {}");
        let shared = ("crates/a/src/b/tests.rs", "mod c; async fn pass() { sleep(one).await }");
        let other = ("crates/a/src/d/tests.rs", "async fn pass() { sleep(one).await }");
        assert_eq!(found(check, &[child, shared]), []);
        assert_eq!(found(check, &[child, other]), [(1, "sleep")]);
        let real = ("crates/a/src/b/tests.rs", "mod c; fn pass() { std::thread::sleep(one) }");
        assert_eq!(found(check, &[child, real]), [(1, "sleep")]);
    }

    #[test]
    fn what_is_allowed_passes() {
        for (path, code) in [
            ("crates/core/src/a.rs", "fn f() { g().unwrap_or(1) } // says \"unwrap\", and `todo!`"),
            ("crates/core/src/a.rs", "#[cfg(test)] mod tests { fn f() { g().unwrap(); println!() } }"),
            ("crates/core/src/a.rs", "async fn f() { tokio::time::sleep(delay).await }"),
            ("crates/core/src/a.rs", "fn f() { prefix_println!(); mpsc::channel(16); }"),
            (
                "crates/core/tests/a.rs",
                "#[tokio::test(start_paused = true)] async fn f() { sleep(one).await }",
            ),
            ("crates/server/src/config/environment.rs", "fn f() { std::env::vars(); }"),
            ("crates/server/src/output.rs", "fn f() { println!() }"),
            (
                "crates/core/src/a.rs",
                "struct A(#[expect(dead_code, reason = \"held until the end\")] Guard);",
            ),
            ("bench/src/main.rs", "fn f() { println!(); std::env::var(x).unwrap() }"),
        ] {
            assert_eq!(found(check, &[(path, code)]), [], "{path}: {code}");
        }
    }
}
