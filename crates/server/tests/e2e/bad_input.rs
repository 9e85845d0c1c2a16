//! Every endpoint with everything that can be wrong: a problem that names the field and the mend; never a 500, a
//! panic or a hang.

use crate::{
    harness::{Server, Setup},
    http::{Answer, Connection, JSON},
};

/// Whether an answer is a problem with this status that tells what to mend.
fn check(what: &str, answer: &Answer, status: u16, parts: &[&str]) {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {problem}");
    for part in parts {
        assert!(answer.body.contains(part), "{what} says {problem}, which lacks {part:?}");
    }
}

/// The server is as well as before.
fn check_server(server: &Server) {
    assert_eq!(server.get("/readyz").status, 200);
    let metrics = server.get("/metrics").body;
    assert!(!metrics.contains(r#"status="500""#) && !metrics.contains(r#"status="other""#), "{metrics}");
    server.command("outboard/echo", "1");
}

#[test]
fn paths_methods_and_parameters() {
    let server = Server::start();
    let cases: &[(&str, &str, u16, &[&str])] = &[
        ("GET", "/", 404, &["/commands"]),
        ("GET", "/nothing", 404, &["/commands"]),
        ("GET", "/commands", 405, &["POST"]),
        ("DELETE", "/commands", 405, &["POST"]),
        ("PUT", "/commands/batch", 405, &["POST"]),
        ("POST", "/messages", 405, &["GET"]),
        ("DELETE", "/messages/1", 405, &["GET"]),
        ("POST", "/workers", 405, &["GET"]),
        ("GET", "/workers/echo/pause", 405, &["POST"]),
        ("POST", "/dead", 405, &["GET"]),
        ("GET", "/dead/1/retry", 405, &["POST"]),
        ("GET", "/log/verify", 405, &["POST"]),
        ("POST", "/livez", 405, &["GET"]),
        ("POST", "/readyz", 405, &["GET"]),
        ("POST", "/health", 405, &["GET"]),
        ("POST", "/metrics", 405, &["GET"]),
        ("BREW", "/livez", 405, &["GET"]),
        ("GET", "/messages?limit=0", 400, &["limit", "from 1 to 1000"]),
        ("GET", "/messages?limit=1001", 400, &["limit", "from 1 to 1000"]),
        ("GET", "/messages?limit=ten", 400, &["limit"]),
        ("GET", "/messages?limit=", 400, &["limit"]),
        ("GET", "/messages?after=-1", 400, &["after"]),
        ("GET", "/messages?after=1.5", 400, &["after"]),
        ("GET", "/messages?after=99999999999999999999", 400, &["after"]),
        ("GET", "/messages?after=1&after=2", 400, &["after", "twice"]),
        ("GET", "/messages?befor=1", 400, &["befor", "after, limit, type"]),
        ("GET", "/messages?type=", 400, &["type", "orders/"]),
        ("GET", "/messages?type=*x", 400, &["type"]),
        ("GET", "/messages?type=%ff", 400, &["UTF-8"]),
        ("GET", "/messages/x", 422, &["id", "whole number"]),
        ("GET", "/messages/-1", 422, &["id"]),
        ("GET", "/messages/0", 404, &["no message 0"]),
        ("GET", "/messages/999", 404, &["no message 999"]),
        ("GET", "/messages/18446744073709551615", 404, &["no message"]),
        ("GET", "/messages/1?x=1", 400, &["x"]),
        ("GET", "/workers?x=1", 400, &["x"]),
        ("POST", "/workers/nobody/pause", 404, &["nobody"]),
        ("POST", "/workers/nobody/resume", 404, &["nobody"]),
        ("POST", "/workers/%ff/pause", 400, &["UTF-8"]),
        ("POST", "/workers/echo/resume?force=1", 400, &["force"]),
        ("GET", "/dead?limit=0", 400, &["limit"]),
        ("GET", "/dead?worker=nobody", 404, &["no worker `nobody`; known are echo"]),
        ("GET", "/dead?worker=", 404, &["known are echo"]),
        ("GET", "/dead?worker=a&worker=b", 400, &["worker", "twice"]),
        ("GET", "/dead?message=1", 400, &["message", "after, limit, worker"]),
        ("POST", "/dead/1/retry", 404, &["1"]),
        ("POST", "/dead/x/retry", 422, &["id"]),
        ("POST", "/dead/18446744073709551615/retry", 404, &[]),
        ("GET", "/readyz?verbos", 400, &["verbos", "verbose"]),
        ("GET", "/readyz?verbose=loud", 400, &["verbose"]),
        ("GET", "/livez?x", 400, &["x"]),
        ("GET", "/health?x", 400, &["x"]),
        ("GET", "/metrics?x", 400, &["x"]),
    ];
    let mut connection = server.connect();
    for (method, path, status, parts) in cases {
        let answer = connection.send(method, path, &[], b"");
        check(&format!("{method} {path}"), &answer, *status, parts);
    }
    assert_eq!(connection.send("PATCH", "/commands", &[], b"").header("allow"), Some("POST"));
    check_server(&server);
}

#[test]
fn command_bodies() {
    let server = Server::start();
    let deep = format!(r#"{{"type":"outboard/echo","payload":{}1{}}}"#, "[".repeat(129), "]".repeat(129));
    let very_deep = format!(r#"{{"type":"outboard/echo","payload":{}"#, "[{\"a\":".repeat(100_000));
    let just_right =
        format!(r#"{{"type":"outboard/echo","payload":{}1{}}}"#, "[".repeat(128), "]".repeat(128));
    let long_type = format!(r#"{{"type":"{}","payload":1}}"#, "x".repeat(201));
    let long_header =
        format!(r#"{{"type":"outboard/echo","payload":1,"headers":{{"a":"{}"}}}}"#, "x".repeat(9_000));
    let cases: &[(&[u8], u16, &[&str])] = &[
        (b"", 400, &["not JSON"]),
        (b"{", 400, &["not JSON"]),
        (b"\x00", 400, &["not JSON"]),
        (b"\xff\xfe{}", 400, &["UTF-8"]),
        (b"{\"type\":\"outboard/echo\",\"payload\":\"\xc3\x28\"}", 400, &["UTF-8"]),
        (b"null", 422, &["body"]),
        (b"[]", 422, &["body"]),
        (br#"{"type":"outboard/echo"}"#, 422, &["payload", "is missing"]),
        (br#"{"payload":{}}"#, 422, &["type", "is missing"]),
        (br#"{"type":"outboard/echo","payload":1,"run_at":"soon"}"#, 422, &["run_at", "RFC 3339"]),
        (
            br#"{"type":"outboard/echo","payload":1,"run_at":"9999-12-31T23:59:59Z"}"#,
            422,
            &["run_at", "not after 9999-12-30T22:00:00Z"],
        ),
        (br#"{"type":"outboard/echo","payload":1,"headers":{"a":1}}"#, 422, &["headers.a"]),
        (br#"{"type":"outboard/echo","payload":1,"priority":1}"#, 422, &["priority", "known are type"]),
        (br#"{"type":"outboard/echo","payload":1,"payload":2}"#, 422, &["payload", "twice"]),
        (br#"{"type":"outboard/ech","payload":1}"#, 422, &["type", "known are outboard/echo"]),
        (br#"{"type":"","payload":1}"#, 422, &["type", "orders/confirm"]),
        (long_type.as_bytes(), 422, &["type", "200 bytes"]),
        (long_header.as_bytes(), 422, &["headers.a"]),
        (deep.as_bytes(), 422, &["payload", "128 levels"]),
        (very_deep.as_bytes(), 422, &["payload", "128 levels"]),
    ];
    let mut connection = server.connect();
    for (body, status, parts) in cases {
        let what = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        check(&what, &connection.send("POST", "/commands", &[JSON], body), *status, parts);
        let batch = [b"[", *body, b"]"].concat();
        let answer = connection.send("POST", "/commands/batch", &[JSON], &batch);
        assert!(matches!(answer.status, 400 | 422), "[{what}]: {}", answer.body);
        let lines = [("content-type", "application/x-ndjson")];
        let answer = connection.send("POST", "/commands/batch", &lines, body);
        assert!(matches!(answer.status, 400 | 422), "{what} as lines: {}", answer.body);
    }
    assert_eq!(connection.send("POST", "/commands", &[JSON], just_right.as_bytes()).status, 202);
    check_server(&server);
}

#[test]
fn media_types_and_headers() {
    let server = Server::start();
    let body = br#"{"type":"outboard/echo","payload":1}"#;
    let mut connection = server.connect();
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "nonsense",
        "",
    ] {
        for path in ["/commands", "/commands/batch"] {
            let answer = connection.send("POST", path, &[("content-type", media)], body);
            check(&format!("{path} {media}"), &answer, 415, &["Content-Type", "application/json"]);
        }
    }
    for path in ["/commands", "/commands/batch", "/workers/echo/pause"] {
        for coding in ["gzip", "br", "identity, gzip"] {
            let answer =
                connection.send("POST", path, &[JSON, ("content-encoding", coding)], b"\x1f\x8b\x08");
            let parts =
                &["problem:content-encoding", "compressed bodies are not taken", "without Content-Encoding"];
            check(&format!("{path} {coding}"), &answer, 415, parts);
        }
    }
    let plain = [JSON, ("content-encoding", "Identity")];
    assert_eq!(connection.send("POST", "/commands", &plain, body).status, 202);
    check("without", &connection.send("POST", "/commands", &[], body), 415, &["Content-Type"]);
    let lines = [("content-type", "application/x-ndjson")];
    check("lines", &connection.send("POST", "/commands", &lines, body), 415, &["application/json"]);
    for key in ["", &"k".repeat(256)] {
        let answer = connection.send("POST", "/commands", &[JSON, ("idempotency-key", key)], body);
        check("key", &answer, 400, &["Idempotency-Key", "255"]);
    }
    let twice = [JSON, ("idempotency-key", "a"), ("idempotency-key", "b")];
    check(
        "two keys",
        &connection.send("POST", "/commands", &twice, body),
        400,
        &["Idempotency-Key", "twice"],
    );
    for (body, status) in
        [(&b"{"[..], 400), (br#"{"reason":1}"#, 422), (br#"{"why":"x"}"#, 422), (b"\xff", 400)]
    {
        let answer = connection.send("POST", "/workers/echo/pause", &[JSON], body);
        check("pause", &answer, status, &[]);
    }
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(10_000));
    check(
        "a long reason",
        &connection.send("POST", "/workers/echo/pause", &[JSON], long.as_bytes()),
        413,
        &["8192"],
    );
    check_server(&server);
}

#[test]
fn web_pages_of_other_addresses_may_not_send_requests() {
    let server = Server::start();
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let own = format!("127.0.0.1:{port}");
    let body = r#"{"type":"outboard/echo","payload":1}"#;
    let send = |method: &str, path: &str, host: &str, origin: &str, address: &str| {
        let mut connection = Connection::open(address);
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write(head.as_bytes());
        connection.read().expect("an answer")
    };
    let rebound = format!("shop.example:{port}");
    let cases = [
        (own.clone(), "http://shop.example".to_owned(), "Host"),
        (own.clone(), "null".to_owned(), "Host"),
        (own.clone(), format!("http://localhost:{port}"), "Host"),
        (rebound.clone(), format!("http://{rebound}"), "localhost"),
    ];
    for (host, origin, part) in &cases {
        for path in ["/commands", "/commands/batch", "/workers/echo/pause", "/dead/1/retry", "/log/verify"] {
            let answer = send("POST", path, host, origin, &server.address);
            check(&format!("{path} of {origin}"), &answer, 403, &["problem:origin", "Origin", part]);
        }
        check(
            "a path that is not there",
            &send("GET", "/x", host, origin, &server.address),
            403,
            &["Origin"],
        );
        check("metrics", &send("GET", "/metrics", host, origin, &server.metrics), 403, &["Origin"]);
    }
    assert_eq!(server.metric("outboard_log_tip "), Some(0.0), "nothing was appended");
    for host in [own, format!("localhost:{port}")] {
        let answer = send("POST", "/commands", &host, &format!("http://{host}"), &server.address);
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    let everywhere = Server::with(Setup { arguments: &["--host", "0.0.0.0"], ..Setup::default() });
    let address = everywhere.address.clone();
    let answer = send("POST", "/commands", "shop.example", "https://shop.example", &address);
    assert_eq!(answer.status, 202, "{}", answer.body);
    check_server(&server);
}

/// A page whose name points at this machine is of the same origin as the API, so its reads carry no `Origin`.
#[test]
fn a_name_that_a_web_page_may_have_pointed_here_reads_nothing() {
    const PATHS: [&str; 7] = ["/messages", "/workers", "/dead", "/livez", "/readyz", "/health", "/metrics"];
    let get = |path: &str, host: Option<&str>, address: &str| {
        let mut connection = Connection::open(address);
        let host = host.map(|host| format!("host: {host}\r\n")).unwrap_or_default();
        connection.write(format!("GET {path} HTTP/1.1\r\n{host}\r\n").as_bytes());
        connection.read().expect("an answer")
    };
    let server = Server::start();
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let foreign = format!("shop.example:{port}");
    for path in PATHS.into_iter().chain(["/x"]) {
        let answer = get(path, Some(&foreign), &server.address);
        check(path, &answer, 403, &["problem:host", "Unknown host name", "localhost or an IP address"]);
    }
    check("metrics", &get("/metrics", Some(&foreign), &server.metrics), 403, &["Host", "localhost"]);
    let own =
        ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "10.0.0.7"].map(|name| format!("{name}:{port}"));
    for host in own.iter().map(|host| Some(host.as_str())).chain([Some("localhost"), Some(""), None]) {
        for path in PATHS {
            assert_eq!(get(path, host, &server.address).status, 200, "{path} of {host:?}");
        }
        assert_eq!(get("/metrics", host, &server.metrics).status, 200, "metrics of {host:?}");
    }
    check_server(&server);

    // In a container others reach it by whatever name it has there.
    let everywhere = Server::with(Setup { arguments: &["--host", "0.0.0.0"], ..Setup::default() });
    for host in ["outboard.default.svc:8085", "10.1.2.3:8085"] {
        for path in PATHS {
            assert_eq!(get(path, Some(host), &everywhere.address).status, 200, "{path} of {host}");
        }
        assert_eq!(get("/metrics", Some(host), &everywhere.metrics).status, 200, "metrics of {host}");
    }
    // Each listener goes by its own address.
    let apart = Server::with(Setup { config: "metrics: {host: 0.0.0.0}\n", ..Setup::default() });
    assert_eq!(get("/metrics", Some("outboard:9090"), &apart.metrics).status, 200);
    check("the API", &get("/messages", Some("outboard:8085"), &apart.address), 403, &["Host"]);
}

#[test]
fn a_bad_line_is_named_once() {
    let server = Server::start();
    let body = "{\"type\":\"outboard/echo\",\"payload\":1}\n{\"type\":}\n";
    let lines = [("content-type", "application/x-ndjson")];
    let answer = server.connect().send("POST", "/commands/batch", &lines, body.as_bytes());
    check("lines", &answer, 400, &["line 2: ", " at column 9"]);
    assert!(!answer.body.contains("line 1"), "{}", answer.body);
}

#[test]
fn large_bodies_are_refused_with_an_answer() {
    let server = Server::start();
    let large = vec![b'x'; 3 << 20];
    let larger = vec![b' '; 9 << 20];
    check(
        "3 MB",
        &server.connect().send("POST", "/commands", &[JSON], &large),
        413,
        &["1048576 bytes", "send less", "`limits.body`"],
    );
    check(
        "9 MB",
        &server.connect().send("POST", "/commands/batch", &[JSON], &larger),
        413,
        &["8388608 bytes", "several batches", "`limits.batch`"],
    );
    check(
        "pause",
        &server.connect().send("POST", "/workers/echo/pause", &[JSON], &large),
        413,
        &["8192 bytes", "shorten the reason"],
    );
    // In chunks the size is not known before it is exceeded.
    let mut connection = server.connect();
    connection.write(b"POST /commands HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..48 {
        connection.write(b"10000\r\n");
        connection.write(&large[..1 << 16]);
        connection.write(b"\r\n");
    }
    connection.write(b"0\r\n\r\n");
    check("chunks", &connection.read().expect("an answer"), 413, &["1048576 bytes"]);
    let one = r#"{"type":"outboard/echo","payload":1}"#;
    let many = format!("[{}]", vec![one; 10_001].join(","));
    check(
        "10,001",
        &server.post("/commands/batch", &many),
        413,
        &["10000 commands", "`limits.batch_commands`"],
    );
    check_server(&server);
}

#[test]
fn what_is_not_http_ends_the_connection_and_nothing_else() {
    let server = Server::start();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /commands HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /commands HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /commands HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\n",
    ] {
        let mut connection = Connection::open(&server.address);
        connection.write(bytes);
        if let Some(answer) = connection.read() {
            assert!((400..500).contains(&answer.status), "{bytes:?}: {}", answer.status);
        }
    }
    let mut connection = Connection::open(&server.address);
    connection.write(b"GET /livez HTTP/1.1\r\n");
    for n in 0..2_000 {
        connection.write(format!("x-{n}: {}\r\n", "y".repeat(100)).as_bytes());
    }
    connection.write(b"\r\n");
    if let Some(answer) = connection.read() {
        assert_eq!(answer.status, 431);
    }
    check_server(&server);
}
