//! What a handler says about one attempt.

use std::{borrow::Cow, time::Duration};

/// A handler's answer: `Ok(Done)`, or why not. Any error becomes a retry through `?`.
///
/// ```
/// use outboard::{Done, Outcome};
/// fn parse(text: &str) -> Outcome {
///     let _number: u64 = text.parse()?;
///     Ok(Done)
/// }
/// assert!(parse("7").is_ok());
/// assert!(parse("seven").is_err());
/// ```
pub type Outcome = Result<Done, Failure>;

/// Handled; what it buffered commits together with the done mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done;

/// Why an attempt did not end with [`Done`]. Its buffered effects are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Failed; counted as an attempt; tried again by the worker's backoff, or after a given time.
    Retry {
        /// What went wrong, for people.
        reason: Cow<'static, str>,
        /// The wait, if the handler knows better than the backoff.
        after: Option<Duration>,
        /// What it says about the target.
        cause: Cause,
    },
    /// Not a failure: tried again after this time, not counted.
    Snooze(Duration),
    /// Given up on purpose, without a dead letter.
    Cancel(Cow<'static, str>),
    /// Given up; becomes a dead letter.
    Dead(Cow<'static, str>),
    /// The target wants no more: the worker pauses for this reason, and the message stays.
    Pause(Cow<'static, str>),
}

/// What a failed attempt says about the target behind the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cause {
    /// Nothing: it is this message's own trouble.
    #[default]
    Message,
    /// The target answered with an error that may be this message's or its own (a plain 500).
    Target,
    /// The target does not work, or says so (502, 503, 504, an answer that does not come in time).
    Unavailable,
    /// The target is not there: nothing of the message reached it (refused, DNS, TLS).
    Unreachable,
}

impl Failure {
    /// A counted failure, tried again by the worker's backoff.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Retry { reason: reason.into(), after: None, cause: Cause::Message }
    }

    /// A counted failure, tried again after this time.
    pub fn retry_after(after: Duration, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Retry { reason: reason.into(), after: Some(after), cause: Cause::Message }
    }

    /// A failure that nobody can mend by trying again.
    pub fn dead(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Dead(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        Self::retry(reason)
    }
}
