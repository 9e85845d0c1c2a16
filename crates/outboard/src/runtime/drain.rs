//! The end of a worker: stop taking, let what runs finish, give back the rest uncounted.

use std::{pin::pin, time::Duration};

use outboard_core::{
    Fut, PortError, Verdict,
    consumer::Drained,
    planted::{Bug, is_planted},
};
use tokio::{sync::oneshot, time::Instant};

use super::{REPORTS_AT_ONCE, Runtime, attempts::Report, until};

/// A wish to stop, until when, and whom to tell.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) deadline: Instant,
    pub(super) drained: oneshot::Sender<Result<Drained, PortError>>,
}

impl Runtime {
    pub(super) async fn drain(mut self, Drain { deadline, drained }: Drain) {
        self.is_paused = true;
        self.shared.draining();
        let settled_before = self.settled;
        self.return_unbegun();
        let consumer = self.consumer.clone();
        let Some((release, returned)) = self.finish_running(consumer.drain(deadline), deadline).await else {
            // The simulated process is down.
            return;
        };
        let name = &self.shared.name;
        let result = release.map(|_| Drained { settled: self.settled - settled_before, returned });
        match &result {
            Ok(drained) => tracing::debug!(worker = %name, ?drained, "the worker has stopped"),
            Err(error) => tracing::error!(worker = %name, %error, "the worker was not released cleanly"),
        }
        self.shared.stopped();
        // Whoever waits may have gone.
        let _ = drained.send(result);
    }

    /// Waits for running attempts until the deadline, aborts the rest, and lets the consumer release the worker.
    async fn finish_running(
        &mut self,
        release: Fut<'_, Drained>,
        deadline: Instant,
    ) -> Option<(Result<Drained, PortError>, u32)> {
        let faults = self.faults.clone();
        let mut crashed = pin!(faults.crashed());
        let mut release = release;
        let mut reports: Vec<Report> = Vec::new();
        let mut returned = 0;
        loop {
            let is_running = self.slots.running() > 0;
            tokio::select! {
                biased;
                () = &mut crashed => return None,
                _ = self.reports.recv_many(&mut reports, REPORTS_AT_ONCE), if is_running => self.take_reports(&mut reports),
                () = until(is_running.then_some(deadline)) => returned += self.abort_running(),
                released = &mut release => {
                    returned += self.abort_running();
                    return Some((released, returned));
                }
            }
        }
    }

    /// Aborts what still runs and gives it back uncounted.
    fn abort_running(&mut self) -> u32 {
        let deliveries = self.slots.abort_all();
        for delivery in &deliveries {
            let verdict = if is_planted(Bug::DrainCountsAttempts) {
                Verdict::RetryAfter { delay: Duration::ZERO, reason: "stopped".into() }
            } else {
                Verdict::Return
            };
            self.settle(delivery, verdict, None);
        }
        u32::try_from(deliveries.len()).unwrap_or(u32::MAX)
    }
}
