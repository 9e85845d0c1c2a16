//! Declarations, against a real broker.

use outboard_core::{
    Kind,
    queue::{Argument, Binding, Declared, QueueKind, QueueSpec, Routing},
};

use super::{connect, shared, short};
use crate::rabbitmq::{
    Table,
    codec::method::Method,
    topology::{ensure, ensure_plain, is_found_quorum, look},
};

fn bound(name: &str, exchange: &str, routing: Routing, key: &str) -> QueueSpec {
    let arguments = Default::default();
    let binding = Binding { exchange: exchange.into(), routing, arguments, key: key.into() };
    QueueSpec { bindings: vec![binding], ..QueueSpec::named(name) }
}

fn with_ttl(name: &str, milliseconds: i64) -> QueueSpec {
    let mut spec = QueueSpec::named(name);
    spec.arguments.insert("x-message-ttl".into(), Argument::Number(milliseconds));
    spec
}

#[tokio::test]
async fn what_is_missing_is_made_and_what_is_there_is_the_same() {
    let connection = connect(shared()).await;
    for spec in [
        QueueSpec { kind: QueueKind::Classic, ..QueueSpec::named("made-classic") },
        QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named("made-quorum") },
        bound("made-bound", "made-topic", Routing::Topic, "orders.*"),
        bound("made-bound", "amq.direct", Routing::Direct, "orders"),
        with_ttl("made-ttl", 1_000),
    ] {
        for _ in 0..2 {
            assert_eq!(ensure(&connection, &spec).await.unwrap(), Declared::Same, "{spec:?}");
        }
    }
    assert_eq!(ensure_plain(&connection, "made-plain", Table::default()).await.unwrap(), Declared::Same);
    assert_eq!(look(&connection, "made-plain").await.unwrap().ready, 0);
    assert!(!connection.has_ended());
}

#[tokio::test]
async fn what_is_there_with_other_arguments_is_used_as_it_is() {
    let connection = connect(shared()).await;
    ensure(&connection, &with_ttl("differs", 1_000)).await.unwrap();
    for (spec, words) in [
        (with_ttl("differs", 2_000), "the queue `differs` has x-message-ttl = 1000 and not 2000"),
        (QueueSpec::named("differs"), "the queue `differs` has x-message-ttl = 1000 and not none"),
    ] {
        let declared = ensure(&connection, &spec).await.unwrap();
        let Declared::Differs(what) = &declared else { panic!("{declared:?}") };
        assert!(what.contains(words), "{what}");
    }
    ensure(&connection, &bound("differs-too", "an-exchange", Routing::Topic, "a")).await.unwrap();
    let declared =
        ensure(&connection, &bound("differs-too", "an-exchange", Routing::Direct, "b")).await.unwrap();
    let Declared::Differs(what) = &declared else { panic!("{declared:?}") };
    assert!(what.contains("the exchange `an-exchange` has type = topic and not direct"), "{what}");
    assert!(!connection.has_ended());
}

#[tokio::test]
async fn a_queue_that_is_replicated_already_is_recognized() {
    let connection = connect(shared()).await;
    let quorum = QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named("quorum") };
    ensure(&connection, &quorum).await.unwrap();
    for kind in [QueueKind::Usual, QueueKind::Classic] {
        let spec = QueueSpec { kind, ..quorum.clone() };
        let Declared::Differs(what) = ensure(&connection, &spec).await.unwrap() else { panic!("{spec:?}") };
        assert!(is_found_quorum("quorum", &what), "{what}");
    }
    let classic = QueueSpec { kind: QueueKind::Classic, ..QueueSpec::named("no-quorum") };
    ensure(&connection, &classic).await.unwrap();
    let quorum = QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named("no-quorum") };
    let Declared::Differs(what) = ensure(&connection, &quorum).await.unwrap() else { panic!("{quorum:?}") };
    assert!(!is_found_quorum("no-quorum", &what), "{what}");
}

#[tokio::test]
async fn what_may_not_be_made_is_only_looked_for() {
    let connection = connect(shared()).await;
    let spec = QueueSpec { create: false, ..bound("never-made", "never-made", Routing::Fanout, "") };
    let error = ensure(&connection, &spec).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    assert!(error.message.contains("`never-made` is not there") && error.message.contains("create: true"));
    assert_eq!(look(&connection, "never-made").await.unwrap_err().kind, Kind::NotFound);
    ensure(&connection, &with_ttl("never-changed", 5)).await.unwrap();
    let spec = QueueSpec { create: false, ..QueueSpec::named("never-changed") };
    assert_eq!(ensure(&connection, &spec).await.unwrap(), Declared::Same);
}

#[tokio::test]
async fn who_may_not_have_a_queue_is_told_why() {
    let connection = connect(shared()).await;
    let owner = connect(shared()).await;
    // Bit 2: exclusive.
    let (queue, arguments) = (short("exclusive"), Table::default());
    let declare = Method::QueueDeclare { reserved1: 0, queue, flags: 1 << 2, arguments };
    owner.channel().await.unwrap().call(&declare).await.unwrap();
    let error = ensure(&connection, &QueueSpec::named("exclusive")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    assert!(error.message.contains("exclusive"), "{error}");
    // Names that begin like this are the broker's own.
    let error = ensure(&connection, &QueueSpec::named("amq.mine")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
    let error = ensure(&connection, &with_ttl("wrong-argument", -1)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    let error = ensure(&connection, &QueueSpec::named("x".repeat(256))).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    assert!(!connection.has_ended());
}
