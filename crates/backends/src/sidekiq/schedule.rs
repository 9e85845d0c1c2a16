//! Jobs whose time has come.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outboard_core::{Clock, PortError, queue::QueueName};
use redis::cmd;
use tokio::time::{Instant, sleep_until};

use super::{job, keys, scripts, stamp};
use crate::redis::{Connection, Link};

/// How often due jobs are looked for, on average.
const EVERY: Duration = Duration::from_secs(1);

/// No due job of ours waits longer for being looked at.
pub(super) const WITHIN: Duration = Duration::from_millis(1_500);

/// Jobs that are read at once.
const PAGE: usize = 200;

/// Due jobs of others that are passed over in search of ours.
const LOOKED_AT: usize = 10_000;

/// The queues that are consumed here. Due jobs of others are left to whoever consumes those.
pub(super) type Queues = Arc<Mutex<BTreeSet<QueueName>>>;

/// Moves due jobs to their queues, until it is aborted.
pub(super) async fn run(link: Link, queues: Queues, clock: Arc<dyn Clock>) {
    let mut connections = link.connections();
    loop {
        // Several processes do this; a random pause keeps them apart.
        sleep_until(Instant::now() + EVERY.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
        if queues.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            continue;
        }
        let Ok(connection) = connections.wait_for(Option::is_some).await.map(|found| found.clone()) else {
            return;
        };
        let Some(connection) = connection else { continue };
        for set in [keys::RETRY, keys::SCHEDULE] {
            if let Err(error) = move_due(&connection, set, &queues, &*clock).await {
                // The link tells outages; what remains is a key or a right that is wrong, which fetching tells as well.
                tracing::debug!(%error, set, "due jobs could not be moved");
                break;
            }
        }
    }
}

async fn move_due(
    connection: &Connection,
    set: &'static str,
    queues: &Queues,
    clock: &dyn Clock,
) -> Result<(), PortError> {
    let mut passed = 0;
    while passed < LOOKED_AT {
        let now = clock.now();
        let mut look = cmd("ZRANGEBYSCORE");
        look.arg(set).arg("-inf").arg(stamp::seconds(now)).arg("LIMIT").arg(passed).arg(PAGE);
        let page: Vec<Vec<u8>> = connection.query(&look).await?;
        let mut ours = Vec::new();
        for raw in &page {
            let is_ours = |queue: &str| queues.lock().unwrap_or_else(PoisonError::into_inner).contains(queue);
            ours.extend(
                job::due(raw, now)
                    .filter(|(queue, _)| is_ours(queue))
                    .map(|(queue, json)| (raw, queue, json)),
            );
        }
        if !ours.is_empty() {
            let fill = |script: &mut redis::ScriptInvocation<'_>| {
                script.key(keys::QUEUES);
                for (raw, queue, json) in &ours {
                    script.arg(set).arg(raw.as_slice()).arg(queue).arg(json);
                }
            };
            connection.script::<u64>(&scripts::ENQUEUE_DUE, fill).await?;
        }
        if page.len() < PAGE {
            break;
        }
        passed += page.len() - ours.len();
    }
    Ok(())
}
