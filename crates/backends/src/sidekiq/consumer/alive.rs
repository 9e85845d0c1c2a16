//! The task that gives signs of life, and finds out whose have ceased.

use std::{sync::Arc, time::Duration};

use outboard_core::PortError;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::{
    redis::Connection,
    sidekiq::{keys, scripts},
};

/// How often signs of life are given, and how long each one counts.
#[derive(Debug, Clone, Copy)]
pub(in crate::sidekiq) struct Signs {
    /// From one to the next; after one that was refused, the next comes in a third of it.
    pub(in crate::sidekiq) every: Duration,
    /// How long a holder is taken for alive after its last one.
    pub(in crate::sidekiq) count_for: Duration,
}

impl Signs {
    /// Three may be late.
    pub(in crate::sidekiq) const USUAL: Self =
        Self { every: Duration::from_secs(3), count_for: Duration::from_secs(12) };
}

/// How long the word of a holder that has ended is kept; without it, the holder counts as not seen, which is the same.
pub(super) const WORD_KEPT_MS: u64 = 24 * 3_600 * 1_000;

pub(super) async fn run(shared: Arc<Shared>) {
    while let Some(connection) = shared.connection().await {
        give(&shared, &connection).await;
        // What was found out is of its time: who was gone before an outage may be back after it.
        shared.lock().gone_holders.clear();
    }
}

/// Gives signs of life until the connection ends.
async fn give(shared: &Shared, connection: &Connection) {
    // The first of those that were all taken. While Redis was away or took none, nobody could be seen: everybody gets
    // the time to be seen again.
    let mut taken_since: Option<Instant> = None;
    loop {
        let is_settled = taken_since.is_some_and(|since| since.elapsed() > shared.signs.count_for);
        let wait = match signs(shared, connection, is_settled).await {
            Ok(gone) => {
                taken_since.get_or_insert_with(Instant::now);
                shared.found_gone(gone);
                shared.signs.every
            }
            Err(error) => {
                tracing::debug!(%error, "a sign of life did not arrive");
                taken_since = None;
                shared.lock().gone_holders.clear();
                // Others may be seen already: whoever is late is taken for dead.
                shared.signs.every / 3
            }
        };
        if let Err(error) = shared.look_for_lost(connection).await {
            tracing::debug!(%error, "it is not known yet whether some jobs came");
        }
        tokio::select! {
            _ = connection.until_ended() => return,
            () = sleep_until(Instant::now() + wait) => {}
        }
    }
}

/// Gives a sign of life.
pub(super) async fn beat(shared: &Shared, connection: &Connection) -> Result<(), PortError> {
    signs(shared, connection, false).await.map(drop)
}

/// Gives a sign of life; who is gone.
async fn signs(shared: &Shared, connection: &Connection, is_settled: bool) -> Result<Vec<String>, PortError> {
    let keys = &shared.keys;
    connection
        .script(&scripts::BEAT, |script| {
            script.key(&keys.alive).key(&keys.holders);
            script.arg(&keys.holder).arg(shared.signs.count_for.as_millis() as u64);
            script.arg(keys::alive(&shared.spec.queue.name, "")).arg(u8::from(is_settled));
        })
        .await
}
