//! The task that says to Redis what became of jobs, many at a time.

use std::sync::Arc;

use outboard_core::{PortError, Time};

use super::{
    DEAD_FOR, MOST_DEAD, Shared,
    state::{Sent, Word},
};
use crate::{
    redis::Connection,
    sidekiq::{job::Job, keys, scripts, stamp},
};

/// At most so many words in one step: Redis does nothing else meanwhile.
const STEP_WORDS: usize = 500;

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let words = shared.lock().words(STEP_WORDS);
        if words.is_empty() {
            shared.flush.notified().await;
            continue;
        }
        words.iter().for_each(|sent| tell_given_up(&shared, &sent.word));
        say_until_heard(&shared, &words).await;
        let ticket = shared.lock().said(&words, shared.clock.now());
        shared.durable.send_if_modified(|durable| {
            let is_later = ticket > *durable;
            *durable = (*durable).max(ticket);
            is_later
        });
        shared.room.notify_one();
        shared.settled.notify_waiters();
    }
}

/// Logs what the runtime does not: that a job is dropped, or is dead where the runtime counts on a retry.
///
/// Before it is done, so that nothing is lost in silence.
fn tell_given_up(shared: &Shared, word: &Word) {
    let Word::Dead { job, reason, by_itself } = word else { return };
    let (worker, message_id, class) = (&*shared.spec.worker, job.message.id(), &*job.message.kind);
    if job.is_dropped_when_dead {
        tracing::warn!(worker, %message_id, class, %reason, "dropped, as the job says by `dead: false`");
    } else if *by_itself {
        tracing::warn!(worker, %message_id, class, %reason, "dead letter");
    }
}

/// Says it again after each failure: what was heard already is passed over.
async fn say_until_heard(shared: &Shared, words: &[Sent]) {
    let mut recovery = None;
    let now = shared.clock.now();
    loop {
        let Some(connection) = shared.connection().await else { return };
        match say(shared, &connection, words, now).await {
            Ok(()) => return,
            Err(error) => shared.pause(&mut recovery, &connection, error).await,
        }
    }
}

async fn say(shared: &Shared, connection: &Connection, words: &[Sent], now: Time) -> Result<(), PortError> {
    let oldest_dead = Time::from_millis(now.as_millis() - DEAD_FOR.as_millis() as i64);
    let queue = &shared.spec.queue.name;
    connection
        .script(&scripts::SETTLE, |script| {
            script.key(&shared.keys.claims).key(&shared.keys.queue);
            script
                .arg(stamp::seconds(now))
                .arg(stamp::day(now))
                .arg(stamp::seconds(oldest_dead))
                .arg(MOST_DEAD);
            let done = || words.iter().filter(|sent| matches!(sent.word, Word::Done));
            script.arg(done().count());
            for sent in done() {
                script.arg(sent.number);
            }
            for sent in words {
                // The time and the text stay the same when it is said again: a set holds it once.
                let (set, due, job) = match &sent.word {
                    Word::Done => continue,
                    Word::Return { had } => {
                        ("queue", String::new(), had.as_ref().map(Job::returned).unwrap_or_default())
                    }
                    Word::Retry { job, due, reason } => {
                        (keys::RETRY, stamp::seconds(*due), job.failed(queue, reason, now).into_bytes())
                    }
                    Word::Snooze { job, due } => {
                        (keys::SCHEDULE, stamp::seconds(*due), job.snoozed(queue).into_bytes())
                    }
                    Word::Dead { job, .. } if job.is_dropped_when_dead => {
                        (scripts::DROPPED, String::new(), Vec::new())
                    }
                    Word::Dead { job, reason, .. } => {
                        (keys::DEAD, stamp::seconds(now), job.failed(queue, reason, now).into_bytes())
                    }
                    Word::Malformed { raw } => (keys::DEAD, stamp::seconds(now), raw.to_vec()),
                };
                script.arg(set).arg(sent.number).arg(due).arg(job);
            }
        })
        .await
}
