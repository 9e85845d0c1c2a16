//! A start after a crash under load, on a directory with a long life behind it.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    harness::{Server, Setup, run, text},
    http::{Connection, JSON},
    scale::scaled,
};

const CONNECTIONS: usize = 8;

/// What a start was like.
struct Start {
    ready: Duration,
    consuming: Duration,
    rows_read: f64,
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ready, consuming, rows_read } = self;
        write!(f, "ready in {ready:?}, consuming after {consuming:?}, {rows_read} rows read")
    }
}

#[test]
fn after_a_crash_it_is_ready_and_consumes_at_once_whatever_the_log_holds() {
    let (parked, keys) = scaled((300, 300), (100_000, 1_000_000));
    let (small, large) = (scaled(2_000, 1_000_000), scaled(20_000, 10_000_000));
    let [few, many] = [small, large].map(|messages| {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), messages, parked, keys);
        let (mut server, clean) = start(directory.path());
        let kept = crash_under_load(&mut server);
        let (mut server, crashed) = start(directory.path());
        what_was_accepted_is_kept(&server, &kept);
        assert_eq!(server.metric(r#"outboard_worker_parked{worker="echo"}"#), Some(f64::from(parked)));
        server.stop();
        let (_server, again) = start(directory.path());
        println!("{messages} messages, {parked} parked, {keys} keys: first {clean}, after a crash {crashed}, clean {again}");
        [clean, crashed, again]
    });
    for (few, many) in few.iter().zip(&many) {
        // After a crash, what was under way is read, too: at most twice the claims.
        assert!(many.rows_read <= few.rows_read + 256.0, "rows read grow with the log: {few}; {many}");
    }
}

fn fill(directory: &Path, messages: u32, parked: u32, keys: u32) {
    let numbers = [messages, parked, keys].map(|number| number.to_string());
    let [messages, parked, keys] = numbers.each_ref().map(String::as_str);
    let mut fill = vec!["bench", "fill", "--data-dir", "outboard-data"];
    fill.extend(["--messages", messages, "--parked", parked, "--keys", keys]);
    let filled = run(directory, &fill);
    assert!(filled.status.success(), "{}", text(&filled.stderr));
}

/// Starts the server and watches it until it has handled a command.
fn start(directory: &Path) -> (Server, Start) {
    let began = Instant::now();
    let server = Server::start_in(directory, &Setup::default());
    assert_eq!(server.get("/readyz").status, 200);
    let ready = began.elapsed();
    let id = server.command("outboard/echo", "1");
    server.wait_until("done", |server| server.state(id, "echo")["state"] == "done");
    let consuming = began.elapsed();
    let rows_read = server.metric("outboard_log_rows_read_at_open ").unwrap();
    (server, Start { ready, consuming, rows_read })
}

/// Kills it while commands are posted; gives the key and the id of each that was accepted.
fn crash_under_load(server: &mut Server) -> Vec<(String, u64)> {
    let (address, is_over) = (server.address.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let load = |connection: usize| {
            let (address, is_over) = (&address, &is_over);
            move || {
                let (mut client, mut accepted) = (Connection::open(address), Vec::new());
                for number in 0.. {
                    let key = format!("load-{connection}-{number}");
                    let headers = [JSON, ("idempotency-key", &key)];
                    let body = br#"{"type":"outboard/echo","payload":1}"#;
                    let Some(answer) = client.try_send("POST", "/commands", &headers, body) else { break };
                    assert_eq!(answer.status, 202, "{}", answer.body);
                    accepted.push((key, answer.json()["id"].as_u64().unwrap()));
                }
                assert!(is_over.load(Ordering::SeqCst), "the server hung up");
                accepted
            }
        };
        let before = server.metric("outboard_log_tip ").unwrap();
        let threads: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(load(connection))).collect();
        server.wait_until("it is under load", |server| {
            server.metric("outboard_log_tip ").is_some_and(|tip| tip > before + scaled(500.0, 50_000.0))
        });
        is_over.store(true, Ordering::SeqCst);
        server.signal(Signal::KILL);
        server.wait();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn what_was_accepted_is_kept(server: &Server, accepted: &[(String, u64)]) {
    server.wait_until("what was before it is done", |server| {
        server.metric(r#"outboard_worker_lag_messages{worker="echo"}"#) == Some(0.0)
    });
    let tip = server.metric("outboard_log_tip ").unwrap();
    let mut client = server.connect();
    for (key, id) in accepted.iter().rev().take(500) {
        let headers = [JSON, ("idempotency-key", key.as_str())];
        let body = br#"{"type":"outboard/echo","payload":1}"#;
        let again = client.send("POST", "/commands", &headers, body);
        assert_eq!((again.status, again.json()), (202, json!({"id": id})), "the same answer for {key}");
    }
    assert_eq!(server.metric("outboard_log_tip "), Some(tip), "nothing was written twice");
    assert_eq!(server.get("/dead").json()["dead"], json!([]));
}
