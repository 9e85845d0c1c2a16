//! Who is woken when a batch has become durable.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use outboard_core::{TypeSet, log::Subscription};
use tokio::{sync::Notify, time::Instant};

use crate::tail::Kinds;

/// How long a reader is left alone when only messages of other types come.
const OTHERS: Duration = Duration::from_secs(1);

/// The subscriptions of a log.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Dead once the subscription and its clones are dropped.
    wake: Weak<Notify>,
    types: TypeSet,
    /// Not to be woken for other types before this.
    rests_until: Instant,
    /// Whether messages of other types came that it was not woken for.
    owed: bool,
}

impl Subscribers {
    /// Adds one.
    pub(crate) fn add(&self, types: TypeSet) -> Subscription {
        let wake = Arc::new(Notify::new());
        let entry = Entry { wake: Arc::downgrade(&wake), types, rests_until: Instant::now(), owed: false };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        Subscription { wake }
    }

    /// Wakes who wants one of these kinds at once, and the others at most once a second. Returns when
    /// [`Subscribers::wake_owed`] is due.
    pub(crate) fn wake(&self, kinds: &Kinds) -> Option<Instant> {
        let now = Instant::now();
        self.visit(now, |entry| {
            if kinds.touch(&entry.types) {
                return true;
            }
            entry.owed = true;
            entry.rests_until <= now
        })
    }

    /// Wakes who has rested long enough. Returns when to call it again.
    pub(crate) fn wake_owed(&self) -> Option<Instant> {
        let now = Instant::now();
        self.visit(now, |entry| entry.owed && entry.rests_until <= now)
    }

    fn visit(&self, now: Instant, mut is_due: impl FnMut(&mut Entry) -> bool) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|entry| {
            let Some(wake) = entry.wake.upgrade() else { return false };
            if is_due(entry) {
                entry.owed = false;
                entry.rests_until = now + OTHERS;
                wake.notify_one();
            } else if entry.owed {
                next = Some(next.map_or(entry.rests_until, |next| next.min(entry.rests_until)));
            }
            true
        });
        next
    }
}
