//! The one shape of everything long-lived, and the two-step shutdown.

use std::{fmt, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tells services to drain, and until when.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::lifecycle::Shutdown;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let shutdown = Shutdown::new(Duration::from_secs(25));
/// let service = shutdown.clone();
/// shutdown.begin();
/// service.begun().await;
/// assert!(service.deadline() > tokio::time::Instant::now());
/// # });
/// ```
#[derive(Clone)]
pub struct Shutdown {
    token: CancellationToken,
    begun_at: std::sync::Arc<std::sync::OnceLock<Instant>>,
    drain: Duration,
}

impl Shutdown {
    /// A shutdown that has not begun; draining may take this long.
    pub fn new(drain: Duration) -> Self {
        Self { token: CancellationToken::new(), begun_at: std::sync::Arc::default(), drain }
    }

    /// Begins it. A second call changes nothing.
    pub fn begin(&self) {
        self.begun_at.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when it begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// When draining ends; counted from now as long as it has not begun.
    pub fn deadline(&self) -> Instant {
        self.begun_at.get().copied().unwrap_or_else(Instant::now) + self.drain
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("begun", &self.has_begun()).field("drain", &self.drain).finish()
    }
}
