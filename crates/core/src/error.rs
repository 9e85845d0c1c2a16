//! One error type for all ports, and the health that `/readyz` reads.

use std::{fmt, sync::Arc};

use crate::{message::Position, time::Time};

/// What went wrong, as far as a caller must tell cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// Somebody else changed it first.
    Conflict,
    /// Not allowed.
    Denied,
    /// The same key came with another body.
    Mismatch,
    /// This backend cannot do it.
    Unsupported,
    /// A limit is reached, the disk is nearly full included.
    Full,
    /// The position is older than what the log still holds.
    Trimmed {
        /// The oldest position that the log holds.
        first: Position,
    },
    /// A newer holder has taken over.
    Fenced,
    /// Not reachable now; nothing happened.
    Unavailable,
    /// It may have happened: retry only with the same id.
    Unknown,
    /// What was read is not what was written.
    Corrupt,
    /// The port is closed.
    Closed,
}

/// The error of every port.
///
/// ```
/// use outboard_core::{Kind, PortError};
/// let error = PortError::new(Kind::Full, "the disk has 12 MiB left; 64 MiB are needed");
/// assert!(error.is_transient());
/// ```
#[derive(Debug, Clone)]
pub struct PortError {
    /// What callers match on.
    pub kind: Kind,
    /// One sentence for people.
    pub message: Arc<str>,
}

impl PortError {
    /// An error of `kind`, told in one sentence.
    pub fn new(kind: Kind, message: impl Into<Arc<str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Full | Kind::Unavailable | Kind::Unknown | Kind::Conflict)
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PortError {}

/// The state of a port; readiness reads nothing else.
#[derive(Debug, Clone)]
pub enum Health {
    /// Works.
    Ready,
    /// Lost its other side and is getting it back.
    Recovering {
        /// Since when.
        since: Time,
        /// How many attempts were made.
        attempt: u32,
        /// What the last one said.
        error: PortError,
    },
    /// Works, but takes nothing new (a full disk, a full table).
    Refusing(PortError),
    /// Will not work again in this process.
    Failed(PortError),
}

impl Health {
    /// What is wrong, if something is.
    pub fn error(&self) -> Option<&PortError> {
        match self {
            Self::Ready => None,
            Self::Recovering { error, .. } | Self::Refusing(error) | Self::Failed(error) => Some(error),
        }
    }

    /// Whether new work is taken.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}
