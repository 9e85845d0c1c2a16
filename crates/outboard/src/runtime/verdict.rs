//! From what an attempt ended with to what the consumer is told.

use std::{any::Any, borrow::Cow, fmt, sync::Arc, time::Duration};

use outboard_core::{
    Verdict,
    consumer::Effects,
    planted::{Bug, is_planted},
};

use crate::{
    handler::Handled,
    outcome::{Cause, Failure},
    policy::Policy,
};

/// The longest reason that is kept, in bytes; a handler that puts a whole page into its error must not fill the disk.
pub(crate) const MAX_REASON_BYTES: usize = 2_000;

/// How an attempt's task ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The handler answered.
    Handled(Handled),
    /// It took longer than this.
    TimedOut(Duration),
    /// It panicked with this text.
    Panicked(String),
}

/// A failure that counts as an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// What went wrong, for people.
    pub(crate) reason: Arc<str>,
    /// The wait, if the handler knows better than the backoff.
    pub(crate) after: Option<Duration>,
    /// What it says about the target.
    pub(crate) cause: Cause,
}

/// What an ending means.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// Handled.
    Done(Option<Box<Effects>>),
    /// Failed; the policy says what follows.
    Failed(Failed),
    /// To be settled so, whatever the policy says.
    Final(Verdict),
    /// Not to be counted, and the worker pauses for this reason.
    Pause(Arc<str>),
}

/// What an ending means; `has_target` tells whether a timeout speaks of a target behind the handler.
pub(crate) fn meaning(ending: Ending, has_target: bool) -> Meaning {
    let failure = match ending {
        Ending::Handled(Handled { outcome: Ok(_), effects }) => return Meaning::Done(effects),
        Ending::Handled(Handled { outcome: Err(failure), .. }) => failure,
        Ending::TimedOut(limit) => {
            let cause = if has_target { Cause::Unavailable } else { Cause::Message };
            let reason = format!("timed out after {limit:?}").into();
            return Meaning::Failed(Failed { reason, after: None, cause });
        }
        Ending::Panicked(text) => {
            let reason = shortened(format!("panicked: {text}").into());
            return Meaning::Failed(Failed { reason, after: None, cause: Cause::Message });
        }
    };
    match failure {
        Failure::Retry { reason, after, cause } => {
            Meaning::Failed(Failed { reason: shortened(reason), after, cause })
        }
        Failure::Snooze(delay) => Meaning::Final(Verdict::Snooze { delay }),
        Failure::Cancel(reason) => Meaning::Final(Verdict::Cancel { reason: shortened(reason) }),
        Failure::Dead(reason) => Meaning::Final(Verdict::Dead { reason: shortened(reason) }),
        Failure::Pause(reason) => Meaning::Pause(shortened(reason)),
    }
}

/// What follows a failed attempt, counted as number `attempt`; `random` in `0.0..=1.0` spreads the retries.
pub(crate) fn charge(attempt: u32, failed: &Failed, policy: &Policy, random: f64) -> Verdict {
    if attempt >= policy.attempts {
        let times = if attempt == 1 { "1 attempt".into() } else { format!("{attempt} attempts") };
        return Verdict::Dead {
            reason: format!("given up after {times}; the last one said: {}", failed.reason).into(),
        };
    }
    retry(attempt, failed, policy, random)
}

/// Another attempt, however many there were.
pub(crate) fn retry(attempt: u32, failed: &Failed, policy: &Policy, random: f64) -> Verdict {
    if is_planted(Bug::RetryAtOnce) {
        return Verdict::RetryAfter { delay: Duration::ZERO, reason: failed.reason.clone() };
    }
    let delay = failed.after.unwrap_or_else(|| policy.backoff.delay(attempt, random));
    Verdict::RetryAfter { delay, reason: failed.reason.clone() }
}

/// What a panic said, if it said it in words.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("something that is not text")
        .to_owned()
}

/// A reason within [`MAX_REASON_BYTES`], cut between characters.
fn shortened(reason: Cow<'static, str>) -> Arc<str> {
    if reason.len() <= MAX_REASON_BYTES {
        return reason.into();
    }
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    Shortened(&reason[..end]).to_string().into()
}

struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (cut)", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Done;

    fn failed(reason: &str) -> Failed {
        Failed { reason: reason.into(), after: None, cause: Cause::Message }
    }

    #[test]
    fn a_retry_waits_by_the_backoff_or_as_the_handler_says() {
        let policy = Policy::default();
        let verdict = charge(2, &failed("no"), &policy, 1.0);
        assert_eq!(verdict, Verdict::RetryAfter { delay: Duration::from_millis(400), reason: "no".into() });
        let told = Failed { after: Some(Duration::from_secs(7)), ..failed("busy") };
        let verdict = charge(2, &told, &policy, 1.0);
        assert_eq!(verdict, Verdict::RetryAfter { delay: Duration::from_secs(7), reason: "busy".into() });
    }

    #[test]
    fn the_last_attempt_buries_and_says_why() {
        let policy = Policy { attempts: 3, ..Policy::default() };
        assert!(matches!(charge(2, &failed("no"), &policy, 0.0), Verdict::RetryAfter { .. }));
        let reason = "given up after 3 attempts; the last one said: no".into();
        assert_eq!(charge(3, &failed("no"), &policy, 0.0), Verdict::Dead { reason });
    }

    #[test]
    fn a_timeout_speaks_of_the_target_only_where_there_is_one() {
        for (has_target, expected) in [(true, Cause::Unavailable), (false, Cause::Message)] {
            let Meaning::Failed(failed) = meaning(Ending::TimedOut(Duration::from_secs(30)), has_target)
            else {
                panic!("a timeout is a failure")
            };
            assert_eq!(failed.cause, expected);
            assert_eq!(&*failed.reason, "timed out after 30s");
        }
    }

    #[test]
    fn every_failure_has_its_verdict() {
        let of = |failure| meaning(Ending::Handled(Err(failure).into()), false);
        assert!(matches!(of(Failure::Snooze(Duration::ZERO)), Meaning::Final(Verdict::Snooze { .. })));
        assert!(matches!(of(Failure::Cancel("x".into())), Meaning::Final(Verdict::Cancel { .. })));
        assert!(matches!(of(Failure::dead("x")), Meaning::Final(Verdict::Dead { .. })));
        assert!(matches!(of(Failure::Pause("x".into())), Meaning::Pause(_)));
        assert!(matches!(of(Failure::retry("x")), Meaning::Failed(_)));
        assert!(matches!(meaning(Ending::Handled(Ok(Done).into()), false), Meaning::Done(None)));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let Meaning::Failed(failed) =
            meaning(Ending::Handled(Err(Failure::retry("é".repeat(5_000))).into()), false)
        else {
            panic!("a retry is a failure")
        };
        assert!(failed.reason.len() <= MAX_REASON_BYTES + " (cut)".len());
        assert!(failed.reason.ends_with("é (cut)"));
    }
}
