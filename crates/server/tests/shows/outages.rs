//! A host app that is sick for a while, and one that is well but cannot do with some messages.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    harness::{Server, Setup},
    http::PATIENCE,
    receiver::{HUNG, HostApp, Report},
    scale::scaled,
};

const CONCURRENCY: usize = 16;

/// Waits for the first message after the app's return; more than the promised second, for slow machines.
const RETURN_SECONDS: f64 = 2.5;

fn worker(app: &HostApp, concurrency: usize, more: &str) -> Server {
    let config = format!(
        "workers:\n- {{name: orders, types: ['orders/*'], url: '{}', concurrency: {concurrency}, timeout: 500ms{more}}}\n",
        app.url
    );
    Server::with(Setup { config: &config, ..Setup::default() })
}

fn post(server: &Server, payloads: impl IntoIterator<Item = Value>) -> u64 {
    let commands: Vec<_> =
        payloads.into_iter().map(|payload| json!({"type": "orders/confirm", "payload": payload})).collect();
    let answer = server.post("/commands/batch", &Value::from(commands).to_string());
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.json()["last_id"].as_u64().unwrap()
}

fn the_worker(server: &Server) -> Value {
    server.get("/workers").json()["workers"][0].clone()
}

fn metric(server: &Server, name: &str) -> u64 {
    server.metric(&format!(r#"outboard_worker_{name}{{worker="orders"}}"#)).unwrap() as u64
}

#[test]
fn an_app_that_refuses_connections_is_waited_for() {
    // The connections that are kept may be found closed first.
    println!("{}", sick(json!({"mode": "refusing"}), &["refused", "closed"]));
}

#[test]
fn an_app_that_hangs_is_waited_for() {
    println!("{}", sick(json!({"mode": "hanging"}), &["timed out"]));
}

#[test]
fn an_app_that_answers_503_is_waited_for() {
    // Slow enough that two probes at once would meet.
    println!("{}", sick(json!({"mode": "answering", "status": 503, "after": 0.1}), &["503"]));
}

/// An outage from its begin to its end; gives the figures.
fn sick(mode: Value, reasons: &[&str]) -> String {
    let (before, during) = (200, scaled(600, 5_000));
    let mut app = HostApp::start();
    let server = worker(&app, CONCURRENCY, "");
    post(&server, vec![json!({}); before]);
    app.wait_for(before, PATIENCE);
    server.wait_until("all is done", |server| the_worker(server)["lag"] == 0);

    app.mode(mode.clone());
    post(&server, vec![json!({}); during / 2]);
    server.wait_until("an outage", |server| the_worker(server)["state"] == "outage");
    // What was under way when it began comes to its end.
    server.wait_until("one probe at most", |server| {
        the_worker(server)["running"].as_array().unwrap().len() <= 1 && app.report().open <= 1
    });
    app.watch();
    let (failed, probes, parked) =
        (metric(&server, "failed_total"), metric(&server, "probes_total"), metric(&server, "parked"));
    assert!(parked <= CONCURRENCY as u64, "{parked} messages are parked, more than were in flight");
    stays_ready(&server, reasons);
    let last = post(&server, vec![json!({}); during - during / 2]);
    let pace = probe_for_a_while(&server, probes);
    let (failed, probes) =
        (metric(&server, "failed_total") - failed, metric(&server, "probes_total") - probes);
    assert!(failed <= probes + 1, "{failed} attempts failed, with {probes} probes: something else ran");
    assert_eq!(metric(&server, "parked"), parked, "nothing is parked while it lasts");
    assert_eq!(metric(&server, "outages_total"), 1);
    let report = app.report();
    assert!(report.most_open <= 1, "{} requests at once", report.most_open);
    let (all_probes, timeouts) = (metric(&server, "probes_total"), metric(&server, "timed_out_total"));

    app.be_well();
    app.wait_for(before + during, PATIENCE);
    server.wait_until("all is done", |server| the_worker(server)["lag"] == 0);
    assert_eq!(server.state(last, "orders")["state"], "done");
    // The probe that ran when the app returned may be one of them.
    let late = metric(&server, "timed_out_total") - timeouts;
    let (first, end, repeated) = after_return(&app.report(), before, during, all_probes + 1, late);
    assert_eq!(server.get("/readyz?verbose").json()["status"], "ready");
    assert_eq!(server.get("/dead").json()["dead"], json!([]));
    format!(
        "{mode}: {parked} parked, {probes} probes, one each {pace:?}, {} at once; the first of {during} messages came \
         {first:.3} s after the return, the last {end:.3} s; {repeated} with a second attempt",
        report.most_open
    )
}

/// Outboard goes on accepting, and says who is sick.
fn stays_ready(server: &Server, reasons: &[&str]) {
    let ready = server.get("/readyz?verbose");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")));
    assert_eq!(server.get("/readyz").status, 200);
    let told = ready.json()["reasons"][0].clone();
    assert_eq!(told["part"], "worker orders");
    let text = told["reason"].as_str().unwrap();
    assert!(
        text.starts_with("outage since 20") && reasons.iter().any(|reason| text.contains(reason)),
        "{told}"
    );
}

/// Lets the outage go on for some probes, at least one a second; gives the time between two.
fn probe_for_a_while(server: &Server, before: u64) -> Duration {
    let (count, began) = (scaled(4, 22), Instant::now());
    for number in 1..=count {
        server.wait_until("a probe", |server| {
            let running = the_worker(server)["running"].as_array().unwrap().len();
            assert!(running <= 1, "{running} attempts at once");
            metric(server, "probes_total") >= before + u64::from(number)
        });
    }
    let pace = began.elapsed() / count;
    // A slow machine may add half a second to each; a probe every two seconds is noticed.
    assert!(pace <= Duration::from_millis(1_500), "a probe only each {pace:?}");
    assert!(pace >= Duration::from_millis(500), "a probe each {pace:?} is no way to treat the sick");
    pace
}

/// What came after the return: when the first and the last message was done, and how many had a second attempt.
///
/// `late` is how many requests timed out since: on a machine with too much to do even a host app that is well is slow.
fn after_return(report: &Report, before: usize, during: usize, probes: u64, late: u64) -> (f64, f64, u64) {
    let successes = report.successes();
    assert_eq!(successes.len(), before + during);
    let twice = successes.values().filter(|times| **times > 1).count() as u64;
    assert!(twice <= late, "{twice} were delivered twice");
    let requests = report.requests.iter().filter(|request| request.0 > before as u64);
    let done: Vec<_> = requests.filter(|request| request.is_success()).collect();
    let first = done.iter().map(|request| request.3).fold(f64::MAX, f64::min);
    let end = done.iter().map(|request| request.3).fold(0.0, f64::max);
    assert!(first <= RETURN_SECONDS, "nothing came for {first} s after the return");
    // With a probe a second it would take minutes.
    assert!(end <= RETURN_SECONDS + during as f64 / 100.0, "the last one came only after {end} s");
    let most = u64::from(done.iter().map(|request| request.1).max().unwrap());
    let repeated = done.iter().filter(|request| request.1 > 1).count() as u64;
    assert!(most <= 2 + late, "a message was charged {} attempts for the outage", most - 1);
    assert!(repeated <= probes + late, "{repeated} messages were charged an attempt, with {probes} probes");
    (first, end, repeated)
}

#[test]
fn ten_messages_that_are_answered_503_do_not_hold_up_the_good_ones() {
    // So many attempts that the bad ones are by themselves in the end.
    println!("{}", bad_beside_good(json!(503), 8, "answered 503"));
}

#[test]
fn ten_messages_that_hang_do_not_hold_up_the_good_ones() {
    println!("{}", bad_beside_good(json!("hang"), 4, "timed out"));
}

/// Bad messages first, then good ones; gives the figures.
fn bad_beside_good(answer: Value, attempts: u32, reason: &str) -> String {
    const BAD: u64 = 10;
    let good = scaled(300, 1_000);
    let mut app = HostApp::start();
    // Half as many at once as are bad, and no answer at once: the ten fail with no success between them.
    app.mode(json!({"mode": "obeying", "after": 0.02}));
    let more = format!(", attempts: {attempts}, backoff: {{first: 100ms, max: 500ms}}");
    let server = worker(&app, 5, &more);
    let bad = vec![json!({"answer": answer}); BAD as usize];
    post(&server, bad.into_iter().chain(vec![json!({}); good]));
    app.wait_for(good, PATIENCE);
    let dead = || server.get("/dead").json()["dead"].as_array().unwrap().clone();
    server.wait_until("the bad ones are dead", |_| dead().len() == BAD as usize);
    let mut ids: Vec<_> = dead().iter().map(|letter| letter["message_id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=BAD).collect::<Vec<_>>());
    assert!(dead().iter().all(|letter| letter["reason"].as_str().unwrap().contains(reason)), "{:?}", dead());
    let report = app.report();
    let done: Vec<_> = report.requests.iter().filter(|request| request.is_success()).collect();
    let charged = done.iter().filter(|request| request.1 > 1).count();
    // On a machine with too much to do a good one may time out, too.
    let late = metric(&server, "timed_out_total").saturating_sub(report.answered(HUNG) as u64);
    assert!(charged as u64 <= late, "{charged} good ones were charged for the bad ones");
    let mut times: Vec<_> = done.iter().map(|request| request.3).collect();
    times.sort_by(f64::total_cmp);
    let began = report.requests[0].3;
    let gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(times[0] - began, f64::max);
    let bad_requests = report.requests.iter().filter(|request| request.0 <= BAD).count();
    // Two rounds of timeouts may come first, then a probe; a slow machine gets as much again.
    assert!(gap <= 4.0, "the good ones stood still for {gap} s");
    // Four attempts of ten bad ones, half a second each, in five places; and the good ones at 250 a second.
    let took = times[times.len() - 1] - began;
    assert!(took <= 3.0 * (4.0 + good as f64 / 250.0), "the good ones took {took} s");
    server.wait_until("it ends well", |server| the_worker(server)["state"] == "running");
    assert_eq!(server.get("/dead").json()["dead"].as_array().unwrap().len(), BAD as usize);
    let outages = metric(&server, "outages_total");
    format!(
        "{BAD} bad ones ({answer}), {good} good ones: {outages} outages, {} probes, {bad_requests} bad requests, {} hung; \
         the good ones took {:.3} s, the longest gap {gap:.3} s",
        metric(&server, "probes_total"),
        report.answered(HUNG),
        took
    )
}
