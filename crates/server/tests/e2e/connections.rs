//! Slow clients, and many that say nothing.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::{
    harness::{Server, Setup},
    http::{Connection, JSON},
    scale::scaled,
};

/// How many connections to hold, and where: set in the process that holds them.
const COUNT: &str = "E2E_IDLE_CONNECTIONS";
const ADDRESS: &str = "E2E_IDLE_ADDRESS";

#[test]
fn slow_clients_are_let_go() {
    let config = "limits:\n  read_timeout: 300ms\n";
    let server = Server::with(Setup { config, ..Setup::default() });
    let mut silent = Connection::open(&server.address);
    let mut slow_head = Connection::open(&server.address);
    slow_head.write(b"POST /commands HT");
    let mut slow_body = Connection::open(&server.address);
    slow_body.write(
        b"POST /commands HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"type\"",
    );
    let mut gone = Connection::open(&server.address);
    gone.write(
        b"POST /commands HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"type\"",
    );
    drop(gone);
    // The others are served meanwhile.
    server.command("outboard/echo", "1");
    assert!(silent.read().is_none(), "closed without a word");
    assert!(slow_head.read().is_none(), "closed without a word");
    let answer = slow_body.read().expect("a request was begun, so there is an answer");
    assert_eq!(answer.status, 408, "{}", answer.body);
    assert!(answer.json()["detail"].as_str().unwrap().contains("300 ms"));
    server.command("outboard/echo", "1");
}

#[test]
fn idle_connections_hurt_nobody() {
    if let Ok(address) = std::env::var(ADDRESS) {
        return hold_idle(&address);
    }
    let count: usize = scaled(200, 10_000);
    let server = Server::start();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "connections::idle_connections_hurt_nobody", "--nocapture"])
        .env(ADDRESS, &server.address)
        .env(COUNT, count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("idle connections are open")));
    let mut connection = server.connect();
    for n in 0..200 {
        let body = format!(r#"{{"type":"outboard/echo","payload":{n}}}"#);
        assert_eq!(connection.send("POST", "/commands", &[JSON], body.as_bytes()).status, 202);
    }
    assert_eq!(server.get("/readyz").status, 200);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    server.command("outboard/echo", "1");
}

/// The client's side, in its own process, until stdin ends. Half of them say nothing; half have been served once.
fn hold_idle(address: &str) {
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    raise_open_files();
    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..count {
        let mut stream = TcpStream::connect(address).unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
        }
        held.push(stream);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{count} idle connections are open").unwrap();
    drop(stdout);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
