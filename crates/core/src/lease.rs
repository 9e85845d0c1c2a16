//! Leases on a store: one holder at a time, over all processes that share it, surviving the holder's death.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::{Kind, PortError},
    store::{Change, Entry, Store, StoreKey, Version, When, Write, next_change},
};

/// Before the names of leases in the store.
const PREFIX: &str = "lease/";

/// A lease that is not known how long it lasts is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Takes leases in the name of one process, all for the same time. Cheap to clone.
///
/// A lease belongs to at most one holder at a time, as far as two things are true: the store keeps what it has
/// answered, and clocks run equally fast, to a hundredth; what they show does not matter, only durations are compared.
/// A holder that dies is followed when its time is over. A holder that stands still cannot know that it was followed: a
/// stopped process until it looks, and a suspended machine, whose monotonic clock stands still with it (Linux), until what
/// was left of the lease has passed or the store has refused a renewal. Who changes something outside under a lease passes
/// [`Lease::fence`] along, and the other side refuses a number below one that it has seen.
#[derive(Debug, Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    holder: Arc<str>,
    ttl: Duration,
}

/// A lease that was taken, and is renewed until it is released, dropped or lost.
///
/// Dropping it gives it back in the background; [`Lease::release`] waits for that.
pub struct Lease {
    name: Arc<str>,
    fence: Version,
    until: watch::Receiver<Option<Instant>>,
    /// Ends the renewal, and gives the lease back.
    stop: DropGuard,
    keeping: JoinHandle<()>,
}

impl Leases {
    /// Leases that go to the next holder when ours has been dead for `ttl`. `holder` is for people who look into the
    /// store; two processes may have the same.
    ///
    /// A short `ttl` is followed soon, and lost soon when the store is away: it is renewed every third of it.
    pub fn new(store: Arc<dyn Store>, holder: impl Into<Arc<str>>, ttl: Duration) -> Self {
        Self { store, holder: holder.into(), ttl }
    }

    /// Where they are kept.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How long after its holder's death a lease is free.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The key of a lease: it is there as long as somebody holds it.
    pub fn key(name: &str) -> StoreKey {
        format!("{PREFIX}{name}").into()
    }

    /// Takes a lease if nobody has it. Dropping the future gives back what it may have got. Errors are the store's.
    pub async fn acquire(&self, name: &str) -> Result<Option<Lease>, PortError> {
        let (leases, name) = (self.clone(), Arc::from(name));
        // On a task of its own: what was taken for a caller who is gone is dropped there, and so given back.
        let acquiring = tokio::spawn(async move { leases.take(name).await });
        let gone = |_| PortError::new(Kind::Closed, "the runtime ends");
        acquiring.await.map_err(gone)?
    }

    /// Takes a lease as soon as nobody has it. Many who wait try when it is given back or has expired; any of them may
    /// get it. Errors are the store's; an outage while waiting is one.
    pub async fn wait(&self, name: &str) -> Result<Lease, PortError> {
        // Before the first look, so that nothing is missed.
        let mut changes = self.store.watch(Self::key(name)).await?;
        loop {
            if let Some(lease) = self.acquire(name).await? {
                return Ok(lease);
            }
            self.wait_for_change(name, &mut changes).await?;
        }
    }

    /// Returns when it is worth trying to get a lease that somebody has: it has changed or expired. `changes` are those
    /// of its key, watched since before it was found taken.
    pub async fn wait_for_change(
        &self,
        name: &str,
        changes: &mut broadcast::Receiver<Change>,
    ) -> Result<(), PortError> {
        let key = Self::key(name);
        let Some(entry) = read(&*self.store, &key).await? else { return Ok(()) };
        let left = entry.ttl.unwrap_or(LOOK_AGAIN).max(Duration::from_millis(1));
        let changed = async {
            // A longer key that begins so is none of ours.
            while next_change(changes)
                .await
                .is_some_and(|change| matches!(change, Change::Key(of) if of != key))
            {}
        };
        // Too late is a change, too.
        let _ = timeout(left, changed).await;
        Ok(())
    }

    async fn take(&self, name: Arc<str>) -> Result<Option<Lease>, PortError> {
        let key = Self::key(&name);
        let (one, two) = (RandomState::new().hash_one(&name), RandomState::new().hash_one(&self.holder));
        // Nobody else has ever written this: who finds it there has written it.
        let token = Bytes::from(format!("{} {one:016x}{two:016x}", self.holder));
        let keeper = Keeper { store: self.store.clone(), key, token, ttl: self.ttl };
        // The store counts from when it gets the request: later than this.
        let sent = Instant::now();
        let version = match keeper.set(When::Absent).await {
            Ok(version) => version,
            Err(error) if error.kind == Kind::Conflict => return Ok(None),
            Err(error) if error.kind == Kind::Unknown => match keeper.find().await? {
                Some(version) => version,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let (until, receiver) = watch::channel(Some(keeper.until(sent)));
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let keeping = tokio::spawn(keeper.keep(version, sent, until, stop));
        Ok(Some(Lease { name, fence: version, until: receiver, stop: guard, keeping }))
    }
}

impl Lease {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with every holder of this lease, and stays the same while it is held.
    pub fn fence(&self) -> Version {
        self.fence
    }

    /// Whether it is proven to be held at this moment, as far as the monotonic clock tells: see [`Leases`] for a machine that
    /// was suspended. Once false, it stays so.
    pub fn is_held(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it is not proven any more that it is held.
    pub async fn lost(&self) {
        let mut until = self.until.clone();
        loop {
            let Some(proven) = *until.borrow_and_update() else { return };
            if Instant::now() >= proven {
                return;
            }
            tokio::select! {
                changed = until.changed() => if changed.is_err() { return },
                () = sleep_until(proven) => {}
            }
        }
    }

    /// Gives it back, and returns when the store knows, or when its time is over.
    pub async fn release(self) {
        drop(self.stop);
        // It ends: what it waits for has a limit. Its panic is one of the store's.
        let _ = self.keeping.await;
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_held = self.is_held();
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("fence", &self.fence)
            .field("is_held", &is_held)
            .finish()
    }
}

/// Renews one lease.
struct Keeper {
    store: Arc<dyn Store>,
    key: StoreKey,
    token: Bytes,
    ttl: Duration,
}

impl Keeper {
    /// Until when a request that was sent then proves that the lease is held: a hundredth less than the time that the
    /// store gives, for clocks of another speed and for rounding.
    fn until(&self, sent: Instant) -> Instant {
        sent + self.ttl - self.ttl / 100
    }

    async fn set(&self, when: When) -> Result<Version, PortError> {
        let (key, value) = (self.key.clone(), self.token.clone());
        self.write(Write::Set { key, value, ttl: Some(self.ttl), when }).await
    }

    async fn write(&self, write: Write) -> Result<Version, PortError> {
        self.store.write(vec![write]).await?.pop().expect("a store answers each write")
    }

    /// The version of what we have written, if it is there.
    async fn find(&self) -> Result<Option<Version>, PortError> {
        let entry = read(&*self.store, &self.key).await?;
        Ok(entry.filter(|entry| entry.value == self.token).map(|entry| entry.version))
    }

    /// Renews until told to stop or until it is lost, then gives back.
    async fn keep(
        self,
        mut version: Version,
        mut renewed: Instant,
        until: watch::Sender<Option<Instant>>,
        stop: CancellationToken,
    ) {
        let mut next = renewed + self.ttl / 3;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(next) => {}
            }
            let sent = Instant::now();
            match timeout_at(self.until(renewed), self.renew(&mut version)).await {
                Ok(Ok(true)) => {
                    renewed = sent;
                    next = renewed + self.ttl / 3;
                    until.send_replace(Some(self.until(renewed)));
                    continue;
                }
                Ok(Ok(false)) => {
                    tracing::warn!(lease = &self.key[PREFIX.len()..], "the lease is somebody else's")
                }
                Ok(Err(error)) if Instant::now() < self.until(renewed) => {
                    tracing::debug!(lease = &self.key[PREFIX.len()..], %error, "the lease is not renewed yet");
                    next = Instant::now() + (self.ttl / 10).min(LOOK_AGAIN);
                    continue;
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(
                        lease = &self.key[PREFIX.len()..],
                        "the lease could not be renewed in time"
                    );
                }
            }
            break;
        }
        until.send_replace(None);
        // If this fails, the lease ends with its time.
        let _ = timeout(self.ttl, self.give_back(version)).await;
    }

    /// Whether the lease is ours for another time; false when it is somebody else's or gone.
    async fn renew(&self, version: &mut Version) -> Result<bool, PortError> {
        loop {
            match self.set(When::Version(*version)).await {
                Ok(renewed) => {
                    *version = renewed;
                    return Ok(true);
                }
                // A renewal whose answer was lost has changed the version.
                Err(error) if error.kind == Kind::Conflict => match self.find().await? {
                    Some(found) => *version = found,
                    None => return Ok(false),
                },
                Err(error) => return Err(error),
            }
        }
    }

    async fn give_back(&self, version: Version) -> Result<(), PortError> {
        let delete = |version| Write::Delete { key: self.key.clone(), when: When::Version(version) };
        match self.write(delete(version)).await {
            Err(error) if error.kind == Kind::Conflict => match self.find().await? {
                Some(version) => self.write(delete(version)).await.map(drop),
                None => Ok(()),
            },
            answer => answer.map(drop),
        }
    }
}

async fn read(store: &dyn Store, key: &StoreKey) -> Result<Option<Entry>, PortError> {
    Ok(store.get(vec![key.clone()]).await?.pop().flatten())
}
