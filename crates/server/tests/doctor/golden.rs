//! What is recorded of a run: its text, with what differs from machine to machine and from run to run left out.

use std::{fs, path::Path, process::Output};

use crate::harness::{outboard, text};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/golden");

/// Set to `1`, the tests write what they find instead of comparing it.
const RENEW: &str = "OUTBOARD_TEST_RENEW";

/// These depend on the machine alone; unit tests have their cases.
const OF_THE_MACHINE: [&str; 4] = ["disk sync", "disk space", "open files", "memory"];

/// Runs `doctor` in a directory with these variables.
pub(crate) fn doctor(directory: &Path, arguments: &[&str], variables: &[(&str, String)]) -> Output {
    let variables = variables.iter().map(|(name, value)| (name, value));
    outboard(directory).arg("doctor").args(arguments).envs(variables).output().unwrap()
}

/// As [`compare`], without the machine; the time that connecting took and versions are left out.
pub(crate) fn compare_backends(name: &str, output: &Output, volatile: &[(&str, &str)]) {
    let all = text(&output.stdout);
    let (_, backends) = all.split_once("\n\n").unwrap();
    let masked = backends.lines().map(|line| match line.split_once(" takes connections (") {
        Some((before, _)) => format!("{before} takes connections (…)\n"),
        None if line.contains("√ version") => format!("{}…\n", line.trim_end_matches(|c: char| c != ' ')),
        None => format!("{line}\n"),
    });
    let output = Output { stdout: masked.collect::<String>().into_bytes(), ..output.clone() };
    compare(name, &output, volatile);
}

/// Compares what a run printed with what is recorded under this name. `volatile` are texts, such as ports, and what is
/// recorded in their place.
pub(crate) fn compare(name: &str, output: &Output, volatile: &[(&str, &str)]) {
    let told = text(&output.stderr);
    // How many warnings there are depends on the machine, too.
    let problems = told.split(", ").next().unwrap_or_default();
    let shown = mask(&text(&output.stdout), volatile) + problems + "\n";
    let path = Path::new(DIRECTORY).join(name).with_extension("txt");
    if std::env::var(RENEW).is_ok_and(|value| value == "1") {
        fs::create_dir_all(DIRECTORY).unwrap();
        fs::write(path, shown).unwrap();
        return;
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    let mend =
        format!("if this was meant, `{RENEW}=1 cargo test -p outboard-server --test doctor` records it anew");
    assert_eq!(shown, recorded, "left is what is printed, right is {name}; {mend}");
}

fn mask(shown: &str, volatile: &[(&str, &str)]) -> String {
    let mut masked = String::new();
    for line in shown.lines() {
        let check: String = line.chars().skip(4).collect();
        let of_the_machine = OF_THE_MACHINE.iter().find(|name| check.starts_with(*name));
        let line = match of_the_machine {
            Some(name) => format!("  ? {name} …"),
            None => volatile.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to)),
        };
        masked += &line;
        masked.push('\n');
    }
    masked
}
