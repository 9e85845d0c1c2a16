//! Wall-clock time and the clock that tests can replace.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A wall-clock instant in milliseconds since the Unix epoch.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::Time;
/// let start = Time::from_millis(1_000);
/// assert_eq!((start + Duration::from_secs(2)).as_millis(), 3_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(i64);

impl Time {
    /// The earliest representable time.
    pub const MIN: Self = Self(i64::MIN);

    /// The latest representable time.
    pub const MAX: Self = Self(i64::MAX);

    /// `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Where the wall-clock time comes from. Waits use tokio's monotonic time; only due times and timestamps use this.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time now. May jump in either direction.
    fn now(&self) -> Time;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that follows tokio's time, paused time included; for simulation and tests.
///
/// Two clocks made from the same epoch inside one runtime tell the same time.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    epoch: Time,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that shows `epoch` now.
    pub fn starting_at(epoch: Time) -> Self {
        Self { epoch, start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Time {
        self.epoch + self.start.elapsed()
    }
}

/// The clock that production uses.
pub fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}
