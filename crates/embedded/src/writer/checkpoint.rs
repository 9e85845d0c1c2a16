//! Checkpoints: inline, after the answers went out.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use rusqlite::{Connection, Result};

use crate::{options::Options, readers::Source};

/// What a page takes in the write-ahead log: SQLite's default page and its frame's header.
const FRAME_BYTES: u64 = 4096 + 24;

/// Watches the size of the write-ahead log, and says when it must be taken over into the database.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Frames in the write-ahead log after the last commit; it begins again from the start after a full
    /// checkpoint.
    frames: Arc<AtomicU32>,
    /// Frames at the last checkpoint.
    taken_over: u64,
    every: u64,
    cap: u64,
}

impl Checkpoints {
    /// Hooks into the connection's commits.
    pub(super) fn watch(connection: &mut Connection, options: &Options) -> Result<Self> {
        let frames = Arc::new(AtomicU32::new(0));
        let hooked = frames.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count| {
            hooked.store(u32::try_from(count).unwrap_or(0), Relaxed);
            Ok(())
        }))?;
        let every = (options.checkpoint_bytes / FRAME_BYTES).max(1);
        Ok(Self { frames, taken_over: 0, every, cap: options.wal_bytes / FRAME_BYTES })
    }

    /// Bytes in the write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        u64::from(self.frames.load(Relaxed)) * FRAME_BYTES
    }

    /// Checkpoints if enough has come together. Returns whether it did.
    pub(super) fn run_if_due(&mut self, connection: &Connection, source: &Source) -> Result<bool> {
        let frames = u64::from(self.frames.load(Relaxed));
        if frames < self.taken_over {
            self.taken_over = 0;
        }
        if frames - self.taken_over < self.every {
            return Ok(false);
        }
        // Readers that overlap each other could keep the log from ever beginning again: they wait for a
        // moment then.
        let held = match source {
            Source::File(readers) if frames + self.every > self.cap => Some(readers.hold()),
            _ => None,
        };
        let text =
            if held.is_some() { "PRAGMA wal_checkpoint(RESTART)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        let busy: i64 = connection.prepare_cached(text)?.query_row([], |row| row.get(0))?;
        if held.is_some() && busy == 0 {
            // The next commit begins the log again, for certain.
            self.frames.store(0, Relaxed);
            self.taken_over = 0;
        } else {
            self.taken_over = frames;
        }
        Ok(true)
    }

    /// Takes everything over and empties the write-ahead log.
    pub(super) fn finish(connection: &Connection) -> Result<()> {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}
