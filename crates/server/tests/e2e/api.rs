//! Commands and what is told about them.

use serde_json::json;

use crate::{
    harness::{Server, Setup},
    http::{Connection, JSON},
};

const ECHO: &str = "outboard/echo";

#[test]
fn the_first_command_is_handled_by_the_built_in_worker() {
    let server = Server::start();
    let id = server.command(ECHO, r#"{"hello": "world"}"#);
    server.wait_until("done", |server| server.state(id, "echo")["state"] == "done");
    let message = server.get(&format!("/messages/{id}")).json();
    assert_eq!((&message["type"], &message["payload"]), (&json!(ECHO), &json!({"hello": "world"})));
    let unknown = server.post("/commands", r#"{"type":"orders/x","payload":1}"#);
    assert_eq!(unknown.status, 422);
    assert!(unknown.json()["detail"].as_str().unwrap().contains("known are outboard/echo"));
    assert_eq!(server.get("/readyz").json(), json!({"status": "ready"}));
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.connect().send("HEAD", "/livez", &[], b"").status, 200);
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let server = Server::start();
    let one = format!(r#"{{"type":"{ECHO}","payload":1}}"#);
    let answer = server.post("/commands/batch", &format!("[{one},{one},{one}]"));
    assert_eq!((answer.status, answer.json()), (202, json!({"first_id": 1, "last_id": 3, "count": 3})));
    let lines = format!("{one}\n{one}\n");
    let ndjson = [("content-type", "application/x-ndjson")];
    let answer = server.connect().send("POST", "/commands/batch", &ndjson, lines.as_bytes());
    assert_eq!(answer.json(), json!({"first_id": 4, "last_id": 5, "count": 2}));
    let bad = server.post("/commands/batch", &format!(r#"[{one},{{"type":"nobody/x","payload":1}}]"#));
    assert_eq!((bad.status, bad.json()["errors"][0]["field"].clone()), (422, json!("[1].type")));
    assert_eq!(server.post("/commands/batch", "[]").status, 422);
    assert_eq!(server.command(ECHO, "1"), 6, "nothing of the bad batch was appended");
}

#[test]
fn messages_are_read_in_pages() {
    let server = Server::start();
    let one = format!(r#"{{"type":"{ECHO}","payload":1}}"#);
    server.post("/commands/batch", &format!("[{}]", vec![one; 25].join(",")));
    let (mut after, mut ids) = (0, Vec::new());
    loop {
        let page = server.get(&format!("/messages?after={after}&limit=10")).json();
        ids.extend(
            page["messages"].as_array().unwrap().iter().map(|message| message["id"].as_u64().unwrap()),
        );
        after = page["next"].as_u64().unwrap();
        if page["next"] == page["tip"] {
            break;
        }
    }
    assert_eq!(ids, (1..=25).collect::<Vec<_>>());
    let none = server.get("/messages?type=orders/*").json();
    assert_eq!((&none["messages"], &none["next"]), (&json!([]), &json!(25)), "a bounded scan moves on");
    let beyond = server.get("/messages?after=1000").json();
    assert_eq!((&beyond["messages"], &beyond["tip"]), (&json!([]), &json!(25)));
}

#[test]
fn an_idempotency_key_answers_as_it_did_first_even_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_in(directory.path(), &Setup::default());
    let send = |server: &Server, path: &str, key: &str, payload: u32| {
        let command = format!(r#"{{"type":"{ECHO}","payload":{payload}}}"#);
        let body = if path == "/commands" { command } else { format!("[{command}]") };
        server.connect().send("POST", path, &[JSON, ("idempotency-key", key)], body.as_bytes())
    };
    let first = send(&server, "/commands", "a", 1);
    assert_eq!((first.status, first.body.as_str()), (202, r#"{"id":1}"#));
    assert_eq!(send(&server, "/commands", "a", 1).body, first.body);
    let other = send(&server, "/commands", "a", 2);
    assert_eq!((other.status, other.json()["errors"][0]["field"].clone()), (422, json!("Idempotency-Key")));
    assert_eq!(send(&server, "/commands/batch", "a", 1).status, 202, "a key counts for its path");
    assert_eq!(send(&server, "/commands", "b", 1).body, r#"{"id":3}"#);
    drop(server);
    let server = Server::start_in(directory.path(), &Setup::default());
    assert_eq!(send(&server, "/commands", "a", 1).body, first.body);
    assert_eq!(send(&server, "/commands", "a", 2).status, 422);
    assert_eq!(send(&server, "/commands", &"k".repeat(255), 1).status, 202);
    assert_eq!(send(&server, "/commands", &"k".repeat(256), 1).status, 400);
}

#[test]
fn many_with_the_same_key_at_once_append_once() {
    let server = Server::start();
    let body = format!(r#"{{"type":"{ECHO}","payload":1}}"#);
    let address = &server.address;
    let answers: Vec<String> = std::thread::scope(|scope| {
        let send = || {
            Connection::open(address)
                .send("POST", "/commands", &[JSON, ("idempotency-key", "k")], body.as_bytes())
                .body
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, vec![r#"{"id":1}"#; 8]);
    assert_eq!(server.metric("outboard_log_appended_messages_total "), Some(1.0));
}

#[test]
fn a_scheduled_command_waits_for_its_time() {
    let server = Server::start();
    let later = format!(
        r#"{{"type":"{ECHO}","payload":1,"run_at":"2999-01-01T00:00:00Z","headers":{{"tenant":"7"}}}}"#
    );
    let id = server.post("/commands", &later).json()["id"].as_u64().unwrap();
    let past = format!(r#"{{"type":"{ECHO}","payload":1,"run_at":"2020-01-01T00:00:00+02:00"}}"#);
    let past = server.post("/commands", &past).json()["id"].as_u64().unwrap();
    server.wait_until("the past one is done", |server| server.state(past, "echo")["state"] == "done");
    server.wait_until("the other is parked", |server| server.state(id, "echo")["state"] == "scheduled");
    assert_eq!(server.state(id, "echo")["due"], "2999-01-01T00:00:00Z");
    let message = server.get(&format!("/messages/{id}")).json();
    assert_eq!(
        (&message["run_at"], &message["headers"]["tenant"]),
        (&json!("2999-01-01T00:00:00Z"), &json!("7"))
    );
}

#[test]
fn metrics_are_served_on_both_ports() {
    let server = Server::start();
    server.command(ECHO, "1");
    let mut other = Connection::open(&server.metrics);
    let text = other.send("GET", "/metrics", &[], b"").body;
    assert!(text.contains("outboard_log_appended_messages_total 1\n"), "{text}");
    assert_eq!(other.send("GET", "/commands", &[], b"").status, 404);
    assert_eq!(other.send("POST", "/metrics", &[], b"").status, 405);
    assert_eq!(server.metric("outboard_log_appended_messages_total "), Some(1.0));
    assert_eq!(server.metric(r#"outboard_http_requests_total{route="/commands",status="202"}"#), Some(1.0));
    for name in
        ["outboard_start_seconds", "outboard_log_rows_read_at_open", "outboard_log_commit_seconds_count"]
    {
        assert!(server.metric(name).is_some_and(|value| value > 0.0), "{name}");
    }
    for name in
        ["lag_messages", "parked", "in_flight", "outage", "handled_total", "failed_total", "retried_total"]
    {
        let full = format!(r#"outboard_worker_{name}{{worker="echo"}}"#);
        assert!(server.metric(&full).is_some(), "{full}");
    }
}
