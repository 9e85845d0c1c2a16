//! Forward workers: pausing, dead letters, and what readiness says of them.

use serde_json::{Value, json};

use crate::{
    harness::{Server, Setup, run, run_with_input, text},
    receiver::HostApp,
};

fn forward(app: &HostApp, more: &str) -> Server {
    let config = format!("workers:\n- name: orders\n  types: ['orders/*']\n  url: {}\n{more}", app.url);
    Server::with(Setup { config: &config, ..Setup::default() })
}

#[test]
fn a_command_reaches_the_host_app() {
    let app = HostApp::answering(204);
    let server = Server::with(Setup { arguments: &["--forward", &app.url], ..Setup::default() });
    let id = server.command("any/thing", r#"{"a":1}"#);
    let message = app.next();
    assert_eq!((&message["id"], &message["type"]), (&json!(id), &json!("any/thing")));
    assert_eq!((&message["payload"], &message["attempt"]), (&json!({"a": 1}), &json!(1)));
    server.wait_until("done", |server| server.state(id, "forward")["state"] == "done");
}

#[test]
fn a_paused_worker_is_degraded_but_ready_and_stays_paused_after_a_restart() {
    let app = HostApp::answering(200);
    let directory = tempfile::tempdir().unwrap();
    let config = format!("workers:\n- name: orders\n  types: ['orders/*']\n  url: {}\n", app.url);
    let setup = Setup { config: &config, ..Setup::default() };
    let mut server = Server::start_in(directory.path(), &setup);
    assert_eq!(server.post("/workers/orders/pause", r#"{"reason":"deploy"}"#).status, 200);
    let paused = server.wait_for_log("the worker is paused");
    assert_eq!((&paused["worker"], &paused["reason"]), (&json!("orders"), &json!("deploy")));
    server.stop();
    let mut server = Server::start_in(directory.path(), &setup);
    let ready = server.get("/readyz?verbose");
    assert_eq!((ready.status, ready.json()["status"].clone()), (200, json!("degraded")));
    assert_eq!(ready.json()["reasons"], json!([{"part": "worker orders", "reason": "paused: deploy"}]));
    let id = server.command("orders/confirm", "1");
    let workers = server.get("/workers").json();
    assert_eq!(
        (&workers["workers"][0]["state"], &workers["workers"][0]["lag"]),
        (&json!("paused"), &json!(1))
    );
    assert_eq!(server.state(id, "orders")["state"], "pending");
    assert_eq!(server.post("/workers/orders/resume", "").status, 200);
    assert_eq!(server.wait_for_log("the worker is resumed")["worker"], "orders");
    assert_eq!(app.next()["id"], json!(id));
    assert_eq!(server.get("/readyz?verbose").json()["status"], "ready");
    assert_eq!(server.post("/workers/nobody/pause", "").status, 404);
    assert_eq!(server.post("/workers/nobody/resume", "").status, 404);
}

#[test]
fn a_refused_message_is_a_dead_letter_until_it_is_retried() {
    let app = HostApp::answering(400);
    let server = forward(&app, "");
    let id = server.command("orders/confirm", r#"{"order_id":7}"#);
    server.wait_until("dead", |server| server.state(id, "orders")["state"] == "dead");
    let dead = server.get("/dead").json();
    let letter = &dead["dead"][0];
    assert_eq!((&letter["message_id"], &letter["worker"]), (&json!(id), &json!("orders")));
    assert!(letter["reason"].as_str().unwrap().contains("400"), "{letter}");
    app.answer(200);
    let dead_id = letter["id"].as_u64().unwrap();
    assert_eq!(server.post(&format!("/dead/{dead_id}/retry"), "").status, 200);
    server.wait_until("done", |server| server.state(id, "orders")["state"] == "done");
    assert_eq!(server.get("/dead").json()["dead"], json!([]));
    assert_eq!(server.post(&format!("/dead/{dead_id}/retry"), "").status, 404);
}

#[test]
fn an_app_that_is_gone_makes_the_server_degraded_but_not_unready() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!("workers:\n- name: orders\n  types: ['*']\n  url: http://{gone}/\n");
    let server = Server::with(Setup { config: &config, ..Setup::default() });
    for n in 0..10 {
        server.command("orders/confirm", &n.to_string());
    }
    server.wait_until("an outage", |server| server.get("/workers").json()["workers"][0]["state"] == "outage");
    let ready = server.get("/readyz?verbose");
    assert_eq!((ready.status, ready.json()["status"].clone()), (200, json!("degraded")));
    assert_eq!(server.metric(r#"outboard_worker_outage{worker="orders"}"#), Some(1.0));
    server.command("orders/confirm", "11");
}

#[test]
fn a_new_worker_begins_at_the_end_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(directory.path(), &Setup::default());
    let id = server.command("outboard/echo", "1");
    server.stop();
    let (app, late) = (HostApp::answering(200), HostApp::answering(200));
    let config = format!(
        "workers:\n- {{name: all, types: ['*'], url: '{}', from: beginning}}\n- {{name: late, types: ['*'], url: '{}'}}\n",
        app.url, late.url
    );
    let server = Server::start_in(directory.path(), &Setup { config: &config, ..Setup::default() });
    assert_eq!(app.next()["id"], json!(id));
    let next = server.command("outboard/echo", "2");
    assert_eq!(late.next()["id"], json!(next));
    assert_eq!(server.state(id, "late")["state"], "before");
    assert_eq!(server.state(next, "echo"), json!(null), "nothing is told of a worker that does not run");
}

#[test]
fn a_worker_that_is_added_again_gets_what_it_missed() {
    let (app, other) = (HostApp::answering(200), HostApp::answering(200));
    let directory = tempfile::tempdir().unwrap();
    let worker = |name: &str, url: &str| format!("- {{name: {name}, types: ['*'], url: '{url}'}}\n");
    let both = format!("workers:\n{}{}", worker("orders", &app.url), worker("other", &other.url));
    let alone = format!("workers:\n{}", worker("other", &other.url));
    let start = |config: &str| Server::start_in(directory.path(), &Setup { config, ..Setup::default() });
    let mut server = start(&both);
    let first = server.command("orders/confirm", "1");
    assert_eq!(app.next()["id"], json!(first));
    server.wait_until("done", |server| server.state(first, "orders")["state"] == "done");
    server.stop();
    let mut server = start(&alone);
    let missed = server.command("orders/confirm", "2");
    assert_eq!(server.state(missed, "orders"), json!(null), "it does not run");
    server.stop();
    let _server = start(&both);
    assert_eq!(app.next()["id"], json!(missed));
}

#[test]
fn after_a_410_and_a_resume_the_same_message_goes_first() {
    let app = HostApp::answering(410);
    // With more at once, requests that are sent in order may arrive in another one.
    let server = forward(&app, "  concurrency: 1\n");
    let first = server.command("orders/confirm", "1");
    assert_eq!(app.next()["id"], json!(first));
    server.wait_until("paused", |server| server.get("/workers").json()["workers"][0]["state"] == "paused");
    let second = server.command("orders/confirm", "2");
    app.answer(200);
    assert_eq!(server.post("/workers/orders/resume", "").status, 200);
    assert_eq!((app.next()["id"].clone(), app.next()["id"].clone()), (json!(first), json!(second)));
}

#[test]
fn the_commands_list_pause_resume_and_retry() {
    let app = HostApp::answering(400);
    let server = forward(&app, "");
    let outboard = |arguments: &[&str]| {
        let output = run(server.directory(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let id = server.command("orders/confirm", "1");
    server.wait_until("dead", |server| server.state(id, "orders")["state"] == "dead");
    let dead = outboard(&["dead"]);
    assert!(dead.contains(&format!("message {id}\torders\t1 attempts\t")) && dead.contains("400"), "{dead}");
    app.answer(200);
    let dead_id = dead.split('\t').next().unwrap();
    assert_eq!(outboard(&["dead", "retry", dead_id]), format!("message {id} will be tried again\n"));
    server.wait_until("done", |server| server.state(id, "orders")["state"] == "done");
    assert_eq!(outboard(&["dead", "--worker", "orders"]), "");
    assert_eq!(outboard(&["workers", "pause", "orders", "--reason", "deploy"]), "orders is paused\n");
    assert_eq!(outboard(&["workers"]), "orders\tpaused\tlag 0\tparked 0\tdead 0\tdeploy\n");
    assert_eq!(outboard(&["workers", "resume", "orders"]), "orders goes on\n");
    let colored = "\u{1b}[31mdeploy\tuntil\nnoon";
    outboard(&["workers", "pause", "orders", "--reason", colored]);
    assert_eq!(outboard(&["workers"]), "orders\tpaused\tlag 0\tparked 0\tdead 0\t[31mdeploy until noon\n");
    assert_eq!(server.get("/workers").json()["workers"][0]["reason"], "[31mdeploy until noon");
    let missing = run(server.directory(), &["workers", "pause", "nobody"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("nobody"));
}

#[test]
fn all_dead_letters_are_retried_once_each() {
    let (app, other) = (HostApp::answering(400), HostApp::answering(400));
    let config = format!(
        "workers:\n- {{name: orders, types: ['orders/*'], url: '{}'}}\n- {{name: mail, types: ['mail/*'], url: '{}'}}\n",
        app.url, other.url
    );
    let server = Server::with(Setup { config: &config, ..Setup::default() });
    let retry = |arguments: &[&str]| {
        let output = run(server.directory(), &[&["dead"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(retry(&["retry", "--all"]), "dead letters retried: 0\n");
    // More than a page of the list.
    let lines = "{\"type\":\"orders/confirm\",\"payload\":1}\n".repeat(1_050);
    assert_eq!(run_with_input(server.directory(), &["submit"], &lines).status.code(), Some(0));
    server.command("mail/send", "1");
    let dead = |name: &str| server.metric(&format!(r#"outboard_worker_dead{{worker="{name}"}}"#));
    server.wait_until("all are dead", |_| dead("orders") == Some(1_050.0) && dead("mail") == Some(1.0));

    // The other worker's is left alone, wherever its name is written; those that die again are not retried twice.
    let told = retry(&["--worker", "orders", "retry", "--all"]);
    assert!(told.starts_with("100 of 1050\n200 of 1050\n"), "{told}");
    assert!(told.ends_with("\ndead letters retried: 1050\n"), "{told}");
    server.wait_until("all are dead again", |_| dead("orders") == Some(1_050.0));
    assert_eq!(dead("mail"), Some(1.0));
    app.answer(200);
    let summary: Value =
        serde_json::from_str(&retry(&["retry", "--all", "--worker", "orders", "--json"])).unwrap();
    assert_eq!(summary, json!({"retried": 1_050, "gone": 0}));
    server.wait_until("none is dead", |_| dead("orders") == Some(0.0));
    other.answer(200);
    assert_eq!(retry(&["retry", "--all"]), "dead letters retried: 1\n");
    server.wait_until("none is dead", |_| dead("mail") == Some(0.0));
}

#[test]
fn the_dead_letters_of_an_unknown_worker_are_an_error() {
    let app = HostApp::answering(200);
    let server = forward(&app, "");
    assert_eq!(server.get("/dead?worker=orders").json()["dead"], json!([]));
    for arguments in [&["dead", "--worker", "ordrs"][..], &["dead", "retry", "--all", "--worker", "ordrs"]] {
        let output = run(server.directory(), arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("no worker `ordrs`; known are orders"), "{told}");
    }
}

#[test]
fn two_that_retry_all_at_once_share_the_letters() {
    let app = HostApp::answering(400);
    let server = forward(&app, "");
    let lines = "{\"type\":\"orders/confirm\",\"payload\":1}\n".repeat(500);
    assert_eq!(run_with_input(server.directory(), &["submit"], &lines).status.code(), Some(0));
    let dead = || server.metric(r#"outboard_worker_dead{worker="orders"}"#);
    server.wait_until("all are dead", |_| dead() == Some(500.0));
    assert_eq!(server.post("/workers/orders/pause", "").status, 200);
    let directory = server.directory();
    let retry = || run(directory, &["dead", "retry", "--all", "--json"]);
    let outputs = std::thread::scope(|scope| {
        let both = [scope.spawn(retry), scope.spawn(retry)];
        both.map(|thread| thread.join().unwrap())
    });
    let retried = outputs.map(|output| {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["retried"].as_u64().unwrap()
    });
    assert_eq!((retried.iter().sum(), dead()), (500_u64, Some(0.0)));
}

/// Otherwise the server of this directory would be changed instead of the one that was named.
#[test]
fn a_server_that_is_named_before_the_subcommand_is_the_one_that_is_asked() {
    let server = Server::start();
    let (url, elsewhere) = (format!("http://{}", server.address), tempfile::tempdir().unwrap());
    let pause = run(elsewhere.path(), &["workers", "--url", &url, "pause", "echo"]);
    assert_eq!(text(&pause.stdout), "echo is paused\n", "{}", text(&pause.stderr));
    let data = server.directory().join("outboard-data");
    let retry = run(elsewhere.path(), &["dead", "--data-dir", data.to_str().unwrap(), "retry", "--all"]);
    assert_eq!(text(&retry.stdout), "dead letters retried: 0\n", "{}", text(&retry.stderr));
}
