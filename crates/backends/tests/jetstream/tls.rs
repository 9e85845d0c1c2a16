//! Whom we trust over TLS.

use outboard_backends::jetstream::{Options, inspect};
use outboard_core::{Health, Kind, Verdict};
use outboard_testkit::{Certificates, Nats, Refusal};

use crate::{
    open_url,
    outages::{consumer, one, publish, queue, settle, soon, until},
};

#[tokio::test]
async fn a_server_with_tls_is_used_when_its_certificate_is_the_expected_one() {
    let certificates = Certificates::usual();
    let ca = certificates.path("ca.pem");
    let nats = Nats::secured(&certificates, "server").unwrap();
    for url in [
        format!("tls://localhost:{}?cacertfile={ca}", nats.port()),
        // A server that wants TLS says so.
        format!("nats://127.0.0.1:{}/?cacertfile={ca}&server_name_indication=localhost", nats.port()),
    ] {
        let port = open_url(&url, Options::default());
        let name = queue(&port).await;
        let consumer = consumer(&port, &name).await;
        publish(&port, &name, "secret").await;
        let delivery = one(&consumer).await;
        assert_eq!(&delivery.message.payload[..], b"secret");
        settle(&consumer, &delivery, Verdict::Done).await;
    }
}

#[tokio::test]
async fn whom_we_do_not_trust_is_told_with_the_mend_and_not_tried_often() {
    let certificates = Certificates::usual();
    for Refusal { server, at, is_mistake, words } in certificates.refusals() {
        let kind = if is_mistake { Kind::Invalid } else { Kind::Denied };
        let nats = Nats::secured(&certificates, server).unwrap();
        let url = format!("tls://shop:top-secret@{at}").replace("PORT", &nats.port().to_string());
        let error = soon(inspect(&url)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{words:?}: {error}");
        assert!(!error.message.contains("top-secret") && !error.message.contains('\n'), "{error}");
        let port = open_url(&url, Options::default());
        let consumer = consumer(&port, "orders").await;
        until(&port, |health| health.error().is_some_and(|told| *told.message == *error.message)).await;
        assert!(!consumer.status().health.is_ready());
        assert!(matches!(*port.health().borrow(), Health::Recovering { attempt: 1, .. }), "seconds pass");
    }
}
