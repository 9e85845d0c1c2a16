//! What a [`Queue`] and its consumers must do, one function per behaviour, against a real broker.
//!
//! A backend's tests call [`crate::queue_conformance!`] once with an expression that makes a [`QueueBackend`].

pub mod delivering;
pub mod faults;
pub mod publishing;
pub mod settling;

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    Consumer, Delivery, Headers, Settlement, Verdict,
    consumer::Tag,
    queue::{
        ConsumeSpec, Destination, Outgoing, Payloads, Prefetch, Queue, QueueKind, QueueName, QueueSpec,
        Receipt,
    },
};

/// A future that a backend answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A real broker, shared by all cases.
pub trait QueueBackend: Send + Sync {
    /// A port with connections of its own. Each case opens its own ones.
    fn open(&self) -> Answer<'_, Arc<dyn Queue>>;

    /// A queue's name that no other case uses.
    fn name(&self) -> QueueName;

    /// How its queues are kept.
    fn kind(&self) -> QueueKind {
        QueueKind::Usual
    }

    /// Makes this port's connections end, and every new one, until [`QueueBackend::mend`]. Only this case's ports.
    fn cut(&self) -> Answer<'_, ()>;

    /// Lets connections through again.
    fn mend(&self) -> Answer<'_, ()>;
}

/// One case's queue on a broker.
struct Case {
    port: Arc<dyn Queue>,
    name: QueueName,
    kind: QueueKind,
}

impl Case {
    /// A port, and a queue that is there.
    async fn open(backend: &dyn QueueBackend) -> Self {
        let case = Self { port: backend.open().await, name: backend.name(), kind: backend.kind() };
        soon(case.port.declare(case.spec())).await.expect("the queue can be made");
        case
    }

    fn spec(&self) -> QueueSpec {
        QueueSpec { kind: self.kind, ..QueueSpec::named(self.name.clone()) }
    }

    async fn consumer(&self, prefetch: u32) -> Arc<dyn Consumer> {
        let prefetch = Prefetch::Fixed(prefetch);
        self.consumer_with(ConsumeSpec { prefetch, ..ConsumeSpec::new("worker", self.spec()) }).await
    }

    async fn consumer_with(&self, spec: ConsumeSpec) -> Arc<dyn Consumer> {
        soon(self.port.consume(spec)).await.expect("the queue can be consumed")
    }

    /// The numbers as JSON arrays, which every backend takes as they are.
    fn numbered(&self, numbers: std::ops::Range<usize>) -> Vec<Outgoing> {
        numbers.map(|number| self.outgoing(format!("[{number}]"))).collect()
    }

    fn outgoing(&self, payload: impl Into<Bytes>) -> Outgoing {
        Outgoing::new(Destination::Queue(self.name.clone()), "suite/message", payload)
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Receipt> {
        let answers = soon(self.port.publish(batch)).await.expect("the broker answers");
        answers.into_iter().map(|answer| answer.expect("the broker takes it")).collect()
    }

    /// Publishes so many numbered messages, from 0.
    async fn fill(&self, count: usize) {
        self.publish(self.numbered(0..count)).await;
    }

    fn max_payload(&self) -> usize {
        match self.port.capabilities().payloads {
            Payloads::Bytes { max } | Payloads::JsonArguments { max } => max,
        }
    }

    /// Ends the case: its port is closed in time.
    async fn close(self) {
        soon(self.port.close(Instant::now() + Duration::from_secs(5))).await.expect("the port closes");
    }
}

/// So many deliveries, in the order in which they come.
async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(soon(consumer.next(count - taken.len())).await.expect("the consumer delivers"));
    }
    taken
}

async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    take(consumer, 1).await.remove(0)
}

/// Settles, and waits until that is durable.
async fn settle(consumer: &Arc<dyn Consumer>, tag: Tag, verdict: Verdict) {
    settle_all(consumer, [(tag, verdict)]).await;
}

async fn settle_all(consumer: &Arc<dyn Consumer>, all: impl IntoIterator<Item = (Tag, Verdict)>) {
    let mut durable = consumer.durable();
    let mut ticket = 0;
    for (tag, verdict) in all {
        ticket = consumer.settle(Settlement { tag, verdict, effects: None });
    }
    soon(durable.wait_for(|durable| *durable >= ticket)).await.expect("the consumer lives");
}

async fn done(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) {
    settle_all(consumer, deliveries.iter().map(|delivery| (delivery.tag, Verdict::Done))).await;
}

/// Stops a consumer that has nothing, or gives back at once what it has.
async fn stop(consumer: &Arc<dyn Consumer>) -> u32 {
    soon(consumer.drain(Instant::now())).await.expect("the consumer stops").returned
}

fn retry(delay: Duration) -> Verdict {
    Verdict::RetryAfter { delay, reason: "not yet".into() }
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| String::from_utf8_lossy(&delivery.message.payload).into_owned())
        .collect()
}

fn numbers(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("[{number}]")).collect()
}

fn header(name: &str, value: &str) -> Headers {
    [(name, value)].into_iter().collect()
}

/// Fails instead of waiting for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this happens within 20 s")
}

/// Whether a future still waits after a time in which a broker on this machine would have answered often.
async fn waits<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), future).await.is_err()
}

/// Makes one named test of every case for a backend; `$make` is evaluated for each.
#[macro_export]
macro_rules! queue_conformance {
    ($make:expr) => {
        $crate::queue_conformance_tests! { $make;
            delivering {
                messages_come_in_order, what_is_unsettled_is_bounded, everything_of_a_message_comes_back,
                bodies_of_every_size_come_back, unicode_comes_back, ten_thousand_messages_come_once_each,
                two_consumers_share_fairly, a_dropped_next_loses_nothing, a_paused_consumer_delivers_nothing,
                a_scheduled_message_waits_for_its_time, a_message_without_an_id_gets_one,
            }
            settling {
                done_is_not_delivered_again, a_retry_comes_back_counted_and_not_too_early, a_snooze_is_not_counted,
                a_return_is_not_counted, a_cancelled_message_leaves_nothing, a_dead_letter_says_why,
                attempts_are_counted_through_everything, an_old_tag_is_ignored, settling_twice_is_settling_once,
            }
            publishing {
                what_was_confirmed_is_there, an_id_is_kept, one_bad_message_spoils_no_other,
                a_queue_that_is_there_can_be_declared_again, what_is_not_there_is_not_found,
                a_message_that_is_too_large_is_refused,
            }
            faults {
                a_consumer_that_is_gone_gives_everything_back, a_drain_waits_for_what_is_claimed,
                a_drain_gives_back_the_rest_uncounted, settling_after_the_end_changes_nothing,
                consuming_goes_on_after_a_cut, a_cut_shows_in_the_status_and_the_health,
                publishing_through_a_cut_loses_nothing, publishing_without_a_broker_ends_in_time,
            }
        }
    };
}

/// The inner part of [`queue_conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! queue_conformance_tests {
    ($make:expr; $($group:ident { $($case:ident,)* })*) => {
        $(mod $group {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let backend = $make.await;
                    $crate::conformance::queue::$group::$case(&backend).await;
                }
            )*
        })*
    };
}
