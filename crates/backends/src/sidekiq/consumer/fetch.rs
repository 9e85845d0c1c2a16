//! The task that has jobs come: in batches while there are some, and waiting within Redis while there are none.

use std::{
    convert::Infallible,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use outboard_core::PortError;
use redis::cmd;
use tokio::time::timeout;

use super::{
    Shared, alive,
    state::{Reserved, State},
};
use crate::{
    redis::Connection,
    sidekiq::{job::Job, keys, scripts},
};

/// How long Redis waits for a job before it is asked again.
const WAIT: Duration = Duration::from_secs(5);

/// How soon a wait that was not ended is ended again.
const UNBLOCK_EVERY: Duration = Duration::from_millis(20);

/// At most so many jobs, and about so many bytes, come at once.
const BATCH_JOBS: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

pub(super) async fn run(shared: Arc<Shared>) {
    let mut recovery = None;
    while let Some(connection) = shared.connection().await {
        let error = tokio::select! {
            error = connection.until_ended() => error,
            fetched = fetch(&shared, &connection) => match fetched {
                Ok(never) => match never {},
                Err(error) => error,
            },
        };
        shared.stopped_fetching();
        if shared.lock().trouble.is_none() {
            recovery = None;
        }
        shared.pause(&mut recovery, &connection, error).await;
    }
}

/// Fetches until something fails.
async fn fetch(shared: &Shared, connection: &Connection) -> Result<Infallible, PortError> {
    if shared.spec.queue.create {
        connection.query::<()>(cmd("SADD").arg(keys::QUEUES).arg(&*shared.spec.queue.name)).await?;
    }
    alive::beat(shared, connection).await?;
    shared.look_for_lost(connection).await?;
    let waiting = connection.another(WAIT).await?;
    let id: u64 = waiting.query(cmd("CLIENT").arg("ID")).await?;
    loop {
        let room = shared.room().await;
        shared.lock().waiting = Some(id);
        // What others left comes before the queue: while there is a backlog, the queue leaves no room for it.
        let room = room - shared.adopt(connection, room).await;
        if room == 0 {
            continue;
        }
        let found = shared.batch(connection, room).await?;
        shared.lock().trouble = None;
        if found == 0 {
            shared.wait_for_one(connection, &waiting, id).await?;
        }
    }
}

impl Shared {
    fn stopped_fetching(&self) {
        self.lock().is_fetching = false;
        self.settled.notify_waiters();
    }

    /// Waits until there is room for jobs.
    async fn room(&self) -> usize {
        loop {
            {
                let mut state = self.lock();
                let room = state.room();
                if room > 0 {
                    // Set under the same lock as the room was seen: a drain that begins later waits for this.
                    state.is_fetching = true;
                    return room;
                }
            }
            self.stopped_fetching();
            self.room.notified().await;
        }
    }

    /// Returns when no job of the queue is wanted any more, or those that others have left are wanted first.
    async fn until_unwanted(&self) {
        let is_wanted = |state: MutexGuard<'_, State>| state.is_wanted() && state.gone_holders.is_empty();
        while is_wanted(self.lock()) {
            self.room.notified().await;
        }
    }

    /// Takes up to so many jobs; how many there were.
    async fn batch(&self, connection: &Connection, room: usize) -> Result<usize, PortError> {
        let count = room.min(BATCH_JOBS);
        let reserved = self.lock().reserve(count, connection.generation(), false);
        let keys = &self.keys;
        let jobs: Vec<Vec<u8>> = connection
            .script(&scripts::FETCH, |script| {
                script
                    .key(&keys.queue)
                    .key(&keys.claims)
                    .key(&keys.arrivals)
                    .key(&keys.alive)
                    .key(&keys.holders);
                script.arg(&keys.holder).arg(self.signs.count_for.as_millis() as u64);
                script.arg(reserved.first).arg(count).arg(BATCH_BYTES);
            })
            .await
            .inspect_err(|_| self.lock().failed(reserved))?;
        let found = jobs.len();
        self.arrived(reserved, (reserved.first..).zip(jobs));
        Ok(found)
    }

    /// Has Redis move the next job to where the next batch finds it.
    async fn wait_for_one(
        &self,
        connection: &Connection,
        waiting: &Connection,
        id: u64,
    ) -> Result<(), PortError> {
        let mut wait = cmd("BLMOVE");
        wait.arg(&self.keys.queue).arg(&self.keys.arrivals).arg("RIGHT").arg("LEFT").arg(WAIT.as_secs());
        let mut answer = std::pin::pin!(waiting.query::<Option<Vec<u8>>>(&wait));
        tokio::select! {
            answer = &mut answer => return answer.map(drop),
            () = self.until_unwanted() => {}
        }
        // Nothing must come any more once others count on getting it. The question may overtake what it is to end.
        let came = loop {
            connection.query::<u64>(cmd("CLIENT").arg("UNBLOCK").arg(id)).await?;
            if let Ok(answer) = timeout(UNBLOCK_EVERY, &mut answer).await {
                break answer?;
            }
        };
        if came.is_some() {
            let fill = |script: &mut redis::ScriptInvocation<'_>| {
                script.key(&self.keys.arrivals).key(&self.keys.queue);
            };
            connection.script::<()>(&scripts::PUT_BACK, fill).await?;
        }
        Ok(())
    }

    /// Asks for jobs of which it is not known whether they came: the answer was lost with its connection.
    pub(super) async fn look_for_lost(&self, connection: &Connection) -> Result<(), PortError> {
        let look = Look::begin(self, connection.generation());
        for reserved in &look.lost {
            let mut ask = cmd("HMGET");
            ask.arg(&self.keys.claims);
            let numbers = reserved.first..reserved.first + reserved.count as u64;
            for number in numbers.clone() {
                ask.arg(number);
            }
            let found: Vec<Option<Vec<u8>>> = connection.query(&ask).await?;
            let found = numbers.zip(found).filter_map(|(number, job)| Some((number, job?)));
            self.came(found);
        }
        Ok(())
    }

    /// The answer for these numbers has come, with these jobs.
    pub(super) fn arrived(&self, reserved: Reserved, jobs: impl Iterator<Item = (u64, Vec<u8>)>) {
        self.came(jobs);
        self.lock().answered(reserved);
    }

    fn came(&self, jobs: impl Iterator<Item = (u64, Vec<u8>)>) {
        let now = self.clock.now();
        let queue = &self.spec.queue.name;
        // Read before the lock is taken: nobody waits for it.
        let parsed: Vec<_> = jobs
            .map(|(number, raw)| {
                let raw = Bytes::from(raw);
                let job = Job::parse(raw.clone(), queue, &self.spec.untyped, self.spec.identify, now);
                (number, job.map_err(|error| (raw, error)))
            })
            .collect();
        if parsed.is_empty() {
            return;
        }
        let mut state = self.lock();
        for (number, job) in parsed {
            let job = job.map_err(|(raw, error)| {
                tracing::warn!(%error, queue = &**queue, "a job that nobody can read is dead");
                raw
            });
            state.arrived(number, job, now);
        }
        drop(state);
        self.arrived.notify_one();
        self.flush.notify_one();
    }
}

/// A look for jobs of which it is not known whether they came. It ends when it is dropped, also half-way.
struct Look<'a> {
    shared: &'a Shared,
    lost: Vec<Reserved>,
}

impl<'a> Look<'a> {
    fn begin(shared: &'a Shared, generation: u64) -> Self {
        Self { shared, lost: shared.lock().lost(generation) }
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if !self.lost.is_empty() {
            self.shared.lock().looked(&self.lost);
        }
    }
}
