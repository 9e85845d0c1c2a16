//! Ticks that happen at most once over all processes: slots of the wall clock, taken in a store.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Clock, Kind, PortError,
    lease::{Lease, Leases},
    recovery::Recovery,
    store::{StoreKey, Version, When, Write, whole_number},
};

use super::Job;

/// After this the wall clock is looked at again, in case it was set or the machine was suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Who is further ahead than this, and than two ticks, has a wrong clock: what he took does not count. Milliseconds.
const MAX_AHEAD: i64 = 60 * 60 * 1_000;

/// The ticks of one piece of periodic work.
///
/// The number of the next slot to run stands in the store. To take a tick is to move it on, by compare-and-set: that
/// alone makes a tick run at most once. The lease besides keeps ticks from running beside each other.
pub(super) struct Slots {
    leases: Leases,
    clock: Arc<dyn Clock>,
    /// Of the lease.
    name: String,
    /// Where the next slot's number stands.
    key: StoreKey,
    every_millis: i64,
    /// Whether this process has found out what the next slot is.
    has_looked: bool,
}

/// What became of a tick.
enum Taken {
    /// It is ours to run; the version is that of the store's next slot.
    Ours(Lease, Version),
    /// Somebody has taken it.
    Done,
}

impl Slots {
    pub(super) fn new(leases: Leases, clock: Arc<dyn Clock>, job: &Job) -> Self {
        let name = format!("periodic/{}/{}", job.worker, job.periodic.name);
        let key = name.as_str().into();
        let every_millis = i64::try_from(job.periodic.every.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { leases, clock, name, key, every_millis, has_looked: false }
    }

    /// Repeats the job until it is told to stop.
    pub(super) async fn repeat(mut self, job: Job) {
        let mut dealt_with = None;
        let mut outage: Option<Recovery> = None;
        loop {
            let slot = self.current();
            let mut wait = self.until_end_of(slot);
            if dealt_with != Some(slot) && !(job.rests)() {
                let taken = tokio::select! {
                    biased;
                    () = job.stop.cancelled() => return,
                    taken = self.take(slot) => taken,
                    // What somebody else still runs is waited for only as long as it is this slot's turn.
                    () = tokio::time::sleep(wait) => continue,
                };
                match taken {
                    Ok(taken) => {
                        (dealt_with, outage) = (Some(slot), None);
                        if let Taken::Ours(lease, version) = taken {
                            self.run(&job, slot, lease, version).await;
                            continue;
                        }
                    }
                    Err(error) => {
                        let outage = outage.get_or_insert_with(|| Recovery::begin(self.clock.now()));
                        if outage.is_news(&error) {
                            let (worker, periodic) = (&job.worker, &job.periodic.name);
                            tracing::warn!(%worker, %periodic, %error, "the store of periodic work fails");
                        }
                        job.note(error.to_string());
                        wait = outage.failed(&error, fastrand::f64());
                    }
                }
            }
            tokio::select! {
                biased;
                () = job.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn current(&self) -> i64 {
        self.clock.now().as_millis().div_euclid(self.every_millis)
    }

    fn until_end_of(&self, slot: i64) -> Duration {
        let end = slot.saturating_add(1).saturating_mul(self.every_millis);
        let left = end.saturating_sub(self.clock.now().as_millis());
        Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(LOOK_AGAIN)
    }

    /// Runs a tick that was taken, and leaves out what it was too long for.
    async fn run(&self, job: &Job, slot: i64, lease: Lease, version: Version) {
        if lease.is_held() {
            job.run(lease.lost()).await;
        } else {
            job.note("a tick was lost: the process stood still when it was to begin".to_owned());
        }
        let now = self.current();
        if now > slot {
            // If this fails, the tick that was missed runs late.
            let _ = self.set_next(now + 1, When::Version(version)).await;
        }
        lease.release().await;
    }

    /// Takes the tick of this slot, or finds out that somebody has.
    async fn take(&mut self, slot: i64) -> Result<Taken, PortError> {
        let store = self.leases.store();
        // Before the first look, so that nothing is missed.
        let mut changes = store.watch(Leases::key(&self.name)).await?;
        loop {
            let found = self.next().await?;
            let when = match found {
                Some((next, _)) if next > slot && !self.is_absurd(next, slot) => return Ok(self.done()),
                Some((_, version)) => When::Version(version),
                // Nobody has ever run it: it begins after one interval.
                None if !self.has_looked => {
                    return match self.set_next(slot + 1, When::Absent).await {
                        Ok(_) => Ok(self.done()),
                        Err(error) if error.kind == Kind::Conflict => continue,
                        Err(error) => Err(error),
                    };
                }
                None => When::Absent,
            };
            self.has_looked = true;
            let Some(lease) = self.leases.acquire(&self.name).await? else {
                self.leases.wait_for_change(&self.name, &mut changes).await?;
                continue;
            };
            match self.set_next(slot + 1, when).await {
                Ok(version) => return Ok(Taken::Ours(lease, version)),
                Err(error) if error.kind == Kind::Conflict => lease.release().await,
                // It may be taken now, by us: then it is lost, and never run twice.
                Err(error) => return Err(error),
            }
        }
    }

    fn done(&mut self) -> Taken {
        self.has_looked = true;
        Taken::Done
    }

    /// Whether the next slot is so far away that a wrong clock must have put it there.
    fn is_absurd(&self, next: i64, slot: i64) -> bool {
        let ahead = next.saturating_sub(slot);
        let is_absurd = ahead > 3 && ahead.saturating_mul(self.every_millis) > MAX_AHEAD;
        if is_absurd {
            tracing::warn!(name = %self.name, ahead, "a tick far ahead was taken: a clock is or was wrong");
        }
        is_absurd
    }

    /// The next slot to run, and the version of that.
    async fn next(&self) -> Result<Option<(i64, Version)>, PortError> {
        let found = self.leases.store().get(vec![self.key.clone()]).await?.pop().flatten();
        Ok(found.map(|entry| (whole_number(&entry.value).unwrap_or(i64::MIN), entry.version)))
    }

    async fn set_next(&self, slot: i64, when: When) -> Result<Version, PortError> {
        let (key, value) = (self.key.clone(), slot.to_string().into());
        let write = Write::Set { key, value, ttl: None, when };
        self.leases.store().write(vec![write]).await?.pop().expect("a store answers each write")
    }
}
