//! `kill -9`, again and again, while posts and deliveries go on and the host app is of no help.

use std::{collections::BTreeSet, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Server, Setup, run, text},
    http::{JSON, PATIENCE},
    posters::{Posting, key},
    receiver::{HUNG, HostApp},
    scale::scaled,
};

const KILLS: u64 = 5;
const CONNECTIONS: usize = 32;
const CONCURRENCY: usize = 32;

#[test]
fn five_kills_under_load_lose_nothing_and_repeat_little() {
    let commands = scaled(3_000, 50_000);
    let mut app = HostApp::start();
    app.mode(json!({"mode": "faulty", "errors": 0.2, "hangs": 0.01}));
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "workers:\n- {{name: orders, types: ['orders/*'], url: '{}', timeout: 2s, concurrency: {CONCURRENCY}}}\n",
        app.url
    );
    let setup = Setup { config: &config, ..Setup::default() };
    let mut server = Server::start_in(directory.path(), &setup);
    let posting = Posting::default();
    let ids: BTreeSet<u64> = std::thread::scope(|scope| {
        let posters = posting.start(scope, CONNECTIONS, commands);
        posting.server_is_at(&server.address);
        // Posts come in portions, so that each kill hits posts as well as deliveries.
        let portion = commands / (KILLS + 1);
        posting.allow(portion);
        for kill in 1..=KILLS {
            app.wait_for((kill * portion - portion / 8) as usize, PATIENCE * 3);
            posting.allow((kill + 1) * portion);
            app.wait_for((kill * portion) as usize, PATIENCE * 3);
            posting.server_is_gone();
            server.signal(Signal::KILL);
            server.wait();
            server = Server::start_in(directory.path(), &setup);
            posting.server_is_at(&server.address);
        }
        posting.allow(commands);
        posters.into_iter().flat_map(|poster| poster.join().unwrap().into_values()).collect()
    });
    let all_came = app.has_got(commands as usize, Duration::from_secs(scaled(60, 600)));
    let report = app.report();
    let successes = report.successes();
    let lost: Vec<_> = ids.iter().filter(|id| !successes.contains_key(id)).collect();
    assert!(lost.is_empty(), "accepted and never delivered: {lost:?}");
    assert!(all_came, "there are fewer ids than commands");

    assert_eq!(ids.len() as u64, commands, "each command has an id of its own");
    assert_eq!(server.metric("outboard_log_tip "), Some(commands as f64), "no post was written twice");
    let again = server.connect().send(
        "POST",
        "/commands",
        &[JSON, ("idempotency-key", &key(1))],
        br#"{"type":"orders/confirm","payload":{"order_id":1}}"#,
    );
    assert!(again.status == 202 && ids.contains(&again.json()["id"].as_u64().unwrap()), "{}", again.body);
    nothing_is_left_over(&server);
    assert_eq!(server.get("/dead").json()["dead"], json!([]));
    assert_log_is_sound(directory.path(), commands);
    server.stop();
    assert_log_is_sound(directory.path(), commands);

    let report = app.report();
    let repeats: usize = report.successes().values().map(|times| times - 1).sum();
    let bound = KILLS as usize * 2 * CONCURRENCY;
    let (refused, hung) = (report.answered(500), report.answered(HUNG));
    println!(
        "{commands} commands, {KILLS} kills: {} requests, of which {refused} were answered 500 and {hung} hung; \
         {} posts sent again; {repeats} of at most {bound} repeats; 0 lost, 0 dead",
        report.requests.len(),
        posting.repeated()
    );
    assert!(repeats <= bound, "{repeats} repeats");
    assert!(refused as u64 > commands / 10 && hung > 0, "the host app was too good");
    assert_eq!(posting.accepted(), commands);
}

/// Waits until the worker has nothing in hand, nothing parked and nothing before it.
fn nothing_is_left_over(server: &Server) {
    server.wait_until("all is done", |server| {
        let workers = server.get("/workers").json();
        let worker = &workers["workers"][0];
        ["lag", "parked", "in_flight"].iter().all(|what| worker[what] == 0)
    });
}

fn assert_log_is_sound(directory: &Path, messages: u64) {
    let verified = run(directory, &["log", "verify", "--json"]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(found["messages"], messages, "{found}");
}
