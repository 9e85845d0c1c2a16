//! NATS as one speaks it by hand: what others do to a server while we use it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// Sends a request and returns its answer's payload.
pub(crate) fn request(port: u16, subject: &str, payload: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server speaks NATS");
    let mut reader = BufReader::new(stream.try_clone().expect("the server speaks NATS"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("the server speaks NATS");
    assert!(line.starts_with("INFO "), "{line}");
    let words =
        format!("CONNECT {{\"verbose\":false}}\r\nSUB _R 1\r\nPUB {subject} _R {}\r\n", payload.len());
    stream.write_all(words.as_bytes()).expect("the server speaks NATS");
    stream.write_all(payload).expect("the server speaks NATS");
    stream.write_all(b"\r\n").expect("the server speaks NATS");
    loop {
        line.clear();
        assert!(
            reader.read_line(&mut line).expect("the server speaks NATS") > 0,
            "the server ended the connection"
        );
        if line.starts_with("PING") {
            stream.write_all(b"PONG\r\n").expect("the server speaks NATS");
        }
        if line.starts_with("MSG _R ") {
            let length = line
                .trim()
                .rsplit(' ')
                .next()
                .expect("the server speaks NATS")
                .parse()
                .expect("the server speaks NATS");
            let mut answer = vec![0; length];
            reader.read_exact(&mut answer).expect("the server speaks NATS");
            return answer;
        }
    }
}

/// Asks JetStream for something and expects that it works.
pub(crate) fn api(port: u16, what: &str) {
    let answer =
        String::from_utf8(request(port, &format!("$JS.API.{what}"), b"")).expect("the server speaks NATS");
    assert!(answer.contains("\"success\":true"), "{answer}");
}
