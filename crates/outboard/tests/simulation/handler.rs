//! A handler that behaves as its message's type says.

use std::{sync::Arc, time::Duration};

use outboard::{
    Attempt, Done, Failure, Handled, Handler, Outcome,
    core::{
        Clock, Ledger, NewMessage, Time,
        consumer::Effects,
        fault::Faults,
        ledger::{Guard, KeyWrite},
    },
    handler::BoxFuture,
    outcome::Cause,
};

use crate::{
    journal::{End, Journal, Run},
    plan::Conduct,
};

/// The durable key that [`Conduct::Counts`] counts in.
pub(crate) const COUNT: &str = "count";
/// The type that [`Conduct::Counts`] appends.
pub(crate) const EFFECT: &str = "effect/counted";

/// Handles every type of the simulation for one worker, in one life of the process.
#[derive(Debug, Clone)]
pub(crate) struct Conductor {
    pub(crate) worker: &'static str,
    pub(crate) journal: Journal,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) faults: Faults,
    pub(crate) life: usize,
    /// When the target is sick.
    pub(crate) sick: Vec<(Time, Time)>,
}

impl Handler for Conductor {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let conductor = self.clone();
        Box::pin(async move { conductor.run(attempt).await })
    }
}

impl Conductor {
    async fn run(self, attempt: Attempt) -> Handled {
        let run = Run {
            worker: self.worker.to_owned(),
            position: attempt.message.id,
            attempt: attempt.number,
            began: self.clock.now(),
            life: self.life,
            end: None,
        };
        let earlier = self.journal.runs().iter().filter(|other| self.is_same(other, &run)).count();
        let number = self.journal.begin(run);
        let mut effects = Effects::default();
        let outcome =
            if self.is_sick() { Err(refused()) } else { self.behave(&attempt, earlier, &mut effects).await };
        if self.faults.is_down() {
            // The process is gone: the outside sees nothing more of this attempt.
            return std::future::pending().await;
        }
        self.journal.end(number, end_of(&outcome));
        Handled { outcome, effects: (!effects.is_empty()).then(|| Box::new(effects)) }
    }

    /// Whether another run is one of the same message that was not turned away by a sick target.
    fn is_same(&self, other: &Run, run: &Run) -> bool {
        other.worker == run.worker && other.position == run.position && other.end != Some(End::Refused)
    }

    fn is_sick(&self) -> bool {
        let now = self.clock.now();
        self.sick.iter().any(|&(from, to)| (from..to).contains(&now))
    }

    async fn behave(&self, attempt: &Attempt, earlier: usize, effects: &mut Effects) -> Outcome {
        match Conduct::of(&attempt.message.kind) {
            Some(Conduct::Slow) => pass(Duration::from_millis(700)).await,
            Some(Conduct::Flaky) if earlier < 2 => return Err(Failure::retry("it is flaky")),
            Some(Conduct::Panics) if earlier == 0 => panic!("it panics"),
            Some(Conduct::Hangs) if earlier == 0 => std::future::pending().await,
            Some(Conduct::Hopeless) => return Err(Failure::dead("it is hopeless")),
            Some(Conduct::Stubborn) => return Err(Failure::retry("it is stubborn")),
            Some(Conduct::Snoozes) if earlier == 0 => return Err(Failure::Snooze(Duration::from_secs(3))),
            Some(Conduct::Counts) => return self.count(attempt, effects).await,
            _ => pass(Duration::from_millis(1)).await,
        }
        Ok(Done)
    }

    /// Reads, waits, writes under a guard: two at once conflict.
    async fn count(&self, attempt: &Attempt, effects: &mut Effects) -> Outcome {
        let read = self.ledger.keys(self.worker.into(), vec![COUNT.into()]).await?.remove(0);
        pass(Duration::from_millis(2)).await;
        let before: u64 = read.value.map_or(Ok(0), |value| String::from_utf8_lossy(&value).parse())?;
        effects.guards.push(Guard::Version(COUNT.into(), read.version));
        effects.writes.push(KeyWrite::Set(COUNT.into(), (before + 1).to_string().into()));
        let source = format!("{{\"worker\":\"{}\",\"of\":{}}}", self.worker, attempt.message.id);
        effects.appends.push(NewMessage::new(EFFECT, source));
        Ok(Done)
    }
}

fn refused() -> Failure {
    Failure::Retry { reason: "refused".into(), after: None, cause: Cause::Unreachable }
}

fn end_of(outcome: &Outcome) -> End {
    match outcome {
        Ok(Done) => End::Done,
        Err(Failure::Retry { cause: Cause::Unreachable, .. }) => End::Refused,
        Err(Failure::Snooze(_)) => End::Snoozed,
        Err(Failure::Dead(_)) => End::Dead,
        Err(_) => End::Failed,
    }
}

/// Lets simulated time pass.
pub(crate) async fn pass(time: Duration) {
    // The future never ends, so the timeout is all that happens.
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
