//! Who is told of changes in the store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_core::{
    Kind, PortError,
    store::{Change, StoreKey},
};
use tokio::sync::broadcast;

/// How many prefixes may be watched at a time: each change looks at all of them.
const MAX_PREFIXES: usize = 1_024;

/// How many changes wait for one watcher; who has more is told that some were lost.
const MAX_WAITING: usize = 1_024;

type Channels = Vec<(StoreKey, broadcast::Sender<Change>)>;

/// The watchers of a store, one channel for each prefix; nothing once it is closed.
#[derive(Debug)]
pub(crate) struct Watchers(Mutex<Option<Channels>>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Option<Channels>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a prefix.
    pub(crate) fn add(&self, prefix: StoreKey) -> Result<broadcast::Receiver<Change>, PortError> {
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
    pub(crate) fn tell(&self, changed: impl Iterator<Item = StoreKey>) {
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

    /// Ends every channel.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }
}
