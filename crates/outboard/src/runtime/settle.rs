//! What follows an attempt's end.

use std::sync::Arc;

use outboard_core::{
    Delivery, Settlement, Verdict,
    consumer::{Effects, Flow},
    planted::{Bug, is_planted},
};
use tokio::time::Instant;

use super::{
    Runtime,
    attempts::{Ended, Group, Report},
    groups::Took,
    info::count,
    slots::Running,
    verdict::{Ending, Failed, Meaning, charge, meaning, retry},
};
use crate::outage::{Closing, Event, Opening, Reaction, Spent};

impl Runtime {
    pub(super) fn take_reports(&mut self, reports: &mut Vec<Report>) {
        // Only an outage wants the time; one look serves the whole batch.
        let now = Instant::now();
        for report in reports.drain(..) {
            match report {
                Report::Ended(ended) => {
                    self.slots.saw(Took::alone(ended.took));
                    self.finish(now, ended);
                }
                Report::Group(group) => self.take_group(now, group),
            }
        }
    }

    fn take_group(&mut self, now: Instant, Group { ended, begun, unbegun, took }: Group) {
        self.slots.saw(took);
        if let Some((slot, begun)) = begun {
            self.slots.go_on(slot, begun, self.policy.timeout);
        }
        ended.into_iter().for_each(|ended| self.finish(now, ended));
        // Only now: what has ended may have paused the worker, or opened an outage.
        let is_open = self.outage.as_ref().is_some_and(|outage| outage.is_open());
        for slot in unbegun.into_iter().rev() {
            let Some(Running { delivery, .. }) = self.slots.take(slot) else { continue };
            if is_open {
                self.tell(now, Event::Fetched(delivery));
            } else {
                self.hand.push_front(delivery);
            }
        }
        if self.is_paused {
            self.return_unbegun();
        }
    }

    fn finish(&mut self, now: Instant, Ended { slot, ending, took }: Ended) {
        let Some(Running { delivery, is_probe, .. }) = self.slots.take(slot) else { return };
        let spent = Spent { took, is_expired: matches!(ending, Ending::TimedOut(_)) };
        match &ending {
            Ending::TimedOut(_) => count(&self.shared.tally.timed_out),
            Ending::Panicked(_) => count(&self.shared.tally.panicked),
            Ending::Handled(_) => {}
        }
        match meaning(ending, self.outage.is_some()) {
            Meaning::Done(effects) => {
                count(&self.shared.tally.handled);
                self.settle(&delivery, Verdict::Done, effects);
                if self.outage.is_some() {
                    let event =
                        if is_probe { Event::ProbeDone { took } } else { Event::Done { delivery, took } };
                    self.tell(now, event);
                }
            }
            Meaning::Failed(failed) => {
                count(&self.shared.tally.failed);
                tracing::debug!(
                    worker = %self.shared.name, message_id = %delivery.message.id(), attempt = delivery.attempt,
                    reason = %failed.reason, "the attempt failed"
                );
                if self.outage.is_none() {
                    self.charge(&delivery, &failed);
                } else if is_probe {
                    self.tell(now, Event::ProbeFailed { delivery, failed, spent });
                } else {
                    self.tell(now, Event::Failed { delivery, failed, spent });
                }
            }
            Meaning::Final(verdict) => {
                let speaks = !matches!(verdict, Verdict::Snooze { .. });
                self.settle(&delivery, verdict, None);
                if is_probe {
                    self.tell(now, if speaks { Event::ProbeAnswered } else { Event::ProbeSilent });
                }
            }
            Meaning::Pause(reason) => {
                self.settle(&delivery, Verdict::Return, None);
                if is_probe {
                    self.tell(now, Event::ProbeAnswered);
                }
                self.pause_durably(reason);
            }
        }
        if self.is_paused {
            self.return_unbegun();
        }
    }

    /// Tells the outage machine, if there is one, and does what it answers.
    pub(super) fn tell(&mut self, now: Instant, event: Event) {
        let Some(outage) = &mut self.outage else { return };
        if let Event::Failed { delivery, .. } | Event::ProbeFailed { delivery, .. } = &event
            && delivery.suspect
            && outage.is_open()
        {
            self.consumer.hold(delivery.tag);
        }
        match outage.on(now, event) {
            Reaction::Nothing => {}
            Reaction::Run(delivery) => self.hand.push_back(delivery),
            Reaction::Charge(delivery, failed) => self.charge(&delivery, &failed),
            Reaction::Open(opening) => self.outage_opens(opening),
            Reaction::Close(closing) => self.outage_closes(closing),
        }
    }

    fn outage_opens(&mut self, Opening { last, give_back }: Opening) {
        if let Some((delivery, failed)) = last {
            // Its attempt is given back right away, so it cannot have been the last.
            let verdict = retry(delivery.attempt, &failed, &self.policy, self.random.f64());
            self.settle(&delivery, verdict, None);
        }
        count(&self.shared.tally.outages);
        if let Some(outage) = &mut self.outage {
            self.hand
                .iter()
                .filter(|delivery| delivery.suspect)
                .for_each(|held| self.consumer.hold(held.tag));
            outage.adopt(&mut self.hand);
            let reason = outage.open().map(|(reason, _)| reason.clone()).unwrap_or_default();
            tracing::warn!(worker = %self.shared.name, %reason, "the target is sick; only probes run");
            self.shared.outage_opened(reason);
        }
        if !give_back.is_empty() && !is_planted(Bug::OutageKeepsAttempts) {
            self.consumer.give_back(give_back);
        }
        self.apply_prefetch();
    }

    fn outage_closes(&mut self, Closing { charge, mut run }: Closing) {
        tracing::info!(worker = %self.shared.name, "the target is well again");
        self.shared.outage_closed();
        for (delivery, failed) in charge {
            self.charge(&delivery, &failed);
        }
        run.append(&mut self.hand);
        self.hand = run;
        self.apply_prefetch();
    }

    fn apply_prefetch(&self) {
        if !self.is_paused {
            self.consumer.flow(Flow::Running { prefetch: self.prefetch() });
        }
    }

    /// Settles a counted failure: another attempt, or a dead letter.
    fn charge(&mut self, delivery: &Delivery, failed: &Failed) {
        let verdict = charge(delivery.attempt, failed, &self.policy, self.random.f64());
        self.settle(delivery, verdict, None);
    }

    pub(super) fn settle(&mut self, delivery: &Delivery, verdict: Verdict, effects: Option<Box<Effects>>) {
        let tally = &self.shared.tally;
        match &verdict {
            Verdict::Done => {}
            Verdict::RetryAfter { .. } => count(&tally.retried),
            Verdict::Snooze { .. } => count(&tally.snoozed),
            Verdict::Cancel { .. } => count(&tally.cancelled),
            Verdict::Return => count(&tally.returned),
            Verdict::Dead { reason } => {
                tracing::warn!(worker = %self.shared.name, message_id = %delivery.message.id(), %reason, "dead letter");
                count(&tally.dead);
            }
        }
        if verdict != Verdict::Return {
            self.settled += 1;
        }
        self.consumer.settle(Settlement { tag: delivery.tag, verdict, effects });
    }

    /// Gives back, uncounted, everything that is claimed and does not run.
    pub(super) fn return_unbegun(&mut self) {
        let held = self.outage.as_mut().map(|outage| outage.take_held()).unwrap_or_default();
        let unbegun: Vec<Delivery> = held.into_iter().chain(self.hand.drain(..)).collect();
        for delivery in unbegun {
            self.settle(&delivery, Verdict::Return, None);
        }
    }

    /// Pauses because the target wants no more; the loop goes on while the pause is written down.
    fn pause_durably(&mut self, reason: Arc<str>) {
        if self.is_paused || self.shared.is_draining() {
            return;
        }
        tracing::warn!(worker = %self.shared.name, %reason, "the worker pauses itself");
        self.pause(reason.clone());
        tokio::spawn(self.shared.clone().write_pause(reason));
    }
}
