//! The attempts that run now, a slot each.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outboard_core::Delivery;
use tokio::task::JoinHandle;

use super::{
    attempts::{Begun, Lane, go_on, run_alone, run_group},
    groups::{GroupSize, Took},
    info::RunningPositions,
};
use crate::handler::Attempt;

/// An attempt that runs.
pub(super) struct Running {
    pub(super) delivery: Delivery,
    pub(super) is_probe: bool,
    /// Its task, or its group's if it is the group's first.
    task: Option<JoinHandle<()>>,
}

/// The running attempts by slot. Dropping it aborts them.
pub(super) struct Slots {
    lane: Arc<Lane>,
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
    group_size: GroupSize,
    positions: Arc<RunningPositions>,
}

impl Slots {
    /// Room for one probe more than there are attempts at once.
    pub(super) fn new(lane: Arc<Lane>, positions: Arc<RunningPositions>) -> Self {
        Self { lane, slots: Vec::new(), free: Vec::new(), group_size: GroupSize::default(), positions }
    }

    pub(super) fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many attempts may share a task now.
    pub(super) fn group_size(&self) -> usize {
        self.group_size.now()
    }

    /// Begins an attempt in a task of its own.
    pub(super) fn start(&mut self, delivery: Delivery, limit: Duration, is_probe: bool) {
        let (slot, attempt) = self.occupy(delivery, is_probe);
        let task = tokio::spawn(run_alone(self.lane.clone(), attempt, limit, slot));
        self.aborted_with(slot, task);
    }

    /// Begins attempts in one task, which ends at the first that waits.
    pub(super) fn start_group(&mut self, deliveries: impl Iterator<Item = Delivery>) {
        let attempts: Vec<_> = deliveries.map(|delivery| self.occupy(delivery, false)).collect();
        let Some(&(first, _)) = attempts.first() else { return };
        let task = tokio::spawn(run_group(self.lane.clone(), attempts));
        self.aborted_with(first, task);
    }

    /// Takes a slot for an attempt.
    fn occupy(&mut self, delivery: Delivery, is_probe: bool) -> (usize, Attempt) {
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
        self.slots[slot] = Some(Running { delivery, is_probe, task: None });
        (slot, attempt)
    }

    /// The attempt in this slot, and its group, end with this task.
    fn aborted_with(&mut self, slot: usize, task: JoinHandle<()>) {
        if let Some(running) = &mut self.slots[slot] {
            running.task = Some(task);
        }
    }

    /// An attempt that was begun in a group goes on in a task of its own.
    pub(super) fn go_on(&mut self, slot: usize, begun: Begun, limit: Duration) {
        let task = tokio::spawn(go_on(self.lane.clone(), begun, limit, slot));
        self.aborted_with(slot, task);
    }

    /// Learns from what a group took, or one in a task of its own.
    pub(super) fn saw(&mut self, took: Took) {
        self.group_size.saw(took);
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
        self.lane.is_over.store(true, Ordering::Relaxed);
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
