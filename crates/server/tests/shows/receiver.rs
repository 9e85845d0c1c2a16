//! The host app in Python, and what it tells of the requests it got.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::PATIENCE;

/// A running `receiver.py`; its head comment says what it can be told.
pub(crate) struct HostApp {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    pub url: String,
}

/// Everything that it saw.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub requests: Vec<Request>,
    /// Requests that are read and not answered.
    pub open: usize,
    /// The most of them at once since [`HostApp::watch`].
    pub most_open: usize,
}

/// One request: the message, the attempt, the answer, and when, in seconds after the mode was set.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Request(pub u64, pub u32, pub i32, pub f64);

impl Request {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.2)
    }
}

impl Report {
    /// How often each message was answered 2xx.
    pub(crate) fn successes(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.is_success()) {
            *counts.entry(request.0).or_default() += 1;
        }
        counts
    }

    /// How many requests got this answer.
    pub(crate) fn answered(&self, answer: i32) -> usize {
        self.requests.iter().filter(|request| request.2 == answer).count()
    }
}

/// What the report says for a request that was never answered.
pub(crate) const HUNG: i32 = 0;

impl HostApp {
    /// One that answers everything 204.
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shows/receiver.py");
        let mut command = Command::new("python3");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 runs");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = sync_channel(16);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let orders = child.stdin.take().unwrap();
        let mut app = Self { child, orders, answers, url: String::new() };
        app.url = format!("http://127.0.0.1:{}/outboard", app.answer()["port"]);
        app
    }

    /// Changes how it answers from now on.
    pub(crate) fn mode(&mut self, mode: Value) {
        self.order(&mode);
    }

    /// Answers everything 204.
    pub(crate) fn be_well(&mut self) {
        self.mode(json!({"mode": "well"}));
    }

    /// Returns when so many different messages were answered 2xx.
    pub(crate) fn wait_for(&mut self, messages: usize, within: Duration) {
        assert!(self.has_got(messages, within), "{messages} messages did not come within {within:?}");
    }

    /// Whether so many different messages were answered 2xx, at last.
    pub(crate) fn has_got(&mut self, messages: usize, within: Duration) -> bool {
        writeln!(self.orders, "{}", json!({"wait": messages})).unwrap();
        self.answers.recv_timeout(within).is_ok()
    }

    /// Forgets how many requests were open at once.
    pub(crate) fn watch(&mut self) {
        self.order(&json!({"watch": true}));
    }

    /// Everything since the start.
    pub(crate) fn report(&mut self) -> Report {
        serde_json::from_value(self.order(&json!({"report": true}))).unwrap()
    }

    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    fn answer(&self) -> Value {
        serde_json::from_str(&self.answers.recv_timeout(PATIENCE).expect("the receiver answers")).unwrap()
    }
}

impl Drop for HostApp {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
