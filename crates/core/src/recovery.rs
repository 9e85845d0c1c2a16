//! How long to wait before a connection is tried again, and what an outage of a backend is called meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    error::{Health, Kind, PortError},
    time::Time,
};

/// Until an outage is so old, it may be a restart, of a machine too: tries come at least once a second.
const RESTART: Duration = Duration::from_secs(120);

/// While it may be a restart.
const EAGER: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// Later, and from the beginning where the other side has said no: a wrong password does not heal by asking often.
const PATIENT: Backoff = Backoff { first: Duration::from_secs(10), max: Duration::from_secs(10) };

/// How long most attempts may take: with the wait before the next one it is less than the three seconds in which a
/// consumer is back.
const SHORT_ATTEMPT: Duration = Duration::from_secs(2);

/// How long every fifth attempt may take.
const PATIENT_ATTEMPT: Duration = Duration::from_secs(10);

fn is_same(one: &PortError, other: &PortError) -> bool {
    one.kind == other.kind && one.message == other.message
}

/// One outage of a connection, from its loss to its return.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::{Kind, PortError, Time, recovery::Recovery};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut recovery = Recovery::begin(Time::from_millis(0));
/// let refused = PortError::new(Kind::Unavailable, "connection refused");
/// assert!(recovery.failed(&refused, 1.0) <= Duration::from_secs(1));
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Recovery {
    since: Time,
    began: Instant,
    attempts: u32,
    /// What the attempts said, the last one last: two ways to fail that take turns are no news.
    said: Vec<PortError>,
}

/// So many different errors of one outage are remembered.
const REMEMBERED: usize = 8;

impl Recovery {
    /// The connection is lost, or not made yet.
    pub fn begin(now: Time) -> Self {
        Self { since: now, began: Instant::now(), attempts: 0, said: Vec::new() }
    }

    /// An attempt has failed. How long to wait before the next one; `random` in `0.0..=1.0` spreads those of many.
    pub fn failed(&mut self, error: &PortError, random: f64) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        self.said.retain(|said| !is_same(said, error));
        if self.said.len() == REMEMBERED {
            self.said.remove(0);
        }
        self.said.push(error.clone());
        if error.is_transient() && self.began.elapsed() < RESTART {
            EAGER.delay(self.attempts, random)
        } else {
            PATIENT.delay(1, random)
        }
    }

    /// Whether this error is news, worth a line in the log: this outage has not said it before.
    pub fn is_news(&self, error: &PortError) -> bool {
        !self.said.iter().any(|said| is_same(said, error))
    }

    /// How long the next attempt may take, until it is signed in and ready.
    ///
    /// Short at first: a peer that was silent when the attempt began would hold it long after others are served. Every
    /// fifth gets more, for one that is only slow.
    pub fn attempt_within(&self) -> Duration {
        if self.attempts % 5 == 4 { PATIENT_ATTEMPT } else { SHORT_ATTEMPT }
    }

    /// How many attempts have failed.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long it lasts.
    pub fn lasts(&self) -> Duration {
        self.began.elapsed()
    }

    /// What a port shows meanwhile.
    pub fn health(&self) -> Health {
        let connecting = || PortError::new(Kind::Unavailable, "connecting");
        let error = self.said.last().cloned().unwrap_or_else(connecting);
        Health::Recovering { since: self.since, attempt: self.attempts, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_awaited_eagerly_and_a_long_outage_patiently() {
        let away = PortError::new(Kind::Unavailable, "away");
        let mut recovery = Recovery::begin(Time::from_millis(0));
        let mut attempts = 0;
        while recovery.lasts() < RESTART {
            let wait = recovery.failed(&away, 1.0);
            assert!(wait <= Duration::from_secs(1));
            tokio::time::advance(wait).await;
            attempts += 1;
        }
        assert!((120..130).contains(&attempts), "{attempts}");
        assert_eq!(recovery.failed(&away, 1.0), Duration::from_secs(10));
        assert!(recovery.failed(&away, 0.0) >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_does_not_ask_often_and_does_not_repeat_itself() {
        let denied = PortError::new(Kind::Denied, "wrong password");
        let mut recovery = Recovery::begin(Time::from_millis(0));
        assert!(recovery.is_news(&denied));
        assert!(recovery.failed(&denied, 0.5) >= Duration::from_secs(5));
        assert!(!recovery.is_news(&denied));
        let away = PortError::new(Kind::Unavailable, "away");
        assert!(recovery.is_news(&away));
        recovery.failed(&away, 0.5);
        assert!(!recovery.is_news(&denied), "two errors that take turns are said once each");
        assert!(matches!(recovery.health(), Health::Recovering { attempt: 2, .. }));
    }
}
