//! Jobs whose time has come.

use std::{
    collections::BTreeSet,
    ops::Range,
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

/// No due job of ours waits longer for being looked at, unless thousands of others' lie before and behind it.
pub(super) const WITHIN: Duration = Duration::from_millis(1_500);

/// Jobs that are read at once.
const PAGE: usize = 200;

/// Due jobs that are passed over in one look, in search of ours: others' jobs that nobody consumes lie before ours.
const LOOKED_AT: usize = 10_000;

/// With more due jobs than that, so many that have come due last are looked at each time, too: those of others that lie
/// there hold up only what is as old.
const LATEST: usize = 1_000;

/// The queues that are consumed here. Due jobs of others are left to whoever consumes those.
pub(super) type Queues = Arc<Mutex<BTreeSet<QueueName>>>;

/// Moves due jobs to their queues, until it is aborted.
pub(super) async fn run(link: Link, queues: Queues, clock: Arc<dyn Clock>) {
    let mut connections = link.connections();
    let mut sweeps = [keys::RETRY, keys::SCHEDULE].map(Sweep::of);
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
        for sweep in &mut sweeps {
            if let Err(error) = sweep.look(&connection, &queues, &*clock).await {
                // The link tells outages; what remains is a key or a right that is wrong, which fetching tells as well.
                tracing::debug!(%error, set = sweep.set, "due jobs could not be moved");
                break;
            }
        }
    }
}

/// Looks through one set, with bounded cost each time: where the last look stopped the next one goes on.
#[derive(Debug)]
struct Sweep {
    set: &'static str,
    /// How many due jobs lie before the place where it stopped. Jobs that go or come meanwhile move it a little; what is
    /// passed over so is found the next time round.
    place: usize,
}

impl Sweep {
    fn of(set: &'static str) -> Self {
        Self { set, place: 0 }
    }

    async fn look(
        &mut self,
        connection: &Connection,
        queues: &Queues,
        clock: &dyn Clock,
    ) -> Result<(), PortError> {
        let mut count = cmd("ZCOUNT");
        count.arg(self.set).arg("-inf").arg(stamp::seconds(clock.now()));
        let due: usize = connection.query(&count).await?;
        if self.place >= due {
            self.place = 0;
        }
        let end = due.min(self.place + LOOKED_AT);
        let is_through = end == due;
        let moved = self.move_ours(connection, self.place..end, queues, clock).await?;
        if is_through {
            self.place = 0;
            return Ok(());
        }
        self.place = end - moved;
        let latest = (due - moved).saturating_sub(LATEST).max(self.place)..due - moved;
        self.move_ours(connection, latest, queues, clock).await.map(drop)
    }

    /// Moves those of the jobs at these ranks that are ours to their queues; returns how many.
    async fn move_ours(
        &self,
        connection: &Connection,
        mut ranks: Range<usize>,
        queues: &Queues,
        clock: &dyn Clock,
    ) -> Result<usize, PortError> {
        let mut moved = 0;
        while !ranks.is_empty() {
            let now = clock.now();
            let mut look = cmd("ZRANGE");
            look.arg(self.set).arg(ranks.start).arg(ranks.end.min(ranks.start + PAGE) - 1).arg("WITHSCORES");
            let page: Vec<(Vec<u8>, f64)> = connection.query(&look).await?;
            let mut ours = Vec::new();
            for (raw, score) in &page {
                let is_ours =
                    |queue: &str| queues.lock().unwrap_or_else(PoisonError::into_inner).contains(queue);
                // Others may have taken jobs meanwhile, so that later ones lie here.
                let is_due = *score <= now.as_millis() as f64 / 1_000.0;
                let job = job::due(raw, now).filter(|(queue, _)| is_due && is_ours(queue));
                ours.extend(job.map(|(queue, json)| (raw, queue, json)));
            }
            if !ours.is_empty() {
                let fill = |script: &mut redis::ScriptInvocation<'_>| {
                    script.key(keys::QUEUES);
                    for (raw, queue, json) in &ours {
                        script.arg(self.set).arg(raw.as_slice()).arg(queue).arg(json);
                    }
                };
                connection.script::<u64>(&scripts::ENQUEUE_DUE, fill).await?;
            }
            if page.is_empty() {
                break;
            }
            moved += ours.len();
            ranks = ranks.start + page.len() - ours.len()..ranks.end - ours.len();
        }
        Ok(moved)
    }
}
