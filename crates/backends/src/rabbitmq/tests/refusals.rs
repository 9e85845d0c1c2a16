//! Who is refused, and whom we refuse: one clear line with the mend each time.

use std::{sync::Arc, time::Duration};

use outboard_core::{Kind, PortError, queue::QueueSpec};
use outboard_testkit::{Certificates, RabbitMq, free_ports};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::{WITHIN, shared, url};
use crate::rabbitmq::{
    Target,
    connection::Connection,
    topology::{ensure, look},
};

async fn refusal(url: &str) -> PortError {
    let target: Target = url.parse().expect("a URL");
    Connection::open(&target, WITHIN).await.expect_err("it is refused")
}

fn has(error: &PortError, kind: Kind, words: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.message.contains(word), "`{word}` is missing in: {error}");
    }
    assert!(!error.message.contains('\n'), "one line: {error}");
}

#[tokio::test]
async fn a_wrong_account_vhost_or_address_is_told_with_the_mend() {
    let broker = shared();
    let error = refusal(&url(broker, "guest:top-secret", "")).await;
    has(&error, Kind::Denied, &["user `guest` or the password", "rabbitmqctl"]);
    assert!(!error.message.contains("top-secret"), "no password in an error: {error}");
    let error = refusal(&url(broker, "guest:guest", "/nowhere")).await;
    has(&error, Kind::Denied, &["no vhost `nowhere`", "add_vhost nowhere"]);
    let error = refusal("amqp://127.0.0.1:1/").await;
    has(&error, Kind::Unavailable, &["cannot be reached"]);
    let error = refusal("amqp://no-such-host.invalid/").await;
    has(&error, Kind::Unavailable, &["no-such-host.invalid"]);
    let error = refusal(&format!("amqps://127.0.0.1:{}", broker.port())).await;
    has(&error, Kind::Denied, &["does not speak TLS", "amqp://"]);
}

#[tokio::test]
async fn who_does_not_answer_is_given_the_time_that_the_url_gives() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("amqp://127.0.0.1:{port}?connection_timeout=50");
    let error = timeout(Duration::from_secs(5), refusal(&url)).await.expect("it is given up");
    has(&error, Kind::Unavailable, &["did not answer within 50ms"]);
}

#[tokio::test]
async fn something_else_than_rabbitmq_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    let error = refusal(&format!("amqp://127.0.0.1:{port}")).await;
    has(&error, Kind::Unsupported, &["AMQP"]);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_broker_with_tls_is_used_when_its_certificate_is_the_expected_one() {
    let certificates = Certificates::usual();
    let [port] = free_ports();
    let _broker = RabbitMq::with_tls(port, &certificates, "server").expect("RabbitMQ is installed");
    let (ca, other) = (certificates.path("ca.pem"), certificates.path("other.pem"));
    let good = format!("amqps://localhost:{port}?cacertfile={ca}");
    let connection = Connection::open(&good.parse().unwrap(), WITHIN).await.expect("it is trusted");
    ensure(&connection, &QueueSpec::named("over-tls")).await.unwrap();
    assert_eq!(look(&connection, "over-tls").await.unwrap().ready, 0);
    connection.close().await;
    let named = format!("amqps://127.0.0.1:{port}?cacertfile={ca}&server_name_indication=localhost");
    Connection::open(&named.parse().unwrap(), WITHIN).await.expect("the name is given").close().await;

    let error = refusal(&format!("amqps://localhost:{port}")).await;
    has(&error, Kind::Denied, &["no public CA", "?cacertfile="]);
    let error = refusal(&format!("amqps://localhost:{port}?cacertfile={other}")).await;
    has(&error, Kind::Denied, &["other.pem", "does not vouch", "?cacertfile="]);
    let error = refusal(&format!("amqps://127.0.0.1:{port}?cacertfile={ca}")).await;
    has(&error, Kind::Denied, &["not for `127.0.0.1` but for", "localhost", "server_name_indication"]);
    let error = refusal(&format!("amqps://guest:top-secret@localhost:{port}?cacertfile={ca}")).await;
    has(&error, Kind::Denied, &["password"]);
    let error = refusal(&format!("amqps://localhost:{port}?cacertfile=/no/such/file")).await;
    has(&error, Kind::Invalid, &["/no/such/file", "cacertfile"]);
    let error =
        refusal(&format!("amqps://localhost:{port}?cacertfile={}", certificates.path("ca.key"))).await;
    has(&error, Kind::Invalid, &["holds no certificate"]);
    let error = refusal(&format!("amqp://localhost:{port}")).await;
    has(&error, Kind::Unsupported, &["speaks TLS", "amqps://"]);
}

#[tokio::test]
async fn an_expired_certificate_is_told_as_such() {
    let certificates = Certificates::usual();
    for (name, words) in [("old", "has expired"), ("new", "is not valid yet")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let read = |kind: &str| std::fs::read(certificates.path(&format!("{name}.{kind}"))).unwrap();
        let chain = CertificateDer::from_pem_slice(&read("pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_err()
        });
        let ca = certificates.path("ca.pem");
        let error = refusal(&format!("amqps://localhost:{port}?cacertfile={ca}")).await;
        has(&error, Kind::Denied, &[words]);
        assert!(serving.await.unwrap(), "nothing was said to it");
    }
}
