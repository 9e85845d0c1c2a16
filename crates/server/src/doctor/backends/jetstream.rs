//! NATS JetStream: whether there is any, how full it is, and when it is on disk.

use std::time::Duration;

use outboard_backends::jetstream::{self, Account, ConsumerFacts};
use outboard_core::{Kind, PortError};

use super::{Backend, Consumer};
use crate::{config::Span, doctor::report::Check};

/// Signs of life go out three times in this; a network that hiccups or a machine that stands still delays them.
const LEAST_ACK_WAIT: Duration = Duration::from_secs(3);

/// Longer than anybody wants to wait for what a killed process held.
const MOST_ACK_WAIT: Duration = Duration::from_secs(5 * 60);

/// What a message of ours may have.
const MESSAGE_BYTES: usize = 1 << 20;

pub(super) async fn checks(backend: &Backend) -> Result<Vec<Check>, PortError> {
    let facts = jetstream::inspect(&backend.url).await?;
    let mut checks = vec![Check::ok("version", format!("NATS {}", facts.version))];
    let kib = facts.max_payload >> 10;
    checks.push(if facts.max_payload < MESSAGE_BYTES {
        let text = format!("messages may have {kib} KiB at most");
        Check::warning("payload", text, "raise `max_payload` to 1MB or more, or send less")
    } else {
        Check::ok("payload", format!("messages may have {kib} KiB"))
    });
    match &facts.jetstream {
        Err(error) => {
            checks.push(Check::problem("jetstream", error.as_str(), ""));
            return Ok(checks);
        }
        Ok(account) => checks.push(usage(account)),
    }
    let always = "set `sync_interval: always` in the server's `jetstream` section";
    checks.push(match facts.sync_interval {
        None => Check::unknown(
            "sync",
            "it cannot be asked when it syncs; unless told otherwise every 2 minutes, and what it acknowledged since is \
             lost with the power",
            always,
        ),
        Some(interval) if interval.is_zero() => Check::ok("sync", "it syncs before it acknowledges"),
        Some(interval) => {
            let text = format!("it syncs every {interval:?}: what it acknowledged since is lost with the power");
            Check::warning("sync", text, always)
        }
    });
    let durables: Vec<_> = backend.consumers.iter().map(Consumer::durable).collect();
    let asked: Vec<_> = durables.iter().map(|(stream, worker)| (&**stream, &**worker)).collect();
    let found = jetstream::inspect_consumers(&backend.url, &asked).await?;
    for (consumer, facts) in backend.consumers.iter().zip(found) {
        match facts {
            Ok(facts) => checks.extend(judge_consumer(consumer, facts.as_ref())),
            Err(error) => checks.push(without_stream(consumer, &error)),
        }
    }
    Ok(checks)
}

/// A worker whose stream is not there, or cannot be looked at.
fn without_stream(consumer: &Consumer, error: &PortError) -> Check {
    let (name, stream) = (format!("worker {}", consumer.worker), &consumer.queue.name);
    match error.kind {
        Kind::NotFound if consumer.queue.create => {
            let text = format!("has no consumer on the stream {stream} yet: it makes one, without limits");
            Check::ok(name, text)
        }
        Kind::NotFound => {
            let mend = format!(
                "make it with `nats stream add {stream}`, or let the worker do so with `create: true`"
            );
            Check::problem(name, error.to_string(), mend)
        }
        Kind::Conflict => {
            let mend = "name that stream as `queue`, choose another name, or change that stream's subjects";
            Check::problem(name, error.to_string(), mend)
        }
        _ => Check::problem(name, error.to_string(), ""),
    }
}

/// What a durable consumer was told, against what its worker needs.
fn judge_consumer(consumer: &Consumer, facts: Option<&ConsumerFacts>) -> Vec<Check> {
    let (worker, stream) = (&consumer.worker, &*consumer.queue.name);
    let name = format!("worker {worker}");
    let Some(facts) = facts else {
        let text = format!("has no consumer on the stream {stream} yet: it makes one, without limits");
        return vec![Check::ok(name, text)];
    };
    let edit = |flag: &str| format!("`nats consumer edit {stream} {} {flag}`", facts.name);
    let mut checks = vec![ack_wait(name, consumer, facts, &edit)];
    if let Some(most) = facts.max_ack_pending {
        let needs = consumer.prefetch.unwrap_or(consumer.concurrency).min(consumer.concurrency);
        let pending = facts.ack_pending;
        let short = if most < u64::from(needs) {
            format!(", and it works on {needs} at once")
        } else {
            String::new()
        };
        let text = format!(
            "holds {most} unacknowledged messages at most (MaxAckPending), and {pending} now{short}; retries that wait \
             count, too: with {most} of them nothing is delivered any more"
        );
        checks.push(Check::warning(format!("pending {worker}"), text, edit("--max-pending=-1")));
    }
    if let Some(most) = facts.max_deliver {
        let text = format!(
            "after {most} deliveries (MaxDeliver), counted as attempts or not, a message is not delivered any more and is \
             no dead letter"
        );
        checks.push(Check::problem(format!("deliver {worker}"), text, edit("--max-deliver=-1")));
    }
    checks
}

/// A handler may take longer than the consumer waits: what is held is renewed. But the wait has to be neither too short for
/// that nor too long for whoever comes after a process that was killed.
fn ack_wait(
    name: String,
    consumer: &Consumer,
    facts: &ConsumerFacts,
    edit: &dyn Fn(&str) -> String,
) -> Check {
    let (wait, timeout) = (Span(facts.ack_wait), Span(consumer.timeout));
    let durable = &facts.name;
    if facts.ack_wait < LEAST_ACK_WAIT {
        let text = format!(
            "may take {timeout}; the consumer {durable} waits {wait} for a sign of life (AckWait): a message is delivered \
             again when the machine or the network stands still for so long"
        );
        return Check::warning(name, text, edit("--wait=15s"));
    }
    if facts.ack_wait > MOST_ACK_WAIT {
        let text = format!(
            "may take {timeout}; the consumer {durable} waits {wait} for a sign of life (AckWait), so long is what a \
             killed process held not delivered to others; the wait need not be as long as the work, which is renewed"
        );
        return Check::warning(name, text, edit("--wait=15s"));
    }
    let text = format!("may take {timeout}: what is held is renewed within {wait} (AckWait of {durable})");
    Check::ok(name, text)
}

fn usage(account: &Account) -> Check {
    let Account { storage, streams, consumers, .. } = account;
    let mib = storage >> 20;
    let text = format!("{streams} streams with {consumers} consumers, {mib} MiB stored");
    let parts = [(Some(*storage), account.max_storage), (Some(*streams), account.max_streams)];
    let used = |(used, max): (Option<u64>, Option<u64>)| Some((used?, max?));
    let mend = "raise the account's limits, or delete what is not needed";
    if parts.into_iter().filter_map(used).any(|(used, max)| used >= max) {
        return Check::problem(
            "jetstream",
            format!("{text}: a limit is reached, and nothing new is taken"),
            mend,
        );
    }
    if parts.into_iter().filter_map(used).any(|(used, max)| used >= max - max / 10) {
        return Check::warning("jetstream", format!("{text}: more than 90 % of a limit"), mend);
    }
    Check::ok("jetstream", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn limits_are_told_before_they_are_reached() {
        let account = |storage: u64, max: Option<u64>| Account {
            storage,
            max_storage: max,
            streams: 1,
            max_streams: None,
            consumers: 1,
        };
        assert_eq!(usage(&account(99, None)).status, Status::Ok);
        assert_eq!(usage(&account(80, Some(100))).status, Status::Ok);
        assert_eq!(usage(&account(90, Some(100))).status, Status::Warning);
        assert_eq!(usage(&account(100, Some(100))).status, Status::Problem);
    }
}
