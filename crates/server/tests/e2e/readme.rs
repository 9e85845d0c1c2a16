//! What README.md says, done: its commands answer as printed, its receiver receives, its configuration is in order.

use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::{
    harness::{Server, Setup, run, text},
    http::PATIENCE,
};

/// The fenced blocks of README.md in this language, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md"))
        .expect("the README can be read");
    let fence = format!("\n```{language}\n");
    let fenced = readme.split(&fence).skip(1);
    fenced.map(|rest| rest.split_once("```").expect("every fence is closed").0.to_owned()).collect()
}

/// Runs the lines of a block that begin with `$`, and compares what they print with the line that follows.
fn try_out(block: &str, server: &Server) {
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        let printed = line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}"));
        let command = printed.replace("127.0.0.1:8085", &server.address);
        let output = Command::new("sh").args(["-c", &command]).output().expect("a shell runs");
        let (found, expected) =
            (text(&output.stdout), lines.next().expect("every command is followed by what it prints"));
        assert!(
            fits(&found, expected),
            "{printed}\nprinted {found}\ninstead {expected}\n{}",
            text(&output.stderr)
        );
        // What follows shows the command handled.
        server.wait_until("nothing is under way", |server| {
            let workers = server.get("/workers").json();
            let lags = workers["workers"]
                .as_array()
                .expect("workers are a list")
                .iter()
                .filter(|worker| worker["state"] == "running");
            lags.into_iter().all(|worker| worker["lag"] == 0)
        });
    }
}

/// Whether `found` is `expected`, in which `…` stands for anything.
fn fits(found: &str, expected: &str) -> bool {
    let mut rest = found;
    let mut parts = expected.split('…');
    let Some(begin) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    rest = begin;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// The receiver of README.md, killed when the test ends.
struct Receiver(Child);

impl Receiver {
    fn start(directory: &Path, port: u16) -> Self {
        let script = blocks("python").remove(0).replace("3000", &port.to_string());
        std::fs::write(directory.join("receiver.py"), script).expect("the directory can be written");
        let mut command = Command::new("python3");
        command.arg("receiver.py").current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::null());
        let receiver = Self(command.spawn().expect("python3 runs"));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the receiver does not listen");
            std::thread::yield_now();
        }
        receiver
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("it is piped"))
            .read_line(&mut line)
            .expect("the receiver prints text");
        line
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_lines_work_as_printed() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = blocks("console");
    let mut server = Server::start_in(directory.path(), &Setup::default());
    try_out(&blocks[0], &server);
    server.stop();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut receiver = Receiver::start(directory.path(), port);
    let url = format!("http://127.0.0.1:{port}/");
    let server =
        Server::start_in(directory.path(), &Setup { arguments: &["--forward", &url], ..Setup::default() });
    try_out(&blocks[1], &server);
    assert_eq!(receiver.line(), "2 orders/confirm {'order_id': 7} attempt 1\n");
}

#[test]
fn the_configuration_is_in_order() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.yaml"), blocks("yaml").remove(0)).unwrap();
    let output = run(directory.path(), &["config", "check"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
