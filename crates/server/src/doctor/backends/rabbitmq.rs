//! RabbitMQ: who wins, its ack timeout or our handlers, and whether queues are as they are specified.

use std::time::Duration;

use outboard_backends::rabbitmq::{self, QueueFacts, Target};
use outboard_core::{
    Kind, PortError,
    queue::{Declared, QueueKind},
};

use super::{Backend, Consumer};
use crate::{config::Span, doctor::report::Check};

/// Since 3.8.17 a delivery may be unsettled for so long, unless the broker was told otherwise.
const USUAL_ACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

pub(super) async fn checks(backend: &Backend) -> Result<Vec<Check>, PortError> {
    let target: Target = backend.url.parse()?;
    let queues: Vec<_> = backend.consumers.iter().map(|consumer| consumer.queue.clone()).collect();
    let facts = rabbitmq::inspect(&target, &queues).await?;
    let mut checks = vec![Check::ok("version", format!("{} {}", facts.product, facts.version))];
    for (consumer, queue) in backend.consumers.iter().zip(&facts.queues) {
        checks.push(ack_timeout(consumer));
        checks.push(judge_queue(queue));
        checks.extend(delivery_limit(consumer, &facts.version));
    }
    Ok(checks)
}

/// AMQP has no way to ask for the broker's.
fn ack_timeout(consumer: &Consumer) -> Check {
    let name = format!("worker {}", consumer.worker);
    let (timeout, ack) = (Span(consumer.timeout), Span(consumer.ack_timeout));
    if consumer.long {
        return Check::ok(
            name,
            format!("may take {timeout}: its messages are in the log, not held at the broker"),
        );
    }
    if consumer.timeout < USUAL_ACK_TIMEOUT.min(consumer.ack_timeout) {
        return Check::ok(
            name,
            format!("may take {timeout}, within the broker's ack timeout ({ack}, if it is as here)"),
        );
    }
    let usual = Span(USUAL_ACK_TIMEOUT);
    Check::warning(
        name,
        format!(
            "may take {timeout}; `ack_timeout` says that the broker waits {ack}, AMQP cannot ask it, and unless told \
             otherwise it closes the channel after {usual}"
        ),
        "see that `consumer_timeout` in rabbitmq.conf is as here, or set `long: true`",
    )
}

fn judge_queue(facts: &QueueFacts) -> Check {
    let name = format!("queue {}", facts.name);
    let counted = |count: Option<u64>| count.unwrap_or_default();
    match &facts.declared {
        Ok(Declared::Same) => {
            let (ready, consumers) = (counted(facts.ready), counted(facts.consumers));
            Check::ok(name, format!("as configured, {ready} messages wait, {consumers} consumers"))
        }
        Ok(Declared::Differs(what)) if what.contains(" has type = ") => {
            let mend = "write its type into the binding, with a key that suits it, or delete the exchange";
            Check::warning(name, what.to_string(), mend)
        }
        Ok(Declared::Differs(what)) => {
            Check::warning(name, what.to_string(), "configure it as it is, or delete it when it is empty")
        }
        Err(error) if error.kind == Kind::NotFound && error.message.contains("its worker makes it") => {
            Check::ok(name, error.to_string())
        }
        Err(error) if error.kind == Kind::NotFound => {
            Check::problem(name, error.to_string(), "declare it, or let the worker do so with `create: true`")
        }
        Err(error) => Check::problem(name, error.to_string(), ""),
    }
}

/// From 4.0 on a quorum queue drops a message after 20 returns unless told otherwise.
fn delivery_limit(consumer: &Consumer, version: &str) -> Option<Check> {
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let is_limited = major >= 4 && consumer.queue.kind == QueueKind::Quorum;
    is_limited.then(|| {
        let name = &consumer.queue.name;
        Check::warning(
            format!("limit {name}"),
            "unless a policy says otherwise, this broker drops a message of a quorum queue after 20 deliveries that were not settled",
            format!("`rabbitmqctl set_policy {name}-limit '^{name}$' '{{\"delivery-limit\":-1}}'`, or a dead-letter exchange"),
        )
    })
}

#[cfg(test)]
mod tests {
    use outboard_core::queue::QueueSpec;

    use super::*;
    use crate::doctor::report::Status;

    fn consumer(timeout: u64, ack_timeout: u64, long: bool) -> Consumer {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let queue = QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named("q") };
        let (timeout, ack_timeout) = (minutes(timeout), minutes(ack_timeout));
        Consumer {
            worker: "w".to_owned(),
            queue,
            timeout,
            concurrency: 32,
            prefetch: None,
            ack_timeout,
            long,
        }
    }

    #[test]
    fn long_handlers_are_told_of_the_ack_timeout() {
        assert_eq!(ack_timeout(&consumer(1, 30, false)).status, Status::Ok);
        assert_eq!(ack_timeout(&consumer(31, 60, false)).status, Status::Warning);
        assert_eq!(ack_timeout(&consumer(31, 30, true)).status, Status::Ok);
    }

    #[test]
    fn quorum_queues_of_new_brokers_have_a_delivery_limit() {
        let consumer = consumer(1, 30, false);
        assert!(delivery_limit(&consumer, "3.13.7").is_none());
        assert!(delivery_limit(&consumer, "4.0.2").unwrap().text.contains("20 deliveries"));
    }
}
