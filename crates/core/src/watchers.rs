//! Who is told of changes in a store, for backends to implement [`Store::watch`](crate::store::Store::watch).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::{
    error::{Kind, PortError},
    store::{Change, StoreKey},
};

/// How many prefixes may be watched at a time: each change looks at all of them.
const MAX_PREFIXES: usize = 1_024;

/// How many changes wait for one watcher; who has more is told that some were lost.
const MAX_WAITING: usize = 1_024;

type Channels = Vec<(StoreKey, broadcast::Sender<Change>)>;

/// The watchers of a store, one channel for each prefix; nothing once it is closed.
///
/// ```
/// use outboard_core::{store::Change, watchers::Watchers};
/// let watchers = Watchers::default();
/// let mut changes = watchers.add("shop/".into()).unwrap();
/// watchers.tell(["shop/1".into(), "other".into()].into_iter());
/// assert_eq!(changes.try_recv().unwrap(), Change::Key("shop/1".into()));
/// assert!(changes.try_recv().is_err());
/// ```
#[derive(Debug)]
pub struct Watchers(Mutex<Option<Channels>>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Option<Channels>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a prefix. `Full` when too many are watched, `Closed` after [`Watchers::close`].
    pub fn add(&self, prefix: StoreKey) -> Result<broadcast::Receiver<Change>, PortError> {
        let mut channels = self.lock();
        let Some(channels) = channels.as_mut() else {
            return Err(PortError::new(Kind::Closed, "the store is closed"));
        };
        if let Some((_, sender)) = channels.iter().find(|(watched, _)| *watched == prefix) {
            return Ok(sender.subscribe());
        }
        channels.retain(|(_, sender)| sender.receiver_count() > 0);
        if channels.len() >= MAX_PREFIXES {
            let text = format!("{MAX_PREFIXES} prefixes of the store are watched; no further one can be");
            return Err(PortError::new(Kind::Full, text));
        }
        let (sender, receiver) = broadcast::channel(MAX_WAITING);
        channels.push((prefix, sender));
        Ok(receiver)
    }

    /// Tells of changed keys.
    pub fn tell(&self, changed: impl Iterator<Item = StoreKey>) {
        let mut channels = self.lock();
        let Some(channels) = channels.as_mut().filter(|channels| !channels.is_empty()) else { return };
        for key in changed {
            for (prefix, sender) in channels.iter() {
                if key.starts_with(&**prefix) {
                    // Nobody listens any more: allowed.
                    let _ = sender.send(Change::Key(key.clone()));
                }
            }
        }
        channels.retain(|(_, sender)| sender.receiver_count() > 0);
    }

    /// Tells everybody that something may have been missed.
    pub fn tell_lost(&self) {
        for (_, sender) in self.lock().iter().flatten() {
            // Nobody listens any more: allowed.
            let _ = sender.send(Change::Lost);
        }
    }

    /// Ends every channel.
    pub fn close(&self) {
        *self.lock() = None;
    }
}
