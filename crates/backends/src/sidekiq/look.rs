//! Figures of a queue, and its dead jobs.

use std::sync::Arc;

use bytes::Bytes;
use outboard_core::{
    Kind, PortError, Time,
    queue::{DeadMessage, Identify, QueueName, QueueStats},
};
use redis::cmd;

use super::{
    job::{self, Dead, Job},
    keys, scripts, stamp,
};
use crate::redis::Connection;

/// Jobs of a set that are read at once.
const PAGE: usize = 250;

/// Sets are shared by all queues: in a larger one the jobs of one queue are not counted.
const COUNTED: u64 = 10_000;

/// What is in a queue.
pub(super) async fn stats(
    connection: &Connection,
    queue: &QueueName,
    now: Time,
) -> Result<QueueStats, PortError> {
    let list = keys::queue(queue);
    let (known, ready, last): (bool, u64, Option<Vec<u8>>) = connection
        .pipeline(
            redis::pipe()
                .cmd("SISMEMBER")
                .arg(keys::QUEUES)
                .arg(&**queue)
                .cmd("LLEN")
                .arg(&list)
                .cmd("LINDEX")
                .arg(&list)
                .arg(-1),
        )
        .await?;
    if !known && ready == 0 {
        return Err(PortError::new(Kind::NotFound, format!("Sidekiq has no queue `{queue}`")));
    }
    let unsettled: u64 = connection
        .script(&scripts::IN_HAND, |script| {
            script.key(keys::holders(queue)).arg(keys::claims(queue, "")).arg(keys::arrivals(queue, ""));
        })
        .await?;
    let retry = count(connection, keys::RETRY, queue).await?;
    let schedule = count(connection, keys::SCHEDULE, queue).await?;
    Ok(QueueStats {
        ready: Some(ready),
        unsettled: Some(unsettled),
        parked: retry.zip(schedule).map(|(retry, schedule)| retry + schedule),
        dead: count(connection, keys::DEAD, queue).await?,
        oldest: last.and_then(|job| job::enqueued_at(&job)).map(|at| now.since(at)),
        consumers: None,
    })
}

/// How many jobs of a queue are in a set, if it is not too large to count.
async fn count(connection: &Connection, set: &str, queue: &str) -> Result<Option<u64>, PortError> {
    let size: u64 = connection.query(cmd("ZCARD").arg(set)).await?;
    if size > COUNTED {
        return Ok(None);
    }
    let mut counted = 0;
    for start in (0..size).step_by(PAGE) {
        let page: Vec<(Vec<u8>, f64)> = page(connection, set, start).await?;
        counted += page.iter().filter(|(job, _)| job::queue_of(job).as_deref() == Some(queue)).count() as u64;
    }
    Ok(Some(counted))
}

async fn page(connection: &Connection, set: &str, start: u64) -> Result<Vec<(Vec<u8>, f64)>, PortError> {
    let mut look = cmd("ZRANGE");
    look.arg(set).arg(start).arg(start + PAGE as u64 - 1).arg("WITHSCORES");
    connection.query(&look).await
}

/// Dead jobs of a queue, oldest first; those that no queue claims belong to all.
pub(super) async fn dead(
    connection: &Connection,
    queue: &QueueName,
    max: usize,
) -> Result<Vec<DeadMessage>, PortError> {
    let mut found = Vec::new();
    for start in (0..COUNTED).step_by(PAGE) {
        let page = page(connection, keys::DEAD, start).await?;
        let is_last = page.len() < PAGE;
        for (raw, score) in page {
            let dead = Dead::parse(&raw);
            if dead.queue.as_deref().is_some_and(|other| other != &**queue) {
                continue;
            }
            found.push(letter(raw, dead, score, queue));
            if found.len() >= max {
                return Ok(found);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(found)
}

fn letter(raw: Vec<u8>, dead: Dead, score: f64, queue: &QueueName) -> DeadMessage {
    let at = stamp::read(score);
    let raw = Bytes::from(raw);
    let untyped: Arc<str> = queue.clone();
    let now = at.unwrap_or_default();
    let (id, kind, payload) = match Job::parse(raw.clone(), queue, &untyped, Identify::ByPublisher, now) {
        Ok(job) => {
            let message = job.message;
            let id = message.name.clone().filter(|_| job.is_identified);
            (id, message.kind.clone(), message.payload.clone())
        }
        // What nobody can read is shown as it is.
        Err(_) => (None, untyped, raw),
    };
    DeadMessage {
        id,
        kind,
        payload,
        reason: dead.reason.into(),
        attempts: dead.attempts,
        at,
        history: dead.history,
    }
}
