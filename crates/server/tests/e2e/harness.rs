//! A real server in a directory of its own, gone when the test is.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Answer, Connection, JSON, PATIENCE};

/// The binary, without what the environment of the tests might configure.
pub(crate) fn outboard(directory: &Path) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_outboard")), directory)
}

fn clean(mut command: Command, directory: &Path) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTBOARD_") {
            command.env_remove(name);
        }
    }
    command.current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    outboard(directory).args(arguments).output().unwrap()
}

/// The same with something on stdin.
pub(crate) fn run_with_input(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = outboard(directory);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    log: Receiver<String>,
    seen: Vec<String>,
    pub(crate) address: String,
    /// Where the metrics are served apart from the API.
    pub(crate) metrics: String,
    directory: PathBuf,
    _owned: Option<TempDir>,
}

/// How to start one.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a str,
    pub(crate) arguments: &'a [&'a str],
    /// No file may grow over so many blocks of 512 bytes: a disk that fails.
    pub(crate) file_blocks: Option<u32>,
}

impl Setup<'_> {
    fn command(&self, directory: &Path) -> Command {
        let Some(blocks) = self.file_blocks else { return outboard(directory) };
        // The signal for a file that is too large is ignored, so that the write fails.
        let script = format!(r#"trap '' XFSZ; ulimit -f {blocks}; exec "$0" "$@""#);
        let mut command = clean(Command::new("sh"), directory);
        command.args(["-c", &script, env!("CARGO_BIN_EXE_outboard")]);
        command
    }
}

impl Server {
    /// With the built-in worker, in a new directory.
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::start_in(directory.path(), &setup);
        server._owned = Some(directory);
        server
    }

    /// In a directory that outlives it.
    pub(crate) fn start_in(directory: &Path, setup: &Setup<'_>) -> Self {
        std::fs::write(directory.join("config.yaml"), setup.config).unwrap();
        let mut command = setup.command(directory);
        command.args(["up", "--port", "0"]).args(setup.arguments).env("OUTBOARD_METRICS__PORT", "0");
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (sender, log) = sync_channel(100_000);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let directory = directory.to_owned();
        let mut server = Self {
            child,
            log,
            seen: Vec::new(),
            address: String::new(),
            metrics: String::new(),
            directory,
            _owned: None,
        };
        let listening = server.wait_for_log("listening");
        assert!(listening["start_ms"].is_u64(), "{listening}");
        let part = |name: &str| listening[name].as_str().unwrap().trim_start_matches("http://").to_owned();
        (server.address, server.metrics) = (part("url"), part("metrics"));
        server
    }

    /// Waits for a log line with this message.
    pub(crate) fn wait_for_log(&mut self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let parsed: Option<Value> = serde_json::from_str(&line).ok();
            self.seen.push(line);
            if let Some(parsed) = parsed.filter(|parsed| parsed["message"] == message) {
                return parsed;
            }
        }
        panic!("the log never said `{message}`:\n{}", self.seen.join("\n"));
    }

    /// Every line that it has logged so far, as far as it is JSON.
    pub(crate) fn log_so_far(&mut self) -> Vec<Value> {
        self.seen.extend(self.log.try_iter());
        self.seen.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Where it runs: `config.yaml` lies there, and the data in `outboard-data`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.connect().send("POST", path, &[JSON], body.as_bytes())
    }

    /// Posts a command and gives its id.
    pub(crate) fn command(&self, kind: &str, payload: &str) -> u64 {
        let answer = self.post("/commands", &format!(r#"{{"type":"{kind}","payload":{payload}}}"#));
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()["id"].as_u64().unwrap()
    }

    /// The state that a worker gives a message.
    pub(crate) fn state(&self, id: u64, worker: &str) -> Value {
        let message = self.get(&format!("/messages/{id}")).json();
        let states = message["workers"].as_array().unwrap_or_else(|| panic!("{message}"));
        states.iter().find(|state| state["worker"] == worker).cloned().unwrap_or(Value::Null)
    }

    /// Asks again and again until the answer is the one waited for.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "it never came to this: {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            // Its log ends when it does: nothing to poll for in between.
            if let Ok(line) = self.log.recv_timeout(Duration::from_millis(20)) {
                self.seen.push(line);
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let code = self.wait().code();
        assert_eq!(code, Some(0), "{:#?}", self.log_so_far());
    }

    pub(crate) fn metric(&self, line_start: &str) -> Option<f64> {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(line_start))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
