//! How long a start takes after a crash under load, and how much memory the server needs. Figures are printed, not
//! asserted; `scripts/soak` runs it with ten million messages.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use rustix::process::Signal;

use crate::{
    harness::{Server, Setup, run, text},
    http::{Connection, JSON},
    scale::scaled,
};

#[test]
fn a_large_directory_starts_and_consumes_at_once_after_a_crash_under_load() {
    // A hundredth of them is parked, and a tenth has idempotency keys.
    let messages: u64 = scaled(100_000, 10_000_000);
    let directory = tempfile::tempdir().unwrap();
    let (parked, keys) = ((messages / 100).to_string(), (messages / 10).to_string());
    let messages_text = messages.to_string();
    let counts = ["--messages", &messages_text, "--parked", &parked, "--keys", &keys];
    let fill =
        run(directory.path(), &[&["bench", "fill", "--data-dir", "outboard-data"][..], &counts].concat());
    assert_eq!(fill.status.code(), Some(0), "{}", text(&fill.stderr));

    let mut server = start(directory.path(), "after a clean stop");
    load_until_killed(&mut server);
    let server = start(directory.path(), "after kill -9 under load");
    let last = server.command("outboard/echo", "1");
    server.wait_until("it consumes", |server| server.state(last, "echo")["state"] == "done");
    // What may have crashed the process runs alone, beside the flow, and holds a parked row until it has.
    let parked = parked.parse::<f64>().unwrap();
    server.wait_until("only what was parked is parked", |server| {
        server.metric(r#"outboard_worker_parked{worker="echo"}"#) == Some(parked)
    });
    assert!(server.metric("outboard_log_rows_read_at_open ").unwrap() < 1_000.0);
    assert_eq!(server.get("/dead").json()["dead"].as_array().unwrap().len(), 0);
}

/// Starts it, and prints how long it took until `/readyz` answered 200.
fn start(directory: &std::path::Path, when: &str) -> Server {
    let begun = Instant::now();
    let server = Server::start_in(directory, &Setup::default());
    assert_eq!(server.get("/readyz").status, 200);
    let ready = begun.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap_or_default();
    let memory =
        status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: unknown").to_owned();
    let line = format!("{when}: ready {ready:?} after exec, {memory}");
    writeln!(std::io::stderr().lock(), "{line}").unwrap();
    server
}

/// Posts over eight connections and kills the server after two thousand answers.
fn load_until_killed(server: &mut Server) {
    let address = server.address.clone();
    let (ended, begin) = (AtomicBool::new(false), server.metric("outboard_log_tip ").unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(&address);
                let body = br#"{"type":"outboard/echo","payload":{"order_id":7}}"#;
                while !ended.load(Ordering::SeqCst) {
                    let head = format!(
                        "POST /commands HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\ncontent-length: {}\r\n\r\n",
                        JSON.0,
                        JSON.1,
                        body.len()
                    );
                    connection.write(head.as_bytes());
                    connection.write(body);
                    if connection.read().is_none() {
                        return;
                    }
                }
            });
        }
        server.wait_until("two thousand are taken", |server| {
            server.metric("outboard_log_tip ").is_some_and(|tip| tip >= begin + 2_000.0)
        });
        server.signal(Signal::KILL);
        server.wait();
        ended.store(true, Ordering::SeqCst);
    });
}
