//! Forwarding over real sockets: what the receiver sees, and what its answer does.
#![allow(clippy::unwrap_used)] // Tests stop at the first surprise, also outside of test functions.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use outboard::{
    Attempt, Done, Failure, Handler, Outcome, Unwell,
    forward::{
        Client, ClientConfig, Forward, ForwardConfig, PROBE_TIMEOUT, RESERVED_HEADERS, Secret, Target,
    },
    outcome::Cause,
};
use outboard_core::{Headers, Message, Position, Time};
use outboard_http::{TraceContext, webhook};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver that answers each request with what `answer` makes of it.
async fn receiver<F>(answer: F) -> SocketAddr
where
    F: Fn(Request<Bytes>) -> Response<Full<Bytes>> + Clone + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(answer(Request::from_parts(head, body)))
        }
    });
    sockets(move |stream| {
        let service = service.clone();
        async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// A receiver by hand.
async fn sockets<S, F>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

fn answered(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

fn target(url: &str) -> Target {
    url.parse().unwrap()
}

fn forward(config: ForwardConfig) -> Forward {
    Forward::new(Client::new(ClientConfig::default()).unwrap(), config).unwrap()
}

fn forward_to(address: SocketAddr) -> Forward {
    forward(ForwardConfig::to(target(&format!("http://{address}/"))))
}

fn attempt(number: u32, headers: Headers) -> Attempt {
    let message = Message {
        id: Position(7),
        name: None,
        kind: "orders/confirm".into(),
        payload: Bytes::from_static(br#"{"order_id":7}"#),
        headers,
        timestamp: Time::from_millis(1_614_265_330_042),
        run_at: None,
    };
    Attempt { worker: "orders".into(), message: Arc::new(message), number }
}

async fn outcome(handler: &Forward) -> Outcome {
    let handled = handler.handle(attempt(1, Headers::default())).await;
    assert!(handled.effects.is_none());
    handled.outcome
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn the_receiver_sees_the_documented_request() {
    let (seen, mut requests) = mpsc::channel(2);
    let address = receiver(move |request| {
        seen.try_send(request).unwrap();
        answered(204, "")
    })
    .await;
    let secrets: Vec<Secret> = vec![SECRET.parse().unwrap(), SECRET.replace("Mf", "Nf").parse().unwrap()];
    let headers = HeaderMap::from_iter([("authorization".parse().unwrap(), "Bearer x".parse().unwrap())]);
    let url = target(&format!("http://{address}/hooks?to=shop"));
    let handler = forward(ForwardConfig { secrets: secrets.clone(), headers, ..ForwardConfig::to(url) });
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let given: Headers =
        [("traceparent", parent), ("tracestate", "vendor=1"), ("tenant", "7")].into_iter().collect();
    for number in [1, 2] {
        assert_eq!(handler.handle(attempt(number, given.clone())).await.outcome, Ok(Done));
    }

    let (first, second) = (requests.recv().await.unwrap(), requests.recv().await.unwrap());
    assert_eq!((first.method().as_str(), first.uri().to_string().as_str()), ("POST", "/hooks?to=shop"));
    let header = |name| first.headers()[name].to_str().unwrap();
    assert_eq!(header("host"), address.to_string());
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), format!("outboard/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("authorization"), "Bearer x");
    assert_eq!(header("tracestate"), "vendor=1");
    let span: TraceContext = header("traceparent").parse().unwrap();
    let parent: TraceContext = parent.parse().unwrap();
    assert_eq!((span.trace_id(), span.is_sampled()), (parent.trace_id(), true));
    assert_ne!(span.span_id(), parent.span_id());
    assert_eq!(header("webhook-signature").split(' ').count(), 2);
    for secret in secrets {
        let id = webhook::verify(&[secret], first.headers(), first.body(), seconds_now());
        assert_eq!(id, Ok(header("webhook-id")));
    }
    assert_eq!(second.headers()["webhook-id"], header("webhook-id"));

    let body: serde_json::Value = serde_json::from_slice(second.body()).unwrap();
    let expected = serde_json::json!({
        "id": 7,
        "type": "orders/confirm",
        "payload": {"order_id": 7},
        "headers": {"tenant": "7", "traceparent": parent.to_string(), "tracestate": "vendor=1"},
        "timestamp": "2021-02-25T15:02:10.042Z",
        "attempt": 2,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed_and_without_a_parent_a_trace_begins() {
    let (seen, mut requests) = mpsc::channel(1);
    let address = receiver(move |request| {
        seen.try_send(request).unwrap();
        answered(200, "")
    })
    .await;
    let given = [("traceparent", "nonsense"), ("tracestate", "vendor=1")].into_iter().collect();
    assert_eq!(forward_to(address).handle(attempt(1, given)).await.outcome, Ok(Done));
    let headers = requests.recv().await.unwrap().into_parts().0.headers;
    assert!(headers["traceparent"].to_str().unwrap().parse::<TraceContext>().is_ok());
    assert!(!headers.contains_key("webhook-signature"));
    assert!(!headers.contains_key("tracestate"), "it belongs to a parent that cannot be read");
    assert!(
        headers["webhook-timestamp"].to_str().unwrap().parse::<u64>().unwrap().abs_diff(seconds_now()) <= 60
    );
}

#[tokio::test]
async fn each_status_does_what_the_table_says() {
    let retry = |reason: &'static str, seconds: Option<u64>, cause| {
        Err(Failure::Retry { reason: reason.into(), after: seconds.map(Duration::from_secs), cause })
    };
    let dead = |reason: &'static str| Err(Failure::Dead(reason.into()));
    let cases: Vec<(u16, Option<&'static str>, Outcome)> = vec![
        (200, None, Ok(Done)),
        (204, None, Ok(Done)),
        (301, None, dead("answered 301 Moved Permanently: told so")),
        (400, None, dead("answered 400 Bad Request: told so")),
        (401, None, dead("answered 401 Unauthorized: told so")),
        (404, Some("5"), dead("answered 404 Not Found: told so")),
        (422, None, dead("answered 422 Unprocessable Entity: told so")),
        (410, None, Err(Failure::Pause("answered 410 Gone: told so".into()))),
        (408, None, retry("answered 408 Request Timeout: told so", None, Cause::Message)),
        (429, Some("5"), retry("answered 429 Too Many Requests: told so", Some(5), Cause::Message)),
        (500, None, retry("answered 500 Internal Server Error: told so", None, Cause::Target)),
        (501, None, retry("answered 501 Not Implemented: told so", None, Cause::Target)),
        (502, None, retry("answered 502 Bad Gateway: told so", None, Cause::Unavailable)),
        (
            503,
            Some("86400"),
            retry("answered 503 Service Unavailable: told so", Some(3_600), Cause::Unavailable),
        ),
        (504, None, retry("answered 504 Gateway Timeout: told so", None, Cause::Unavailable)),
    ];
    for (status, retry_after, expected) in cases {
        let address = receiver(move |_| {
            let body = if status == 204 { "" } else { "told\r\n so" };
            let mut response = answered(status, body);
            if let Some(value) = retry_after {
                response.headers_mut().insert("retry-after", value.parse().unwrap());
            }
            response
        })
        .await;
        assert_eq!(outcome(&forward_to(address)).await, expected, "{status}");
    }
}

#[tokio::test]
async fn network_trouble_is_retried_and_names_its_cause() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let plain = receiver(|_| answered(200, "")).await;
    let silent = sockets(|mut stream| async move {
        let _ = stream.read(&mut [0; 64 << 10]).await;
    })
    .await;
    let strange = sockets(|mut stream| async move {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let unknown = format!("http://{}.example/", "x".repeat(64));
    for (url, cause, said) in [
        (format!("http://{refusing}/"), Cause::Unreachable, "refused the connection"),
        (unknown, Cause::Unreachable, "was not resolved"),
        (format!("https://{plain}/"), Cause::Unreachable, "no TLS"),
        ("http://169.254.169.254/".to_owned(), Cause::Unreachable, "must not be called"),
        (format!("http://{silent}/"), Cause::Target, "closed before the answer"),
        (format!("http://{strange}/"), Cause::Target, "not understood"),
    ] {
        let found = outcome(&forward(ForwardConfig::to(target(&url)))).await;
        let Err(Failure::Retry { reason, after: None, cause: found_cause }) = found else {
            panic!("{url}: {found:?}")
        };
        assert!(reason.contains(said), "{url}: {reason}");
        assert_eq!(found_cause, cause, "{url}");
    }
}

#[tokio::test]
async fn dropping_an_attempt_closes_its_connection() {
    let (ended, mut ends) = mpsc::channel(1);
    let address = sockets(move |mut stream| {
        let ended = ended.clone();
        async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            ended.send(()).await.unwrap();
        }
    })
    .await;
    let handler = forward_to(address);
    let attempt = handler.handle(attempt(1, Headers::default()));
    assert!(tokio::time::timeout(Duration::from_millis(50), attempt).await.is_err());
    ends.recv().await.unwrap();
}

#[tokio::test]
async fn a_huge_answer_costs_a_short_reason() {
    let address = receiver(|_| answered(500, vec![b'x'; 20 << 20])).await;
    let Err(Failure::Retry { reason, .. }) = outcome(&forward_to(address)).await else {
        panic!("not retried")
    };
    assert!(reason.len() < 300, "{reason}");
}

#[tokio::test]
async fn a_receiver_that_closes_after_each_answer_gets_every_message() {
    let address = sockets(|stream| async move {
        let service =
            service_fn(async |_: Request<Incoming>| Ok::<_, std::convert::Infallible>(answered(200, "")));
        let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let handler = forward_to(address);
    for _ in 0..20 {
        assert_eq!(outcome(&handler).await, Ok(Done));
    }
}

#[tokio::test]
async fn a_probe_asks_its_own_url() {
    assert!(forward_to("127.0.0.1:9".parse().unwrap()).probe().is_none());
    let address = receiver(|request| match (request.method().as_str(), request.uri().path()) {
        ("GET", "/up") if request.headers()["authorization"] == "Bearer x" => answered(204, ""),
        _ => answered(503, "warming up"),
    })
    .await;
    let probe = async |path: &str| {
        let headers = HeaderMap::from_iter([("authorization".parse().unwrap(), "Bearer x".parse().unwrap())]);
        let probe = Some(target(&format!("http://{address}{path}")));
        let config = ForwardConfig { probe, headers, ..ForwardConfig::to(target("http://127.0.0.1:9/")) };
        forward(config).probe().unwrap().await
    };
    assert_eq!(probe("/up").await, Ok(()));
    let said = "the probe answered 503 Service Unavailable: warming up";
    assert_eq!(probe("/").await, Err(Unwell::Said(said.into())));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_fails_in_time() {
    let address = sockets(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let url = target(&format!("http://{address}/"));
    let begun = tokio::time::Instant::now();
    let probed =
        forward(ForwardConfig { probe: Some(url.clone()), ..ForwardConfig::to(url) }).probe().unwrap();
    let Err(Unwell::Silent(reason)) = probed.await else { panic!("nothing is heard of it") };
    assert!(reason.contains("timeout"), "{reason}");
    assert_eq!(begun.elapsed().as_secs(), PROBE_TIMEOUT.as_secs());
}

#[test]
fn headers_that_are_outboards_own_are_refused() {
    for name in RESERVED_HEADERS {
        let headers = HeaderMap::from_iter([(name.clone(), "x".parse().unwrap())]);
        let config = ForwardConfig { headers, ..ForwardConfig::to(target("http://127.0.0.1/")) };
        let client = Client::new(ClientConfig::default()).unwrap();
        assert_eq!(Forward::new(client, config).unwrap_err().0, name);
    }
}

#[test]
fn nothing_secret_is_shown() {
    let headers =
        HeaderMap::from_iter([("authorization".parse().unwrap(), "Bearer hunter2".parse().unwrap())]);
    let secrets = vec![SECRET.parse().unwrap()];
    let config = ForwardConfig { headers, secrets, ..ForwardConfig::to(target("http://h/?key=hunter2")) };
    let shown = format!("{config:?} {:?}", forward(config.clone()));
    assert!(!shown.contains("hunter2") && !shown.contains("MfKQ"), "{shown}");
}

/// Checks the signature with its own means and refuses what does not fit.
const PYTHON: &str = r#"
import base64, hashlib, hmac, http.server, json, sys
key = base64.b64decode(sys.argv[1].removeprefix("whsec_"))
class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        tag = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        fits = "v1," + tag in self.headers["webhook-signature"].split(" ")
        self.send_response(200 if fits and json.loads(body)["payload"] == {"order_id": 7} else 401)
        self.send_header("content-length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"#;

#[tokio::test]
async fn a_receiver_in_another_language_checks_the_signature() {
    use std::io::BufRead;
    let python = std::process::Command::new("python3")
        .args(["-c", PYTHON, SECRET])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let Ok(mut python) = python else {
        eprintln!("SKIPPED: python3 is not installed");
        return;
    };
    let mut line = String::new();
    std::io::BufReader::new(python.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = target(&format!("http://127.0.0.1:{}/", line.trim()));
    let right =
        forward(ForwardConfig { secrets: vec![SECRET.parse().unwrap()], ..ForwardConfig::to(url.clone()) });
    let wrong = vec![SECRET.replace("Mf", "Nf").parse().unwrap()];
    let wrong = forward(ForwardConfig { secrets: wrong, ..ForwardConfig::to(url) });
    let found = (outcome(&right).await, outcome(&right).await, outcome(&wrong).await);
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!((found.0, found.1), (Ok(Done), Ok(Done)));
    assert_eq!(found.2, Err(Failure::Dead("answered 401 Unauthorized".into())));
}
