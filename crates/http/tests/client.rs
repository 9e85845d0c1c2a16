//! The client against real sockets: what it reuses, repeats, refuses and bounds.

#![allow(clippy::unwrap_used)] // Tests stop at the first surprise, also outside of test functions.

mod peer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use outboard_http::{
    Call, Client, ClientConfig, ClientError, Target,
    client::{Connecting, Phase, Stream, Transport},
    target::Origin,
};
use peer::{Peer, nobody, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LONG: Duration = Duration::from_secs(30);

fn client() -> Client {
    Client::new(ClientConfig::default()).unwrap()
}

#[tokio::test]
async fn calls_share_one_kept_connection() {
    let peer = Peer::start(|mut stream, _| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let (client, target) = (client(), peer.target());
    for _ in 0..100 {
        let answer = client.get(&target, LONG).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..], answer.is_complete), (200, &b"ok"[..], true));
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn the_request_goes_out_whole() {
    let (seen, mut requests) = mpsc::channel(1);
    let peer = Peer::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(request(&mut stream).await.unwrap()).await.unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let target: Target = format!("http://{}/hooks/in?a=b#part", peer.address).parse().unwrap();
    let headers = HeaderMap::from_iter([("x-one".parse().unwrap(), "1".parse().unwrap())]);
    let body = Bytes::from_static(b"hello");
    client()
        .send(Call { target: &target, method: Method::POST, headers, body, timeout: None })
        .await
        .unwrap();
    let text = requests.recv().await.unwrap();
    assert!(text.starts_with("POST /hooks/in?a=b HTTP/1.1\r\n"), "{text}");
    assert!(text.contains(&format!("host: {}\r\n", peer.address)), "{text}");
    assert!(text.contains("x-one: 1\r\n") && text.contains("content-length: 5\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, high) = (Arc::clone(&open), Arc::clone(&most));
    let peer = Peer::start(move |mut stream, _| {
        let (open, most) = (Arc::clone(&counter), Arc::clone(&high));
        async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while request(&mut stream).await.is_some() {
                tokio::task::yield_now().await;
                stream.write_all(OK).await.unwrap();
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let client = Client::new(ClientConfig { connections_per_host: 4, ..ClientConfig::default() }).unwrap();
    let target = peer.target();
    let calls = (0..200).map(|_| client.get(&target, LONG));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert_eq!(peer.connections(), 4);
}

#[tokio::test]
async fn a_connection_closed_between_requests_costs_no_call() {
    let (closed, mut closes) = mpsc::channel(1);
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let (client, target) = (client(), peer.target());
    for number in 1..=5 {
        client.get(&target, LONG).await.unwrap();
        closes.recv().await.unwrap();
        // One more trip through the reactor, so that the close has been seen before the next call.
        assert!(matches!(client.get(&nobody().await, LONG).await, Err(ClientError::Refused { .. })));
        assert_eq!(peer.connections(), number);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let peer = Peer::start(move |mut stream, _| {
        let requests = Arc::clone(&counter);
        async move {
            request(&mut stream).await.unwrap();
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK).await.unwrap();
            request(&mut stream).await.unwrap();
            requests.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let (client, target) = (client(), peer.target());
    client.get(&target, LONG).await.unwrap();
    let error = client.get(&target, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error:?}");
    assert!(!error.was_not_sent());
    assert_eq!((requests.load(Ordering::SeqCst), peer.connections()), (2, 1));
}

#[tokio::test]
async fn connections_are_not_kept_when_the_peer_says_so() {
    for header in ["connection: close", "keep-alive: timeout=1"] {
        let peer = Peer::start(move |mut stream, _| async move {
            while request(&mut stream).await.is_some() {
                let answer = format!("HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let (client, target) = (client(), peer.target());
        client.get(&target, LONG).await.unwrap();
        client.get(&target, LONG).await.unwrap();
        assert_eq!(peer.connections(), 2, "{header}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_by_the_client() {
    let (ended, mut ends) = mpsc::channel(1);
    let peer = Peer::start(move |mut stream, _| {
        let ended = ended.clone();
        async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
            }
            ended.send(()).await.unwrap();
        }
    })
    .await;
    let idle_timeout = Duration::from_millis(20);
    let client = Client::new(ClientConfig { idle_timeout, ..ClientConfig::default() }).unwrap();
    for _ in 0..2 {
        client.get(&peer.target(), LONG).await.unwrap();
        ends.recv().await.unwrap();
    }
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn every_failure_to_connect_has_its_own_error() {
    let client = client();
    let get = async |url: &str| client.get(&url.parse().unwrap(), LONG).await.unwrap_err();

    let refused = client.get(&nobody().await, LONG).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused:?}");
    // A label of 64 letters cannot exist, so the resolver says no without asking anybody.
    let dns = get(&format!("http://{}.example/", "x".repeat(64))).await;
    assert!(matches!(dns, ClientError::Dns { .. }), "{dns:?}");
    let forbidden = get("http://169.254.169.254/latest/meta-data/").await;
    assert!(matches!(forbidden, ClientError::Forbidden { .. }), "{forbidden:?}");
    let plain = Peer::start(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let tls = get(&format!("https://{}/", plain.address)).await;
    assert!(matches!(tls, ClientError::Tls { .. }), "{tls:?}");
    for error in [refused, dns, forbidden, tls] {
        assert!(error.was_not_sent(), "{error:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_connect_timeout() {
    let peer = Peer::start(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let connect_timeout = Duration::from_millis(50);
    let client = Client::new(ClientConfig { connect_timeout, ..ClientConfig::default() }).unwrap();
    let target = format!("https://{}/", peer.address).parse().unwrap();
    let error = client.get(&target, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { phase: Phase::Connecting, .. }), "{error:?}");
}

#[tokio::test]
async fn tls_needs_a_certificate_that_is_trusted() {
    use tokio_rustls::rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    // Made for these tests: self-signed, for localhost, valid until 2126.
    let (certificate, key) = (include_str!("tls/localhost.pem"), include_str!("tls/localhost.key"));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let peer = Peer::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let target = format!("https://localhost:{}/", peer.address.port()).parse().unwrap();
    let error = client().get(&target, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");

    let trusting = ClientConfig { extra_roots: certificate.to_owned(), ..ClientConfig::default() };
    let trusting = Client::new(trusting).unwrap();
    for _ in 0..2 {
        assert_eq!(trusting.get(&target, LONG).await.unwrap().body, "ok");
    }
    assert_eq!(peer.connections(), 2, "the refused one and one that was kept");
    let broken = ClientConfig { extra_roots: certificate.replace("MII", "!!!"), ..ClientConfig::default() };
    assert!(Client::new(broken).unwrap_err().contains("certificate 1"));
}

#[tokio::test]
async fn a_slow_answer_times_out_and_its_connection_is_closed() {
    let (ended, mut ends) = mpsc::channel(1);
    let peer = Peer::start(move |mut stream, _| {
        let ended = ended.clone();
        async move {
            request(&mut stream).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
            ended.send(()).await.unwrap();
        }
    })
    .await;
    let error = client().get(&peer.target(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { phase: Phase::Answering, .. }), "{error:?}");
    ends.recv().await.unwrap();
}

#[tokio::test]
async fn bodies_are_kept_drained_or_cut_off() {
    const CASES: [(usize, usize, bool); 4] =
        [(100, 1, true), (64 << 10, 1, true), (200 << 10, 1, false), (10 << 20, 2, false)];
    for (size, connections, is_complete) in CASES {
        let peer = Peer::start(move |mut stream, _| async move {
            while request(&mut stream).await.is_some() {
                let head = format!("HTTP/1.1 500 No\r\ncontent-length: {size}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                // Fails when the client has read enough.
                let _ = stream.write_all(&vec![b'x'; size]).await;
            }
        })
        .await;
        let client = client();
        for _ in 0..2 {
            let answer = client.get(&peer.target(), LONG).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.is_complete), (500, is_complete), "{size}");
            assert_eq!(answer.body.len(), size.min(64 << 10));
        }
        assert_eq!(peer.connections(), connections, "{size}");
    }
}

#[tokio::test]
async fn an_answer_counts_though_its_body_hangs_or_breaks_off() {
    for hangs in [true, false] {
        let peer = Peer::start(move |mut stream, _| async move {
            request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
            if hangs {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let body_timeout = if hangs { Duration::from_millis(50) } else { LONG };
        let client = Client::new(ClientConfig { body_timeout, ..ClientConfig::default() }).unwrap();
        let answer = client.get(&peer.target(), LONG).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..], answer.is_complete),
            (200, &b"half"[..], false)
        );
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    let long_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for answer in ["SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), long_head] {
        let peer = Peer::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                request(&mut stream).await.unwrap();
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let error = client().get(&peer.target(), LONG).await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn redirects_are_answers() {
    let elsewhere = Peer::start(|_, _| async {}).await;
    let location = elsewhere.target();
    let peer = Peer::start(move |mut stream, _| {
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        async move {
            request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    assert_eq!(client().get(&peer.target(), LONG).await.unwrap().status, 302);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn hosts_are_bounded_and_unused_ones_make_room() {
    let peer = Peer::start(|mut stream, _| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = Client::new(ClientConfig { hosts: 1, ..ClientConfig::default() }).unwrap();
    for _ in 0..3 {
        let refused = client.get(&nobody().await, LONG).await.unwrap_err();
        assert!(matches!(refused, ClientError::Refused { .. }), "{refused:?}");
    }
    client.get(&peer.target(), LONG).await.unwrap();
    let full = client.get(&nobody().await, LONG).await.unwrap_err();
    assert!(matches!(full, ClientError::TooManyOrigins { limit: 1 }), "{full:?}");
}

/// A network in memory, so that the client can live in simulated time.
#[derive(Debug)]
struct Memory;

impl Transport for Memory {
    fn connect(&self, origin: Origin) -> Connecting {
        Box::pin(async move {
            let (near, mut far) = tokio::io::duplex(4_096);
            tokio::spawn(async move {
                while request(&mut far).await.is_some() {
                    if &*origin.host == "slow.example" {
                        std::future::pending::<()>().await;
                    }
                    far.write_all(OK).await.unwrap();
                }
            });
            Ok(Stream::new(near))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_lives_in_simulated_time_too() {
    let client = Client::over(Arc::new(Memory), ClientConfig::default());
    assert_eq!(client.get(&"http://fast.example/".parse().unwrap(), LONG).await.unwrap().body, "ok");
    let slow = client.get(&"http://slow.example/".parse().unwrap(), LONG).await.unwrap_err();
    assert!(matches!(slow, ClientError::Timeout { .. }), "{slow:?}");
}

#[tokio::test]
async fn a_server_in_another_language_is_understood() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let python = tokio::process::Command::new("python3")
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", "tests/tls"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut python) = python else {
        eprintln!("SKIPPED: python3 is not installed");
        return;
    };
    // Its first line says: Serving HTTP on 127.0.0.1 port 40123 (http://127.0.0.1:40123/) ...
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let url = line.split_once('(').and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let client = client();
    let certificate = format!("{url}localhost.pem").parse().unwrap();
    for _ in 0..3 {
        let answer = client.get(&certificate, LONG).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &include_bytes!("tls/localhost.pem")[..])
        );
    }
    let missing = format!("{url}missing").parse().unwrap();
    assert_eq!(client.get(&missing, LONG).await.unwrap().status, 404);
    python.kill().await.unwrap();
    assert!(matches!(client.get(&certificate, LONG).await, Err(ClientError::Refused { .. })));
}

#[tokio::test]
async fn an_early_refusal_of_a_long_body_is_seen() {
    let peer = Peer::start(|mut stream, _| async move {
        let mut head = [0; 512];
        stream.read_exact(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!";
        stream.write_all(answer).await.unwrap();
        // Closing with unread bytes resets the connection while the client still sends.
    })
    .await;
    let (client, target) = (client(), peer.target());
    for _ in 0..20 {
        let (headers, body) = (HeaderMap::new(), Bytes::from(vec![b'x'; 16 << 20]));
        let answer =
            client.send(Call { target: &target, method: Method::POST, headers, body, timeout: None }).await;
        assert_eq!(answer.unwrap().status, 413);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_hangs_while_the_peer_closes_at_any_moment() {
    let peer = Peer::start(|mut stream, number| async move {
        for _ in 0..=number % 4 {
            if request(&mut stream).await.is_none() || stream.write_all(OK).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (client, target) = (client(), peer.target());
    let calls = (0..16).map(|_| {
        let (client, target) = (client.clone(), target.clone());
        tokio::spawn(async move {
            for _ in 0..200 {
                match client.get(&target, LONG).await {
                    Ok(answer) => assert_eq!(answer.body, "ok"),
                    Err(error) => assert!(matches!(error, ClientError::Closed { .. }), "{error:?}"),
                }
            }
        })
    });
    for call in futures_util::future::join_all(calls).await {
        call.unwrap();
    }
}
