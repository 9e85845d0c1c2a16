//! Signals.

use std::net::TcpStream;

use rustix::process::Signal;

use crate::{
    harness::{Server, Setup},
    http::JSON,
    receiver::HostApp,
};

fn config(app: &HostApp, drain: &str) -> String {
    format!(
        "drain: {drain}\nworkers:\n- name: orders\n  types: ['*']\n  url: {}\n  concurrency: 4\n",
        app.url
    )
}

#[test]
fn readiness_drops_first_and_posts_are_taken_until_the_work_is_drained() {
    let app = HostApp::answering(200);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&app, "20s");
    let setup = Setup { config: &config, ..Setup::default() };
    let mut server = Server::start_in(directory.path(), &setup);
    app.hold();
    for n in 0..8 {
        server.command("orders/x", &n.to_string());
    }
    server.wait_until("four are under way", |_| app.waiting() == 4);
    let mut kept = server.connect();
    server.signal(Signal::TERM);
    server.wait_for_log("shutting down: draining");
    let ready = kept.send("GET", "/readyz?verbose", &[], b"");
    assert_eq!((ready.status, ready.json()["reasons"][0]["reason"].as_str()), (503, Some("shutting down")));
    assert_eq!(kept.send("GET", "/livez", &[], b"").status, 200);
    let late = server.command("orders/x", "8");
    let body = br#"{"type":"orders/x","payload":9}"#;
    assert_eq!(kept.send("POST", "/commands", &[JSON], body).status, 202);
    app.release();
    assert_eq!(server.wait().code(), Some(0));
    assert!(TcpStream::connect(&server.address).is_err(), "the listener is closed");
    assert!(!directory.path().join("outboard-data/address").exists());
    let delivered: Vec<u64> = (0..4).map(|_| app.next()["id"].as_u64().unwrap()).collect();
    assert_eq!(app.waiting(), 0);
    let server = Server::start_in(directory.path(), &setup);
    let rest: Vec<_> = (0..6).map(|_| app.next()).collect();
    let mut all: Vec<u64> =
        rest.iter().map(|message| message["id"].as_u64().unwrap()).chain(delivered).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=10).collect::<Vec<_>>(), "each once: what ran was finished, the rest was not begun");
    assert!(rest.iter().all(|message| message["attempt"] == 1), "what did not run is not counted");
    server.wait_until("done", |server| server.state(late, "orders")["state"] == "done");
}

#[test]
fn what_does_not_finish_before_the_deadline_goes_back_uncounted() {
    let app = HostApp::answering(200);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&app, "300ms");
    let setup = Setup { config: &config, ..Setup::default() };
    let mut server = Server::start_in(directory.path(), &setup);
    app.hold();
    let id = server.command("orders/x", "1");
    assert_eq!(app.next()["attempt"], 1);
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    app.release();
    let _server = Server::start_in(directory.path(), &setup);
    let again = app.next();
    assert_eq!((again["id"].as_u64(), again["attempt"].as_u64()), (Some(id), Some(1)));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let app = HostApp::answering(200);
    let config = config(&app, "60s");
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut server = Server::with(Setup { config: &config, ..Setup::default() });
        app.hold();
        server.command("orders/x", "1");
        app.next();
        server.signal(first);
        server.wait_for_log("shutting down: draining");
        server.signal(second);
        assert_eq!(server.wait().code(), Some(130));
    }
    app.release();
}

#[test]
fn requests_under_load_are_answered_or_refused_but_never_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(directory.path(), &Setup::default());
    let address = server.address.clone();
    let stopped_at = std::sync::atomic::AtomicBool::new(false);
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let load = || {
            let mut taken = Vec::new();
            let Ok(_probe) = TcpStream::connect(&address) else { return taken };
            let mut connection = crate::http::Connection::open(&address);
            let body = br#"{"type":"outboard/echo","payload":1}"#;
            let head = format!(
                "POST /commands HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\ncontent-length: {}\r\n\r\n",
                JSON.0,
                JSON.1,
                body.len()
            );
            while !stopped_at.load(std::sync::atomic::Ordering::SeqCst) {
                connection.write(head.as_bytes());
                connection.write(body);
                let Some(answer) = connection.read() else { break };
                assert_eq!(answer.status, 202, "{}", answer.body);
                taken.push(answer.json()["id"].as_u64().unwrap());
            }
            taken
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        server.wait_until("some are taken", |server| {
            server.metric("outboard_log_tip ").is_some_and(|tip| tip > 50.0)
        });
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
        stopped_at.store(true, std::sync::atomic::Ordering::SeqCst);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let server = Server::start_in(directory.path(), &Setup::default());
    let tip = server.metric("outboard_log_tip ").unwrap();
    assert!(taken.len() > 50 && taken.iter().all(|&id| id as f64 <= tip));
    server.wait_until("all are done", |server| {
        server.metric(r#"outboard_worker_lag_messages{worker="echo"}"#) == Some(0.0)
    });
}

#[test]
fn a_disk_that_fails_ends_the_process_with_an_error_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { file_blocks: Some(1_024), ..Setup::default() };
    let mut server = Server::start_in(directory.path(), &setup);
    let mut connection = server.connect();
    let body = format!(r#"{{"type":"outboard/echo","payload":"{}"}}"#, "x".repeat(20_000));
    let mut taken = 0;
    let refused = loop {
        assert!(taken < 1_000, "the limit does not work");
        let answer = connection.send("POST", "/commands", &[JSON], body.as_bytes());
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
    };
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.json()["detail"].as_str().unwrap().contains("Idempotency-Key"), "{}", refused.body);
    assert_eq!(server.wait().code(), Some(1));
    let server = Server::start_in(directory.path(), &Setup::default());
    let tip = server.metric("outboard_log_tip ").unwrap();
    assert!(taken > 0 && tip >= f64::from(taken), "{taken} were taken, {tip} are there");
}

#[test]
fn slow_and_idle_clients_do_not_hold_it_up() {
    let mut server = Server::with(Setup { config: "drain: 60s\n", ..Setup::default() });
    let mut idle = server.connect();
    assert_eq!(idle.send("GET", "/livez", &[], b"").status, 200);
    let mut half = server.connect();
    half.write(b"POST /commands HT");
    let mut body = server.connect();
    body.write(b"POST /commands HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{");
    server.stop();
}
