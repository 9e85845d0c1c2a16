//! Pushing jobs.

use std::{collections::BTreeMap, time::Duration};

use outboard_core::{
    Kind, PortError, Time,
    queue::{Outgoing, Receipt},
};
use redis::Pipeline;
use tokio::time::Instant;

use super::{
    job::{New, compose},
    keys, stamp,
    url::Jobs,
};
use crate::redis::Link;

/// How long a message may wait for a connection.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// At most so many jobs, and about so many bytes, are pushed in one step.
const STEP_JOBS: usize = 500;
const STEP_BYTES: usize = 1 << 20;

/// Pushes messages in the order of the batch; each answer comes after Redis's.
pub(super) async fn publish(
    link: &Link,
    batch: Vec<Outgoing>,
    jobs: Jobs,
    now: Time,
) -> Vec<Result<Receipt, PortError>> {
    let deadline = Instant::now() + SEND_WITHIN;
    let mut answers: Vec<Result<Receipt, PortError>> = Vec::with_capacity(batch.len());
    let mut step: Vec<(usize, New)> = Vec::new();
    let mut bytes = 0;
    for message in batch {
        match compose(message, jobs, now) {
            Ok(new) => {
                if step.len() >= STEP_JOBS || bytes + new.json.len() > STEP_BYTES && !step.is_empty() {
                    push(link, deadline, &mut step, &mut answers).await;
                    bytes = 0;
                }
                bytes += new.json.len();
                let receipt = Receipt { id: new.id.clone() };
                step.push((answers.len(), new));
                answers.push(Ok(receipt));
            }
            Err(error) => answers.push(Err(error)),
        }
    }
    push(link, deadline, &mut step, &mut answers).await;
    answers
}

/// Pushes jobs in one step; an error is the answer for each of them.
async fn push(
    link: &Link,
    deadline: Instant,
    step: &mut Vec<(usize, New)>,
    answers: &mut [Result<Receipt, PortError>],
) {
    if step.is_empty() {
        return;
    }
    let pipeline = commands(step);
    let pushed = loop {
        let pushed = match link.connection_by(deadline).await {
            Ok(connection) => connection.pipeline::<()>(&pipeline).await,
            Err(error) => break Err(error),
        };
        match pushed {
            // It was surely not sent, and the next connection may be better.
            Err(error) if error.kind == Kind::Unavailable && Instant::now() < deadline => {}
            pushed => break pushed,
        }
    };
    if let Err(error) = pushed {
        let error = match error.kind {
            // A transaction without an answer may have been made.
            Kind::Unavailable | Kind::Unknown | Kind::Full | Kind::Denied | Kind::Closed => error,
            _ => PortError::new(Kind::Unavailable, error.message),
        };
        step.iter().for_each(|(at, _)| answers[*at] = Err(error.clone()));
    }
    step.clear();
}

fn commands(step: &[(usize, New)]) -> Pipeline {
    let mut queues: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for (_, new) in step {
        match new.run_at {
            Some(run_at) => {
                pipeline.cmd("ZADD").arg(keys::SCHEDULE).arg(stamp::seconds(run_at)).arg(&new.json).ignore();
            }
            None => queues.entry(&new.queue).or_default().push(&new.json),
        }
    }
    for (queue, jobs) in queues {
        // Monitors see a queue only when it is named here.
        pipeline.cmd("SADD").arg(keys::QUEUES).arg(queue).ignore();
        pipeline.cmd("LPUSH").arg(keys::queue(queue)).arg(jobs).ignore();
    }
    pipeline
}
