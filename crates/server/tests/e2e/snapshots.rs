//! What the command line says of itself, word for word: a change of a flag or of a default shows in the diff.

use std::{collections::BTreeMap, fs, path::Path};

use tempfile::TempDir;

use crate::harness::{outboard, text};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/snapshots");

/// Set to `1`, the tests write what they find instead of comparing it.
const RENEW: &str = "OUTBOARD_TEST_RENEW";

/// What a command prints in a directory without a configuration.
fn printed(directory: &TempDir, arguments: &[&str]) -> String {
    let mut command = outboard(directory.path());
    // Colours are for terminals, unless somebody forces them.
    let output = command.args(arguments).env_remove("CLICOLOR_FORCE").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    let printed = text(&output.stdout);
    for path in [directory.path(), Path::new(env!("CARGO_MANIFEST_DIR"))] {
        assert!(!printed.contains(&*path.to_string_lossy()), "a path of this machine is in\n{printed}");
    }
    printed
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The help of a command and of all below it, by the name of the file that holds it.
fn helps(directory: &TempDir, command: &[&str], found: &mut BTreeMap<String, String>) {
    let help = printed(directory, &[command, &["--help"]].concat());
    let below = commands(&help);
    found.insert([&["outboard"], command].concat().join("-") + ".txt", help);
    for name in &below {
        helps(directory, &[command, &[name.as_str()]].concat(), found);
    }
}

#[test]
fn helps_and_defaults_are_as_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    helps(&directory, &[], &mut found);
    assert!(found.contains_key("outboard-workers-pause.txt"), "{:?}", found.keys());
    found.insert("config-print.txt".into(), printed(&directory, &["config", "print"]));

    if std::env::var(RENEW).is_ok_and(|value| value == "1") {
        let _ = fs::remove_dir_all(DIRECTORY);
        fs::create_dir(DIRECTORY).unwrap();
        for (name, text) in &found {
            fs::write(Path::new(DIRECTORY).join(name), text).unwrap();
        }
        return;
    }
    let mend = format!(
        "if this was meant, `{RENEW}=1 cargo test -p outboard-server --test e2e snapshots` records it anew"
    );
    let files = fs::read_dir(DIRECTORY).unwrap().map(|file| file.unwrap());
    let recorded: Vec<String> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    for name in &recorded {
        assert!(found.contains_key(name), "{name} is recorded and nothing prints it; {mend}");
    }
    for (name, text) in &found {
        let recorded = fs::read_to_string(Path::new(DIRECTORY).join(name)).unwrap_or_default();
        assert_eq!(*text, recorded, "left is what is printed, right is {name}; {mend}");
    }
}
