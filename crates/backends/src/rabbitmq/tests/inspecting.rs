//! What `doctor` asks.

use outboard_core::{
    Kind,
    queue::{Argument, Declared, QueueSpec},
};

use super::{connect, shared};
use crate::rabbitmq::{
    inspect,
    topology::{ensure, look},
};

#[tokio::test]
async fn a_look_tells_what_is_there_and_makes_nothing() {
    let broker = shared();
    let connection = connect(broker).await;
    ensure(&connection, &QueueSpec::named("seen")).await.unwrap();
    let mut differs = QueueSpec::named("seen");
    differs.arguments.insert("x-max-length".into(), Argument::Number(3));
    let missing = QueueSpec::named("not-seen");
    let not_made = QueueSpec { create: false, ..missing.clone() };
    let target = broker.url().parse().unwrap();
    let facts = inspect(&target, &[QueueSpec::named("seen"), differs, missing, not_made]).await.unwrap();
    assert_eq!(&*facts.product, "RabbitMQ");
    assert!(facts.version.starts_with(|first: char| first.is_ascii_digit()), "{}", facts.version);
    let [seen, differs, missing, not_made] = &facts.queues[..] else { panic!("{facts:?}") };
    assert_eq!(seen.declared.as_ref().unwrap(), &Declared::Same);
    assert_eq!((seen.ready, seen.consumers), (Some(0), Some(0)));
    let declared = differs.declared.as_ref().unwrap();
    assert!(matches!(declared, Declared::Differs(what) if what.contains("x-max-length")), "{declared:?}");
    for absent in [missing, not_made] {
        assert_eq!(absent.declared.as_ref().unwrap_err().kind, Kind::NotFound);
        assert_eq!(absent.ready, None, "which is not 0");
    }
    assert_eq!(look(&connection, "not-seen").await.unwrap_err().kind, Kind::NotFound);
}
