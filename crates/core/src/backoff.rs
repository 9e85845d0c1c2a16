//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential backoff with jitter.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::backoff::Backoff;
/// let backoff = Backoff::default();
/// let delay = backoff.delay(1, 1.0);
/// assert_eq!(delay, Duration::from_millis(200));
/// assert_eq!(backoff.delay(2, 1.0), Duration::from_millis(400));
/// assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(100));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub first: Duration,
    /// The longest wait after any.
    pub max: Duration,
}

impl Default for Backoff {
    /// From 200 ms, doubling up to 60 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(200), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after `attempts` failed ones (from 1), for a random number in `0.0..=1.0`.
    ///
    /// Half of the doubled wait is fixed and half is random ("equal jitter", as in the AWS architecture notes on
    /// exponential backoff), so that retries spread without coming at once.
    pub fn delay(&self, attempts: u32, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1).min(30)));
        let full = doubled.min(self.max);
        full / 2 + (full / 2).mul_f64(random.clamp(0.0, 1.0))
    }
}
