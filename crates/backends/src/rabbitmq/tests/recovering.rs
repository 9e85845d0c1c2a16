//! A consumer that has a trouble of its own when its connection is lost.

use outboard_core::{
    Consumer, Health, Kind,
    queue::{ConsumeSpec, Queue, QueueSpec},
};
use outboard_testkit::{Proxy, proxy::Mode, rabbitmq::url_at};

use super::{
    WITHIN, connect,
    consuming::{SOON, queues, until},
    shared,
};
use crate::rabbitmq::topology::ensure;

/// When it was first tried in vain to consume a queue that is missing, and how often it was.
fn missed(consumer: &dyn Consumer) -> Option<(outboard_core::Time, u32)> {
    match consumer.status().health {
        Health::Recovering { since, attempt, error } if error.kind == Kind::NotFound => {
            Some((since, attempt))
        }
        _ => None,
    }
}

/// It is patient with what it was told on the old connection: the next try would have been 5 to 10 s after the last one.
#[tokio::test]
async fn what_fails_on_a_new_connection_is_a_trouble_of_its_own() {
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let queues = queues(&url_at(proxy.port()));
    let queue = QueueSpec { create: false, ..QueueSpec::named("made-by-others") };
    let consumer = queues.consume(ConsumeSpec::new("worker", queue)).await.unwrap();
    let first = || missed(&*consumer).is_some_and(|(_, attempt)| attempt == 1);
    until("the queue is missed", WITHIN, first).await;
    let (before, _) = missed(&*consumer).unwrap();
    proxy.cut().await;
    proxy.set(Mode::Pass);
    let anew = || missed(&*consumer).is_some_and(|(since, attempt)| since > before && attempt == 1);
    until("it is missed on the new connection, for the first time there", SOON, anew).await;
    ensure(&connect(shared()).await, &QueueSpec::named("made-by-others")).await.unwrap();
    proxy.cut().await;
    proxy.set(Mode::Pass);
    until("it is consumed", SOON, || consumer.status().health.is_ready()).await;
}
