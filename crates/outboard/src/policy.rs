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
    /// The time between probes, and the longest time for one, unless the target is known to be slower.
    pub probe_every: Duration,
}

impl Default for OutagePolicy {
    /// Ten failures, three messages, a probe every 900 ms: one that began just before the target came back has run out
    /// of its time, and the next one is answered, within a second of the return.
    fn default() -> Self {
        Self { failures: 10, distinct: 3, probe_every: Duration::from_millis(900) }
    }
}
