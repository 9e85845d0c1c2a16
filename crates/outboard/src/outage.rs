//! When a worker's target counts as sick, and how it is found to be well again.
//!
//! A pure state machine: the runtime's loop tells it events and does what it answers. It never waits and never looks
//! at a clock. In an outage it holds the worker's unsettled messages and hands them out as probes, one at a time.

mod evidence;
mod held;
mod patience;
mod streak;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use outboard_core::{
    Delivery,
    consumer::Tag,
    planted::{Bug, is_planted},
};
use tokio::time::Instant;

pub(crate) use self::patience::Spent;
use self::{
    evidence::{Evidence, Past},
    held::HeldMessages,
    patience::{Pace, Patience},
    streak::Streak,
};
use crate::{outcome::Cause, policy::OutagePolicy, runtime::verdict::Failed};

/// At most so many doubtful messages are remembered; the oldest are forgotten first.
const MAX_DOUBTFUL: usize = 4_096;

/// What the machine is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// An ordinary attempt at this message succeeded.
    Done { delivery: Delivery, took: Duration },
    /// An ordinary attempt failed in a way that counts.
    Failed { delivery: Delivery, failed: Failed, spent: Spent },
    /// A message came that was not tried since the outage began.
    Fetched(Delivery),
    /// The probe succeeded.
    ProbeDone { took: Duration },
    /// The probe was settled as dead or cancelled, or asks for a pause: the target answers.
    ProbeAnswered,
    /// The probe was settled without a word about the target.
    ProbeSilent,
    /// The probe failed.
    ProbeFailed { delivery: Delivery, failed: Failed, spent: Spent },
    /// The target was asked and is well.
    Well,
    /// The target was asked and is not well: by its own word, or since none came.
    Sick { reason: Arc<str>, spent: Spent, is_said: bool },
}

/// What the loop has to do.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// Nothing.
    Nothing,
    /// Run this message as usual.
    Run(Delivery),
    /// Settle this failure as a counted one.
    Charge(Delivery, Failed),
    /// An outage begins: run nothing but probes.
    Open(Opening),
    /// The outage is over.
    Close(Closing),
}

/// How an outage begins.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The failure that opened it: to be settled as another attempt, never as the last one.
    pub(crate) last: Option<(Delivery, Failed)>,
    /// Then these counted attempts are to be given back.
    pub(crate) give_back: Vec<(Tag, u32)>,
}

/// How an outage ends.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Failed as probes: each is charged one attempt.
    pub(crate) charge: Vec<(Delivery, Failed)>,
    /// Held without a fault of their own: to be run at once.
    pub(crate) run: VecDeque<Delivery>,
}

/// The next probe.
#[derive(Debug)]
pub(crate) enum Probe {
    /// Ask the target, apart from any message.
    Ask { limit: Duration },
    /// Try this message.
    Message { delivery: Delivery, limit: Duration },
}

/// The machine. One per worker with an outage policy.
#[derive(Debug)]
pub(crate) struct Outage {
    policy: OutagePolicy,
    /// The longest time for any attempt.
    timeout: Duration,
    /// At most so many messages are held.
    max_held: usize,
    /// Whether the handler can ask its target.
    asks: bool,
    phase: Phase,
    /// When it was last asked because a failure stood.
    asked_at: Option<Instant>,
    /// A probe is under way.
    is_probing: bool,
    /// The slowest success of late, if there was one; sinks by a sixty-fourth with each faster one.
    slowest: Option<Duration>,
    /// Messages that failed before others succeeded, and with no outage to blame. Their next failures are their own:
    /// they count, and say nothing about the target. Without this, a few bad messages that nothing else runs beside
    /// would open an outage that nothing ends, and would have their attempts given back for ever. It holds for failures
    /// that a message can cause; a target that is not there speaks for itself.
    doubtful: BTreeSet<u64>,
}

#[derive(Debug)]
enum Phase {
    Closed {
        streak: Streak,
        /// When the target is to be asked, because a failure stands.
        ask_at: Option<Instant>,
    },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    reason: Arc<str>,
    probes: u64,
    /// The next probe is due.
    probe_at: Instant,
    patience: Patience,
    evidence: Evidence,
    held: HeldMessages,
    /// What was given back when it opened.
    given_back: Vec<(Tag, u32)>,
    /// Messages that may have brought the target down: in doubt, even if the target was sick.
    blamed: Vec<u64>,
}

impl Open {
    fn past_of(&self, delivery: &Delivery, has_failed: bool, doubtful: &BTreeSet<u64>) -> Past {
        if has_failed || self.given_back.iter().any(|(tag, _)| *tag == delivery.tag) {
            Past::FailedHere
        } else if delivery.attempt == 1 && !doubtful.contains(&delivery.message.id.0) {
            Past::Clean
        } else {
            Past::Other
        }
    }
}

impl Outage {
    pub(crate) fn new(policy: OutagePolicy, timeout: Duration, concurrency: u32, asks: bool) -> Self {
        Self {
            phase: Phase::Closed { streak: Streak::new(&policy), ask_at: None },
            policy,
            timeout,
            max_held: max_held(concurrency),
            asks,
            asked_at: None,
            is_probing: false,
            slowest: None,
            doubtful: BTreeSet::new(),
        }
    }

    /// Why it is open, as the last probe or else what opened it said, and how many probes there were; `None` while it is
    /// closed.
    pub(crate) fn open(&self) -> Option<(&Arc<str>, u64)> {
        match &self.phase {
            Phase::Closed { .. } => None,
            Phase::Open(open) => Some((&open.reason, open.probes)),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether a message should be fetched, so that the next probe takes one that was not probed yet.
    pub(crate) fn wants_message(&self) -> bool {
        let Phase::Open(open) = &self.phase else { return false };
        let in_hand = open.held.len() + usize::from(self.is_probing);
        !self.asks && !open.held.has_unprobed() && in_hand < self.max_held
    }

    /// When [`Outage::probe`] has something to do; `None` as long as it has not.
    pub(crate) fn probe_due(&self) -> Option<Instant> {
        if self.is_probing {
            return None;
        }
        match &self.phase {
            Phase::Closed { ask_at, .. } => *ask_at,
            Phase::Open(open) => (self.asks || open.held.len() > 0).then_some(open.probe_at),
        }
    }

    /// The next probe, once it is due. Its end must be told.
    pub(crate) fn probe(&mut self, now: Instant) -> Option<Probe> {
        if self.probe_due()? > now {
            return None;
        }
        let limit = self.probe_limit();
        let probe = match &mut self.phase {
            Phase::Closed { ask_at, .. } => {
                *ask_at = None;
                self.asked_at = Some(now);
                Probe::Ask { limit }
            }
            Phase::Open(open) => {
                open.probe_at = now + self.policy.probe_every;
                open.probes += 1;
                if self.asks {
                    Probe::Ask { limit }
                } else {
                    let (delivery, has_failed) = open.held.next_probe()?;
                    let past = open.past_of(&delivery, has_failed, &self.doubtful);
                    open.evidence.probe_begins(past);
                    Probe::Message { delivery, limit }
                }
            }
        };
        self.is_probing = true;
        Some(probe)
    }

    /// The time that a probe needs, as far as it is known: what the target needed of late, four times over, and no less
    /// than the time between probes. Messages say nothing of how long it takes to ask.
    fn pace(&self) -> Pace {
        let slowest = self.slowest.filter(|_| !self.asks);
        Pace {
            usual: self.policy.probe_every.max(slowest.unwrap_or_default() * 4).min(self.timeout),
            timeout: self.timeout,
            is_known: slowest.is_some(),
        }
    }

    fn probe_limit(&self) -> Duration {
        match &self.phase {
            // Messages run meanwhile, so there is no hurry.
            Phase::Closed { .. } => self.timeout,
            Phase::Open(open) => open.patience.limit(self.pace()),
        }
    }

    /// Takes all messages out of its hands, uncounted: the worker pauses or stops. The outage goes on.
    pub(crate) fn take_held(&mut self) -> Vec<Delivery> {
        match &mut self.phase {
            Phase::Closed { .. } => Vec::new(),
            Phase::Open(open) => open.held.take_all(),
        }
    }

    /// Takes an event and says what follows.
    pub(crate) fn on(&mut self, now: Instant, event: Event) -> Reaction {
        match event {
            Event::Done { delivery, took } => self.done(now, &delivery, took),
            Event::Failed { delivery, failed, spent } => self.failed(now, delivery, failed, spent),
            Event::Fetched(delivery) => self.fetched(delivery),
            Event::ProbeDone { took } => {
                self.learn(took);
                self.probe_ended();
                self.close()
            }
            Event::ProbeAnswered | Event::Well => {
                self.probe_ended();
                self.close()
            }
            Event::ProbeSilent => {
                self.probe_ended();
                Reaction::Nothing
            }
            Event::ProbeFailed { delivery, failed, spent } => self.probe_failed(delivery, failed, spent),
            Event::Sick { reason, spent, is_said } => self.sick(now, reason, spent, is_said),
        }
    }

    fn learn(&mut self, took: Duration) {
        self.slowest = Some(self.slowest.map_or(took, |slowest| took.max(slowest - slowest / 64)));
    }

    fn probe_ended(&mut self) {
        self.is_probing = false;
    }

    fn done(&mut self, now: Instant, delivery: &Delivery, took: Duration) -> Reaction {
        self.learn(took);
        self.doubtful.remove(&delivery.message.id.0);
        match &mut self.phase {
            Phase::Closed { streak, ask_at } => {
                *ask_at = None;
                if !streak.is_empty() {
                    self.doubtful.extend(streak.ids());
                    streak.reset();
                    self.forget_oldest();
                }
            }
            // It began before the outage, so it may speak of the time before: a target that shuts down refuses new
            // work while it finishes the old. It is a good reason to look at once, though.
            Phase::Open(open) => open.probe_at = now,
        }
        Reaction::Nothing
    }

    fn failed(&mut self, now: Instant, delivery: Delivery, failed: Failed, spent: Spent) -> Reaction {
        let (streak, ask_at) = match &mut self.phase {
            Phase::Open(_) if is_planted(Bug::OutageParks) => return Reaction::Charge(delivery, failed),
            Phase::Open(open) => {
                open.held.hold_failed(lowered(delivery, &open.given_back));
                return Reaction::Nothing;
            }
            Phase::Closed { streak, ask_at } => (streak, ask_at),
        };
        // A message that never reached the target cannot have been what it failed of.
        let is_its_own = self.doubtful.contains(&delivery.message.id.0) && failed.cause != Cause::Unreachable;
        if is_its_own || failed.cause == Cause::Message {
            return Reaction::Charge(delivery, failed);
        }
        if self.asks && ask_at.is_none() && !self.is_probing {
            let pace = self.asked_at.map_or(now, |asked| asked + self.policy.probe_every);
            *ask_at = Some(pace.max(now));
        }
        match streak.push(delivery.tag, delivery.message.id, failed.cause) {
            None => Reaction::Charge(delivery, failed),
            Some(give_back) => {
                let reason = failed.reason.clone();
                // How long messages take says nothing of the question.
                let patience =
                    if self.asks { Patience::default() } else { Patience::after(self.pace(), spent) };
                self.open_with(now, reason, patience, Opening { last: Some((delivery, failed)), give_back })
            }
        }
    }

    fn open_with(
        &mut self,
        now: Instant,
        reason: Arc<str>,
        patience: Patience,
        opening: Opening,
    ) -> Reaction {
        let blamed = match &self.phase {
            Phase::Closed { streak, .. } => streak.answered(),
            Phase::Open(_) => Vec::new(),
        };
        self.phase = Phase::Open(Open {
            reason,
            blamed,
            probes: 0,
            probe_at: if self.asks { now + self.policy.probe_every } else { now },
            patience,
            evidence: Evidence::default(),
            held: HeldMessages::default(),
            given_back: opening.give_back.clone(),
        });
        Reaction::Open(opening)
    }

    fn fetched(&mut self, delivery: Delivery) -> Reaction {
        match &mut self.phase {
            Phase::Open(open) => {
                open.held.hold_fresh(delivery);
                Reaction::Nothing
            }
            Phase::Closed { .. } => Reaction::Run(delivery),
        }
    }

    fn probe_failed(&mut self, delivery: Delivery, failed: Failed, spent: Spent) -> Reaction {
        self.probe_ended();
        let pace = self.pace();
        match &mut self.phase {
            Phase::Open(open) => {
                open.reason = failed.reason.clone();
                open.patience.failed(pace, spent);
                open.evidence.probe_failed();
                open.held.hold_probed(delivery, failed);
                Reaction::Nothing
            }
            Phase::Closed { .. } => Reaction::Charge(delivery, failed),
        }
    }

    fn sick(&mut self, now: Instant, reason: Arc<str>, spent: Spent, is_said: bool) -> Reaction {
        self.probe_ended();
        let pace = self.pace();
        match &mut self.phase {
            Phase::Open(open) => {
                open.reason = reason;
                // Only a question that ran out of time can show that the target hangs. An answer that came late does
                // not: its good answers may take as long.
                let took = if spent.is_expired { spent.took } else { Duration::ZERO };
                open.patience.failed(pace, Spent { took, ..spent });
                if is_said {
                    open.evidence.target_said_so();
                }
                Reaction::Nothing
            }
            // A success came while the target was asked; the next failure asks again.
            Phase::Closed { streak, .. } if streak.is_empty() => Reaction::Nothing,
            Phase::Closed { streak, .. } => {
                let give_back = streak.attempts();
                let reaction =
                    self.open_with(now, reason, Patience::default(), Opening { last: None, give_back });
                // Silence opens an outage, but even a whole timeout of it clears no message: the target may be busy with
                // the very one that it cannot digest.
                if let Phase::Open(open) = &mut self.phase
                    && is_said
                {
                    open.evidence.target_said_so();
                }
                reaction
            }
        }
    }

    /// Ends an open outage. While it is closed, a target that is well needs not be asked before the next failure.
    fn close(&mut self) -> Reaction {
        let closed = Phase::Closed { streak: Streak::new(&self.policy), ask_at: None };
        let open = match &mut self.phase {
            Phase::Closed { ask_at, .. } => {
                *ask_at = None;
                return Reaction::Nothing;
            }
            phase @ Phase::Open(_) => std::mem::replace(phase, closed),
        };
        let Phase::Open(mut open) = open else { unreachable!("the closed phase returned above") };
        open.evidence.probe_succeeded();
        if !open.evidence.clears_messages(self.policy.distinct) {
            let given_back = open.given_back.iter().map(|(tag, _)| tag.number);
            self.doubtful.extend(given_back.chain(open.held.ids_of_failed()));
        }
        // Else one that crashes the target would have its attempts given back for ever: what follows a crash is an outage.
        self.doubtful.extend(open.blamed);
        self.forget_oldest();
        Reaction::Close(open.held.release())
    }

    fn forget_oldest(&mut self) {
        while self.doubtful.len() > MAX_DOUBTFUL {
            self.doubtful.pop_first();
        }
    }

    /// Takes over what was in the loop's hand when the outage opened.
    pub(crate) fn adopt(&mut self, hand: &mut VecDeque<Delivery>) {
        if let Phase::Open(open) = &mut self.phase {
            for delivery in hand.drain(..) {
                open.held.hold_fresh(lowered(delivery, &open.given_back));
            }
        }
    }
}

/// At most so many messages are held in an outage.
pub(crate) fn max_held(concurrency: u32) -> usize {
    (concurrency as usize * 2).max(64)
}

/// A delivery that was claimed before attempts of its message were given back.
fn lowered(mut delivery: Delivery, given_back: &[(Tag, u32)]) -> Delivery {
    if let Some((_, count)) = given_back.iter().find(|(tag, _)| *tag == delivery.tag) {
        delivery.attempt = delivery.attempt.saturating_sub(*count).max(1);
    }
    delivery
}
