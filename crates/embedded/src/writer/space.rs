//! Whether there is room for appends.

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, time::Duration};

use outboard_core::{Kind, PortError};
use tokio::time::Instant;

use crate::stats::Counters;

/// How often the disk is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Refuses appends early, so that what settles work still commits.
#[derive(Debug)]
pub(super) struct Space {
    /// Nothing to look at for `:memory:`.
    directory: Option<PathBuf>,
    reserve: u64,
    next_look: Option<Instant>,
    refusal: Option<PortError>,
}

impl Space {
    pub(super) fn new(directory: Option<PathBuf>, reserve: u64) -> Self {
        Self { directory, reserve, next_look: None, refusal: None }
    }

    /// Looks at the disk, unless that was done a moment ago.
    pub(super) fn look(&mut self, counters: &Counters) {
        let now = Instant::now();
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + LOOK_EVERY);
        self.refusal = None;
        let Some(directory) = &self.directory else { return };
        // A file system that does not say how full it is still reports a full disk when it is written to.
        let Ok(disk) = rustix::fs::statvfs(directory) else { return };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        counters.disk_free_bytes.store(free, Relaxed);
        if free < self.reserve {
            let text =
                format!("the disk has {} MiB left; appends need {} MiB", free >> 20, self.reserve >> 20);
            self.refusal = Some(PortError::new(Kind::Full, text));
        }
    }

    /// Refuses appends until the next look.
    pub(super) fn is_full(&mut self, error: &PortError) {
        self.refusal = Some(error.clone());
        self.next_look = Some(Instant::now() + LOOK_EVERY);
    }

    /// Why appends are refused, if they are.
    pub(super) fn refusal(&self) -> Option<&PortError> {
        self.refusal.as_ref()
    }

    /// When to look again though nothing happens: only while appends are refused.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.refusal.as_ref().and(self.next_look)
    }
}
