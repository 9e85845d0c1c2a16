//! The messages that are held in an outage, and whose turn as a probe it is.

use std::collections::VecDeque;

use outboard_core::Delivery;

use super::Closing;
use crate::runtime::verdict::Failed;

/// Unsettled messages, the first candidates first.
#[derive(Debug, Default)]
pub(super) struct HeldMessages {
    /// Not tried in this outage.
    fresh: VecDeque<Delivery>,
    /// Failed as an attempt that was under way when the outage began.
    failed: VecDeque<Delivery>,
    /// Failed as a probe, the longest ago first.
    probed: VecDeque<(Delivery, Failed)>,
}

impl HeldMessages {
    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.failed.len() + self.probed.len()
    }

    pub(super) fn has_unprobed(&self) -> bool {
        !self.fresh.is_empty() || !self.failed.is_empty()
    }

    pub(super) fn hold_fresh(&mut self, delivery: Delivery) {
        self.fresh.push_back(delivery);
    }

    pub(super) fn hold_failed(&mut self, delivery: Delivery) {
        self.failed.push_back(delivery);
    }

    pub(super) fn hold_probed(&mut self, delivery: Delivery, failed: Failed) {
        self.probed.push_back((delivery, failed));
    }

    /// One that was not probed yet if there is one, else the one whose probe is the longest ago; and whether it has
    /// failed in this outage.
    pub(super) fn next_probe(&mut self) -> Option<(Delivery, bool)> {
        if let Some(fresh) = self.fresh.pop_front() {
            return Some((fresh, false));
        }
        let failed = self.failed.pop_front();
        Some((failed.or_else(|| self.probed.pop_front().map(|(delivery, _)| delivery))?, true))
    }

    pub(super) fn take_all(&mut self) -> Vec<Delivery> {
        let probed = self.probed.drain(..).map(|(delivery, _)| delivery);
        self.failed.drain(..).chain(self.fresh.drain(..)).chain(probed).collect()
    }

    /// Whose failure stands, as a probe or as an attempt that was under way.
    pub(super) fn ids_of_failed(&self) -> impl Iterator<Item = u64> {
        let probed = self.probed.iter().map(|(delivery, _)| delivery);
        self.failed.iter().chain(probed).map(|delivery| delivery.message.id.0)
    }

    pub(super) fn release(self) -> Closing {
        let mut run = self.failed;
        run.extend(self.fresh);
        Closing { charge: self.probed.into(), run }
    }
}
