//! The commands beside `up`.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Server, Setup, outboard, run, run_with_input, text};

#[test]
fn help_has_examples_and_the_version_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for command in [&["up"][..], &["submit"], &["log", "verify"], &["bench", "fill"], &[]] {
        let help = run(directory.path(), &[command, &["--help"]].concat());
        assert_eq!(help.status.code(), Some(0));
        assert!(text(&help.stdout).contains("Examples:"), "{command:?}");
    }
    let version = run(directory.path(), &["--version"]);
    assert_eq!(text(&version.stdout), format!("outboard {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_second_up_on_the_same_directory_is_refused_with_one_clear_line() {
    let server = Server::start();
    let second = run(server.directory(), &["up", "--port", "0"]);
    let port = server.address.rsplit(':').next().unwrap();
    let on_its_port = run(server.directory(), &["up", "--port", port]);
    for second in [second, on_its_port] {
        assert_eq!(second.status.code(), Some(1));
        let told = text(&second.stderr);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains("outboard-data is in use by process"), "{told}");
        assert!(told.contains("stop it, or name another directory with --data-dir"), "{told}");
    }
    assert_eq!(server.get("/readyz").status, 200, "the first one is not disturbed");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    for (key, variable) in [("api.port", "OUTBOARD_API__PORT"), ("metrics.port", "OUTBOARD_METRICS__PORT")] {
        let mut up = outboard(directory.path());
        up.arg("up").env("OUTBOARD_API__PORT", "0").env("OUTBOARD_METRICS__PORT", "0").env(variable, &port);
        let up = up.output().unwrap();
        let told = text(&up.stderr);
        assert_eq!((up.status.code(), told.lines().count()), (Some(1), 1), "{told}");
        for part in
            [format!("`{key}`: cannot listen on 127.0.0.1:{port}"), format!("or {variable}; 0 takes any")]
        {
            assert!(told.contains(&part), "{told}");
        }
    }
    assert!(!directory.path().join("outboard-data").exists(), "no directory is left behind");
}

#[test]
fn a_directory_that_cannot_be_used_is_named_with_the_mend() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "x").unwrap();
    std::fs::create_dir(directory.path().join("spoiled")).unwrap();
    std::fs::write(directory.path().join("spoiled/outboard.db"), "not a database, whoever wrote it").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["up", "--port", "0", "--data-dir", "file"], &["file: ", "not a directory", "--data-dir"]),
        (
            &["up", "--port", "0", "--data-dir", "spoiled"],
            &["spoiled: ", "outboard.db", "backup", "--data-dir"],
        ),
        (&["log", "verify", "--data-dir", "spoiled"], &["spoiled: ", "outboard.db", "backup"]),
    ];
    for (arguments, parts) in cases {
        let output =
            outboard(directory.path()).args(*arguments).env("OUTBOARD_METRICS__PORT", "0").output().unwrap();
        let told = text(&output.stderr);
        assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{arguments:?}: {told}");
        for part in *parts {
            assert!(told.contains(part), "{arguments:?} says {told:?}, which lacks {part:?}");
        }
    }
}

#[test]
fn submit_finds_the_server_and_prints_ids() {
    let server = Server::start();
    let one = run(server.directory(), &["submit", "outboard/echo", r#"{"a":1}"#, "--header", "tenant=7"]);
    assert_eq!((text(&one.stdout).as_str(), one.status.code()), ("1\n", Some(0)), "{}", text(&one.stderr));
    assert_eq!(server.get("/messages/1").json()["headers"], json!({"tenant": "7"}));
    let line = "{\"type\":\"outboard/echo\",\"payload\":1}\n";
    let many = run_with_input(server.directory(), &["submit"], &format!("{line}\n{line}{}", line.trim_end()));
    assert_eq!(text(&many.stdout), "2\n3\n4\n");
    let more = run_with_input(server.directory(), &["submit", "--json"], &line.repeat(2_500));
    let batches: Vec<Value> =
        text(&more.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(batches.len(), 3);
    assert_eq!(batches[2], json!({"first_id": 2_005, "last_id": 2_504, "count": 500}));
    let key = ["submit", "outboard/echo", "1", "--idempotency-key", "k"];
    assert_eq!(text(&run(server.directory(), &key).stdout), "2505\n");
    assert_eq!(text(&run(server.directory(), &key).stdout), "2505\n");
    let url = format!("http://{}", server.address);
    let elsewhere = tempfile::tempdir().unwrap();
    let by_url = run(elsewhere.path(), &["submit", "--url", &url, "outboard/echo", "1", "--json"]);
    assert_eq!(text(&by_url.stdout), "{\"id\":2506}\n");
    let refused = run(server.directory(), &["submit", "nobody/x", "1"]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(text(&refused.stderr).contains("known are outboard/echo"));
}

/// A payload that is found again in the file.
const MARK: &str = "not to be mistaken for anything else";

#[test]
fn the_log_is_verified_running_stopped_and_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let verify = || run(directory.path(), &["log", "verify", "--json"]);
    let missing = verify();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("does not exist"));
    let mut server = Server::start_in(directory.path(), &Setup::default());
    for n in 0..5 {
        server.command("outboard/echo", &format!(r#""{MARK} {n}""#));
    }
    let sound = |found: &Value| found["messages"] == 5 && found["clean"] == true;
    let parse = |output: std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert!(sound(&parse(verify())), "running");
    server.stop();
    assert!(sound(&parse(verify())), "stopped");
    let server = Server::start_in(directory.path(), &Setup::default());
    drop(server);
    assert!(directory.path().join("outboard-data/address").exists(), "a crash leaves the address behind");
    assert!(sound(&parse(verify())), "crashed");
    assert_eq!(
        text(&run(directory.path(), &["log", "verify"]).stdout),
        "messages: 5, workers: 1; all is as it was written\n"
    );
    // One changed byte in one payload is found.
    spoil_one_byte(directory.path());
    let spoiled = run(directory.path(), &["log", "verify", "--json"]);
    assert_eq!(spoiled.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&spoiled.stdout).unwrap()["clean"], false);
}

/// Changes one byte of the first payload that is marked.
fn spoil_one_byte(directory: &Path) {
    let database = directory.join("outboard-data/outboard.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes());
    bytes[at.expect("a clean stop has moved everything into the file")] ^= 1;
    std::fs::write(&database, bytes).unwrap();
}

#[test]
fn a_damaged_message_stops_its_worker_which_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(directory.path(), &Setup::default());
    let echo = |server: &Server| server.get("/workers").json()["workers"][0].clone();
    assert_eq!(server.post("/workers/echo/pause", "").status, 200);
    server.command("outboard/echo", &format!(r#""{MARK}""#));
    server.stop();
    spoil_one_byte(directory.path());
    let server = Server::start_in(directory.path(), &Setup::default());
    assert_eq!(echo(&server)["state"], "paused", "a list that fails tells nothing");
    assert_eq!(server.post("/workers/echo/resume", "").status, 200);
    server.wait_until("failed", |server| echo(server)["state"] == "failed");
    assert_eq!(server.get("/readyz").status, 503);
}

#[test]
fn fill_leaves_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let fill = [
        "bench",
        "fill",
        "--data-dir",
        "outboard-data",
        "--messages",
        "5000",
        "--parked",
        "100",
        "--keys",
        "50",
    ];
    let filled = run(directory.path(), &fill);
    assert_eq!(filled.status.code(), Some(0), "{}", text(&filled.stderr));
    let server = Server::start_in(directory.path(), &Setup::default());
    assert_eq!(server.metric("outboard_log_tip "), Some(5_000.0));
    assert_eq!(server.metric(r#"outboard_worker_parked{worker="echo"}"#), Some(100.0));
    assert_eq!(server.metric(r#"outboard_worker_lag_messages{worker="echo"}"#), Some(0.0));
    assert_eq!(server.metric("outboard_idempotency_keys "), Some(50.0));
    let id = server.command("outboard/echo", "1");
    server.wait_until("done", |server| server.state(id, "echo")["state"] == "done");
}

#[test]
fn the_rows_read_at_start_do_not_grow_with_the_log() {
    let rows = |messages: &str| {
        let directory = tempfile::tempdir().unwrap();
        let fill = [
            "bench",
            "fill",
            "--data-dir",
            "outboard-data",
            "--messages",
            messages,
            "--parked",
            "64",
            "--keys",
            "64",
        ];
        assert_eq!(run(directory.path(), &fill).status.code(), Some(0));
        Server::start_in(directory.path(), &Setup::default())
            .metric("outboard_log_rows_read_at_open ")
            .unwrap()
    };
    assert_eq!(rows("200"), rows("20000"));
}

#[test]
fn the_configuration_is_checked_and_printed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.yaml"), "api:\n  port: 1234\n").unwrap();
    assert_eq!(run(directory.path(), &["config", "check"]).status.code(), Some(0));
    let printed: Value = serde_json::from_slice(&run(directory.path(), &["config", "print"]).stdout).unwrap();
    assert_eq!((&printed["api"]["port"], &printed["fleet"]["port"]), (&json!(1234), &json!(8001)));
    let worker =
        "workers:\n- {name: a, types: [a], url: 'http://h/x?token=hunter2', probe: 'http://h/up?hunter2'}\n";
    std::fs::write(directory.path().join("config.yaml"), worker).unwrap();
    let printed = text(&run(directory.path(), &["config", "print"]).stdout);
    assert!(printed.contains("\"http://h/x?…\"") && !printed.contains("hunter2"), "{printed}");
}
