//! What an embedded log tells about itself: atomics, read at any time without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How many buckets a histogram has; the last one takes everything from 2^23 microseconds (8 s) on.
const BUCKETS: usize = 24;

/// Counts of durations by powers of two of a microsecond.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
    last_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
        self.last_micros.store(micros, Relaxed);
    }

    fn snapshot(&self) -> Durations {
        let buckets = self.buckets.iter().enumerate();
        Durations {
            buckets: buckets
                .map(|(power, count)| (Duration::from_micros(1 << power), count.load(Relaxed)))
                .collect(),
            sum: Duration::from_micros(self.sum_micros.load(Relaxed)),
            last: Duration::from_micros(self.last_micros.load(Relaxed)),
        }
    }
}

/// How long something took, how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// Each bucket's upper bound (exclusive; the last bucket takes everything above as well) and its count.
    pub buckets: Vec<(Duration, u64)>,
    /// All of them together.
    pub sum: Duration,
    /// The last one.
    pub last: Duration,
}

impl Durations {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The atomics behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) commit: Histogram,
            pub(crate) checkpoint: Histogram,
        }

        /// What an embedded log has done since it was opened.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// How long commits took, the fsync included.
            pub commit: Durations,
            /// How long checkpoints took.
            pub checkpoint: Durations,
        }

        impl Counters {
            /// All of them now.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($name: self.$name.load(Relaxed),)*
                    commit: self.commit.snapshot(),
                    checkpoint: self.checkpoint.snapshot(),
                }
            }
        }
    };
}

counters! {
    /// Rows read to open the log and its workers; does not grow with the log.
    rows_read_at_open,
    /// Durable transactions, each with one fsync.
    commits,
    /// Messages appended.
    appended_messages,
    /// Payload and type bytes appended.
    appended_bytes,
    /// Units applied.
    units_applied,
    /// Units refused because a guard did not hold.
    units_in_conflict,
    /// Units refused because a write of them can never succeed.
    units_refused,
    /// Units refused because a newer holder has the worker.
    units_fenced,
    /// Appends answered from an earlier one with the same idempotency key.
    repeated_appends,
    /// Appends refused because a limit was reached or the disk was nearly full.
    refused_appends,
    /// Idempotency keys kept now; an upper bound when keys of different lifetimes are mixed.
    idempotency_keys,
    /// Checkpoints made.
    checkpoints,
    /// Bytes in the write-ahead log now that a checkpoint has not taken over.
    wal_bytes,
    /// Requests that wait for the writer now.
    queued_requests,
    /// Messages that wait for the writer now.
    queued_messages,
    /// Pages read from the in-memory tail.
    tail_reads,
    /// Pages read from the database.
    disk_reads,
    /// Messages read from the database, predecessors read for their checksum not counted.
    disk_read_messages,
    /// Bytes left on the disk when they were last looked at.
    disk_free_bytes,
}

impl Counters {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_below_its_bucket_s_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 200, 90_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let durations = histogram.snapshot();
        let filled: Vec<u64> = durations
            .buckets
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(bound, _)| bound.as_micros() as u64)
            .collect();
        assert_eq!(filled, [1, 2, 4, 256, 1 << 23]);
        assert_eq!(durations.count(), 5);
        assert_eq!(durations.last, Duration::from_secs(90));
    }
}
