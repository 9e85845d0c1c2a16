//! The attempts that run now: one task each, one slot each.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use outboard_core::{
    Delivery,
    fault::{Faults, Point},
    ledger::WorkerName,
    planted::{Bug, is_planted},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    info::RunningPositions,
    verdict::{Ending, panic_text},
};
use crate::handler::{Attempt, Handler};

/// What every attempt's task of one worker needs; shared, so that starting one clones a single pointer.
pub(super) struct Lane {
    pub(super) worker: WorkerName,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) faults: Faults,
    pub(super) ended: mpsc::Sender<Ended>,
    /// Whether anybody wants to know how long attempts take.
    pub(super) is_timed: bool,
}

/// An attempt's task has ended.
pub(super) struct Ended {
    pub(super) slot: usize,
    pub(super) ending: Ending,
    /// How long it took; zero when nobody wants to know.
    pub(super) took: Duration,
}

/// An attempt that runs.
pub(super) struct Running {
    pub(super) delivery: Delivery,
    pub(super) is_probe: bool,
    /// Set right after the slot is taken.
    task: Option<JoinHandle<()>>,
}

/// The running attempts by slot. Dropping it aborts them.
pub(super) struct Slots {
    lane: Arc<Lane>,
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
    positions: Arc<RunningPositions>,
}

impl Slots {
    /// Room for one probe more than there are attempts at once.
    pub(super) fn new(lane: Arc<Lane>, positions: Arc<RunningPositions>) -> Self {
        Self { lane, slots: Vec::new(), free: Vec::new(), positions }
    }

    pub(super) fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Begins an attempt, in a task of its own so that attempts use several cores.
    pub(super) fn start(&mut self, delivery: Delivery, limit: Duration, is_probe: bool) {
        let attempt = Attempt {
            worker: self.lane.worker.clone(),
            message: delivery.message.clone(),
            number: delivery.attempt,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.positions.set(slot, delivery.message.id);
        let task = tokio::spawn(run(self.lane.clone(), attempt, limit, slot));
        self.slots[slot] = Some(Running { delivery, is_probe, task: Some(task) });
    }

    /// Frees the slot of an attempt that has ended.
    pub(super) fn take(&mut self, slot: usize) -> Option<Running> {
        let running = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.positions.clear(slot);
        Some(running)
    }

    /// Aborts every attempt and hands back what they had.
    pub(super) fn abort_all(&mut self) -> Vec<Delivery> {
        let running: Vec<Running> = (0..self.slots.len()).filter_map(|slot| self.take(slot)).collect();
        running.into_iter().map(|running| running.abort()).collect()
    }
}

impl Running {
    fn abort(mut self) -> Delivery {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.delivery
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.abort_all();
    }
}

/// One attempt, from the handler's call to its report.
async fn run(lane: Arc<Lane>, attempt: Attempt, limit: Duration, slot: usize) {
    // After a simulated crash nothing runs and nothing is reported; the worker's loop sees the crash itself.
    if lane.faults.reach(Point::HandlerBegins).is_err() {
        return;
    }
    let began = lane.is_timed.then(Instant::now);
    // The call itself may panic, and so may dropping the future at the timeout: both happen inside this block.
    let guarded = AssertUnwindSafe(async {
        match tokio::time::timeout(limit, lane.handler.handle(attempt)).await {
            Ok(handled) => Ending::Handled(handled),
            Err(_elapsed) => Ending::TimedOut(limit),
        }
    });
    let ending =
        guarded.catch_unwind().await.unwrap_or_else(|payload| Ending::Panicked(panic_text(&*payload)));
    if is_planted(Bug::PanicEndsWorker) && matches!(ending, Ending::Panicked(_)) {
        return;
    }
    let took = began.map(|began| began.elapsed()).unwrap_or_default();
    if lane.faults.reach(Point::HandlerEnds).is_ok() {
        // The channel has a place for every slot, so it is full never; it is closed when the worker has stopped.
        let _ = lane.ended.try_send(Ended { slot, ending, took });
    }
}
