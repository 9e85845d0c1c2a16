//! How a worker treats its messages.

use std::time::Duration;

use outboard_core::backoff::Backoff;

/// Concurrency, timeout, retries and outage of one worker.
///
/// ```
/// use outboard::Policy;
/// let policy = Policy { concurrency: 4, ..Policy::default() };
/// assert_eq!(policy.attempts, 25);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// At most so many attempts at once.
    pub concurrency: u32,
    /// An attempt that takes longer is cancelled and counts as failed.
    pub timeout: Duration,
    /// The wait between attempts.
    pub backoff: Backoff,
    /// After so many counted attempts the message becomes a dead letter.
    pub attempts: u32,
    /// When the target counts as sick; `None` for handlers without a target.
    pub outage: Option<OutagePolicy>,
}

impl Default for Policy {
    /// 32 at once, 30 s, 200 ms doubling to 60 s, 25 attempts, no outage.
    fn default() -> Self {
        Self {
            concurrency: 32,
            timeout: Duration::from_secs(30),
            backoff: Backoff::default(),
            attempts: 25,
            outage: None,
        }
    }
}

/// When a target counts as sick, and how it is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutagePolicy {
    /// So many failures in a row, with no success between them, open an outage.
    pub failures: u32,
    /// Failures that the target answered itself (a plain 500) count only when the row covers so many messages.
    pub distinct: u32,
    /// The time between probes, and the longest time for one, unless the target is known to be slower or seems to be.
    ///
    /// It is known by its successes: a probe gets four times the slowest of late. It seems to be when it refused, or
    /// failed sooner, and now lets a probe run out of time: each such probe doubles the next one's time, up to
    /// [`Policy::timeout`]. So a target that needs the time `t` works again within `3t` and one probe after its return.
    ///
    /// One that did not answer within the whole timeout hangs, and is probed at this pace again. If it was never seen to
    /// succeed, a probe may take the whole timeout after every 60 others: a slow target that hung works again within
    /// the timeout, 60 probes and what it needs. If it was, that begins only after 700 probes in a row that ran out of
    /// time. Only a target waits for them that came back by itself, without a connection refused or closed in between,
    /// and four times slower than it was.
    pub probe_every: Duration,
}

impl Default for OutagePolicy {
    /// Ten failures, three messages, a probe every 900 ms: one that began just before the target came back has run out
    /// of its time, and the next one is answered, within a second of the return.
    fn default() -> Self {
        Self { failures: 10, distinct: 3, probe_every: Duration::from_millis(900) }
    }
}
