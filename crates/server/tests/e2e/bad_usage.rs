//! Wrong flags, variables and configuration keys: exit 64, the key named, before anything binds or is made.

use serde_json::Value;

use crate::harness::{outboard, run, text};

/// Runs `up` and expects it to refuse.
fn refused(arguments: &[&str], variables: &[(&str, &str)], config: Option<&str>, parts: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    if let Some(config) = config {
        std::fs::write(directory.path().join("config.yaml"), config).unwrap();
    }
    let mut command = outboard(directory.path());
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{arguments:?} {variables:?} {config:?}: {told}");
    for part in parts {
        assert!(
            told.contains(part),
            "{arguments:?} {variables:?} {config:?} says {told:?}, which lacks {part:?}"
        );
    }
    assert!(!told.contains("panicked"), "{told}");
    assert!(told.matches("http or https URL").count() <= 1 && !told.contains("workers[]"), "{told}");
    assert!(
        !directory.path().join("outboard-data").exists(),
        "nothing is made before the configuration is known to be good"
    );
}

#[test]
fn every_flag_says_what_is_wrong_with_it() {
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["Usage"]),
        (&["down"], &["down"]),
        (&["up", "--prot", "1"], &["--prot", "--port"]),
        (&["up", "extra"], &["extra"]),
        (&["up", "--port", "x"], &["`api.port`", "--port", "`x`", "65535"]),
        (&["up", "--port", "65536"], &["`api.port`", "`65536`"]),
        (&["up", "--port"], &["--port"]),
        (&["up", "--host", "example.org"], &["`host`", "--host", "`example.org`", "127.0.0.1"]),
        (&["up", "--data-dir", ""], &["`data_dir`", "--data-dir", "is empty"]),
        (&["up", "--log-level", "loud"], &["`log_level`", "--log-level", "loud", "debug"]),
        (&["up", "--config", "missing.yaml"], &["missing.yaml", "cannot be read"]),
        (&["up", "--config", "/"], &["is not a file"]),
        (&["up", "--forward", "ftp://h/"], &["error: `--forward`: ", "write a URL such as http://"]),
        (&["up", "--forward", "http://u:hunter2@h/"], &["--forward", "user name"]),
        (&["submit", "orders/x"], &["PAYLOAD"]),
        (&["submit", "orders/x", "{", "--url", "http://127.0.0.1:1"], &["not JSON"]),
        (&["submit", "orders/x", "1", "--url", "127.0.0.1"], &["--url", "http"]),
        (
            &["submit", "orders/x", "1", "--url", "http://127.0.0.1:1", "--header", "x"],
            &["--header", "NAME=VALUE"],
        ),
        // No server runs: what is wrong is told before one is looked for.
        (&["submit", "orders/x", "{bad"], &["payload is not JSON", "quote it for the shell"]),
        (&["submit", "", "1"], &["the type ``", "orders/confirm"]),
        (&["submit", "orders/*", "1"], &["the type `orders/*`", "without spaces"]),
        (
            &["submit", "orders/x", "1", "--run-at", "tomorrow"],
            &["--run-at tomorrow", "2027-01-31T08:00:00Z"],
        ),
        (&["submit", "orders/x", "1", "--header", "foo"], &["--header foo", "NAME=VALUE"]),
        (&["submit", "orders/x", "1", "--header", "=7"], &["--header", "empty", "128 bytes"]),
        (
            &["submit", "orders/x", "1", "--header", "a=7", "--header", "a=8"],
            &["--header a", "is given twice"],
        ),
        (
            &["submit", "orders/x", "1", "--idempotency-key", ""],
            &["--idempotency-key ``", "1 to 255", "UUID"],
        ),
        (&["submit", "orders/x", "1", "--idempotency-key", " "], &["--idempotency-key ` `", "visible ASCII"]),
        (&["workers", "pause", ""], &["<NAME>", "empty", "`outboard workers`"]),
        (&["workers", "resume", ""], &["<NAME>", "empty", "`outboard workers`"]),
        (&["workers", "pause", "a", "--reason", &"x".repeat(501)], &["--reason", "500 bytes", "shorten"]),
        (&["dead", "--worker", ""], &["--worker <NAME>", "empty", "`outboard workers`"]),
        (&["dead", "retry", "abc"], &["[ID]", "whole number", "first column of `outboard dead`"]),
        (&["dead", "retry"], &["<ID>"]),
        (&["dead", "retry", "17", "--all"], &["--all", "cannot be used"]),
        (&["dead", "retry", "17", "--worker", "a"], &["--worker goes with --all"]),
        (&["log"], &["verify"]),
        (&["bench", "fill"], &["--data-dir"]),
        (&["bench", "fill", "--data-dir", "x", "--messages", "1", "--parked", "2"], &["--parked"]),
    ];
    for (arguments, parts) in cases {
        refused(arguments, &[], None, parts);
    }
}

/// What the file alone tells is told by `config check`, too; what only this machine knows, by `up`.
#[test]
fn a_worker_on_a_broker_that_cannot_work_is_refused_before_anything_is_made() {
    let worker = |keys: &str| format!("workers:\n- name: a\n  url: http://h/\n  {keys}\n");
    let nats = worker("source: nats://mq\n  queue: a.b");
    for command in [&["up"][..], &["config", "check"]] {
        refused(command, &[], Some(&nats), &["`workers[0].queue` (config.yaml:5)", "a stream's name"]);
    }
    for source in ["amqps://mq", "tls://mq", "sidekiq+rediss://cache"] {
        let absent = worker(&format!("queue: a\n  source: {source}?cacertfile=absent.pem"));
        refused(&["up"], &[], Some(&absent), &["`workers[0].source`", "`absent.pem`", "name a file"]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.yaml"), absent).unwrap();
        let checked = run(directory.path(), &["config", "check"]);
        assert_eq!(checked.status.code(), Some(0), "another machine may have it: {}", text(&checked.stderr));
    }
}

#[test]
fn a_role_that_is_not_built_is_named() {
    for role in ["fleet", "chat", "broker", "balancer", "cache", "streams"] {
        let (variable, config) =
            (format!("OUTBOARD_{}__ENABLED", role.to_uppercase()), format!("{role}:\n  enabled: true\n"));
        refused(
            &["up"],
            &[(&variable, "true")],
            None,
            &[&format!("`{role}.enabled`"), "does not have", &variable],
        );
        refused(&["up"], &[], Some(&config), &[&format!("`{role}.enabled`"), "config.yaml:2"]);
    }
}

#[test]
fn wrong_variables_are_named() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("OUTBOARD_API__PROT", "1", &["OUTBOARD_API__PROT", "did you mean `OUTBOARD_API__PORT`?"]),
        ("OUTBOARD_PORT", "1", &["`port`", "OUTBOARD_PORT"]),
        ("OUTBOARD_API__PORT", "http", &["`api.port`", "OUTBOARD_API__PORT", "`http`"]),
        ("OUTBOARD_API", "8085", &["`api`", "section"]),
        ("OUTBOARD_", "1", &["is not a key"]),
        ("OUTBOARD_CONFIG", "missing.yaml", &["missing.yaml"]),
        ("OUTBOARD_WORKERS", "[{]", &["`workers[0]`", "is not YAML"]),
        ("OUTBOARD_WORKERS__0__URL", "http://h/", &["`workers[0].", "is missing"]),
    ];
    for (name, value, parts) in cases {
        refused(&["up"], &[(name, value)], None, parts);
    }
}

/// A Service named `outboard` puts these into every container; nobody wrote them.
#[test]
fn the_service_links_of_kubernetes_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let links = [
        ("OUTBOARD_PORT", "tcp://10.0.0.1:8085"),
        ("OUTBOARD_SERVICE_HOST", "10.0.0.1"),
        ("OUTBOARD_SERVICE_PORT", "8085"),
        ("OUTBOARD_SERVICE_PORT_HTTP", "8085"),
        ("OUTBOARD_PORT_8085_TCP", "tcp://10.0.0.1:8085"),
        ("OUTBOARD_PORT_8085_TCP_ADDR", "10.0.0.1"),
        ("OUTBOARD_PORT_8085_TCP_PORT", "8085"),
        ("OUTBOARD_PORT_8085_TCP_PROTO", "tcp"),
    ];
    let output = outboard(directory.path()).args(["config", "print"]).envs(links).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(output.stdout, run(directory.path(), &["config", "print"]).stdout);
}

/// Every key with a scalar, as a path of names.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, inner) in entries {
                leaves(inner, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// The configuration that sets one key.
fn config_with(path: &str, value: &str) -> String {
    let keys: Vec<&str> = path.split('.').collect();
    let lines = keys.iter().enumerate().map(|(depth, key)| format!("{}{key}:", "  ".repeat(depth)));
    format!("{} {value}\n", lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_key_refuses_a_value_of_the_wrong_shape_and_every_section_an_unknown_key() {
    let directory = tempfile::tempdir().unwrap();
    let printed = run(directory.path(), &["config", "print", "--json"]);
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let mut keys = Vec::new();
    leaves(&printed, "", &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    for key in &keys {
        refused(&["up"], &[], Some(&config_with(key, "{a: [b]}")), &[&format!("`{key}"), "config.yaml:"]);
        let unknown = format!("{key}x");
        refused(
            &["up"],
            &[],
            Some(&config_with(&unknown, "1")),
            &[&format!("`{unknown}`"), "did you mean", &format!("`{key}`")],
        );
    }
}
