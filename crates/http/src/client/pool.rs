//! The connections to one origin.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

use super::connection::Connection;

/// A bounded pool. A call holds a slot while it uses a connection and takes an idle one first, so that there are never
/// more connections than slots.
pub(super) struct Pool {
    slots: Semaphore,
    idle: Mutex<Idle>,
    idle_timeout: Duration,
    itself: Weak<Self>,
}

#[derive(Default)]
struct Idle {
    /// The last one used is the first one taken: the others can grow old and be closed.
    connections: Vec<Connection>,
    has_reaper: bool,
}

impl Pool {
    pub(super) fn new(slots: usize, idle_timeout: Duration) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            slots: Semaphore::new(slots),
            idle: Mutex::default(),
            idle_timeout,
            itself: itself.clone(),
        })
    }

    /// Waits for the right to use one connection.
    pub(super) async fn slot(&self) -> SemaphorePermit<'_> {
        self.slots.acquire().await.expect("the semaphore is never closed")
    }

    /// An idle connection that can take a request, if there is one.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.lock().connections.pop()?;
            if connection.idle_until > Instant::now() && connection.can_send().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next call, if it can still take one.
    pub(super) async fn put(&self, mut connection: Connection, peer_idle: Option<Duration>) {
        let keep = peer_idle.map_or(self.idle_timeout, |peer| peer.min(self.idle_timeout));
        if keep.is_zero() || !connection.can_send().await {
            return;
        }
        connection.idle_until = Instant::now() + keep;
        let mut idle = self.lock();
        idle.connections.push(connection);
        if !idle.has_reaper {
            idle.has_reaper = true;
            tokio::spawn(reap(self.itself.clone(), Instant::now() + keep));
        }
    }

    /// Whether it holds no connection.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().connections.is_empty()
    }

    /// Closes what has been idle for too long; returns when to look again, or `None` when nothing is left.
    fn close_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.connections.retain(|connection| connection.idle_until > now);
        let next = idle.connections.iter().map(|connection| connection.idle_until).min();
        idle.has_reaper = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Nothing panics between two writes, so a poisoned list is still a whole one.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes idle connections when their time has come. Lives only as long as there are any.
async fn reap(pool: Weak<Pool>, first: Instant) {
    let mut next = Some(first);
    while let Some(at) = next {
        sleep_until(at).await;
        next = pool.upgrade().and_then(|pool| pool.close_old());
    }
}
