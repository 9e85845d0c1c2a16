//! The task that gives signs of life, and takes over what dead holders left.

use std::{sync::Arc, time::Duration};

use outboard_core::PortError;
use tokio::time::{Instant, sleep_until};

use super::{Shared, state::ALIVE_FOR};
use crate::{
    redis::Connection,
    sidekiq::{keys, scripts},
};

/// How often a sign of life is given: three may be late.
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// How long the word of a holder that has ended is kept; without it, the holder counts as not seen, which is the same.
pub(super) const WORD_KEPT_MS: u64 = 24 * 3_600 * 1_000;

/// At most so many jobs are taken over in one step.
const STEP_JOBS: usize = 500;

pub(super) async fn run(shared: Arc<Shared>) {
    while let Some(connection) = shared.connection().await {
        let connected = Instant::now();
        loop {
            // After an outage of Redis nobody has been seen: everybody gets the time to be seen again.
            let is_settled = connected.elapsed() > ALIVE_FOR;
            let beaten = look_after(&shared, &connection, is_settled).await;
            if let Err(error) = beaten {
                tracing::debug!(%error, "a sign of life did not arrive");
            }
            tokio::select! {
                _ = connection.until_ended() => break,
                () = sleep_until(Instant::now() + BEAT_EVERY) => {}
            }
        }
    }
}

/// Gives a sign of life.
pub(super) async fn beat(shared: &Shared, connection: &Connection) -> Result<(), PortError> {
    signs(shared, connection, false).await.map(drop)
}

/// Gives a sign of life; whom others have not seen.
async fn signs(shared: &Shared, connection: &Connection, is_settled: bool) -> Result<Vec<String>, PortError> {
    let keys = &shared.keys;
    connection
        .script(&scripts::BEAT, |script| {
            script.key(&keys.alive).key(&keys.holders);
            script.arg(&keys.holder).arg(ALIVE_FOR.as_millis() as u64);
            script.arg(keys::alive(&shared.spec.queue.name, "")).arg(u8::from(is_settled));
        })
        .await
}

async fn look_after(shared: &Shared, connection: &Connection, is_settled: bool) -> Result<(), PortError> {
    let gone = signs(shared, connection, is_settled).await?;
    shared.look_for_lost(connection).await?;
    for holder in gone {
        adopt(shared, connection, &holder).await?;
    }
    Ok(())
}

/// Takes over what a dead holder had, as far as there is room.
async fn adopt(shared: &Shared, connection: &Connection, holder: &str) -> Result<(), PortError> {
    let queue = &shared.spec.queue.name;
    loop {
        let reserved = {
            let mut state = shared.lock();
            let room = state.room().min(STEP_JOBS);
            if room == 0 {
                return Ok(());
            }
            state.reserve(room, connection.generation())
        };
        let keys = &shared.keys;
        let jobs: Vec<Vec<u8>> = connection
            .script(&scripts::ADOPT, |script| {
                script.key(&keys.claims).key(keys::claims(queue, holder)).key(keys::arrivals(queue, holder));
                script.key(keys::alive(queue, holder)).key(&keys.holders);
                script.arg(holder).arg(reserved.first).arg(reserved.count);
            })
            .await
            .inspect_err(|_| shared.lock().failed(reserved))?;
        let count = jobs.len();
        if count > 0 {
            tracing::info!(count, queue = &**queue, "took over jobs of a consumer that is gone");
        }
        shared.arrived(reserved, (reserved.first..).zip(jobs), true);
        if count < reserved.count {
            return Ok(());
        }
    }
}
