//! Everything that a consumer decides, under one lock and without waiting.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use outboard_core::{
    Clock, Delivery, Health, Kind, PortError, Time, Verdict,
    consumer::{Flow, Tag, Ticket},
    queue::Prefetch,
};

use super::{
    batches::Batches,
    claims::{Answer, Claim, Claims, Stage, Storing, Tickets},
    delivery::{Origin, Reader},
    records::Record,
    window::Window,
};
use crate::jetstream::{protocol::frame::Incoming, pulling::Pulling};

/// A message that is due within this time may be handed out: no timer is more exact.
const DUE_SOON: Duration = Duration::from_millis(2);

/// After so many requests in a row that the server does not take, one for each look, something is wrong.
pub(super) const REFUSALS: u32 = 6;

/// How a consumer goes on.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Running,
    /// Takes nothing new, waits for what workers hold.
    Draining,
    /// Everything goes back.
    Ending,
    Ended,
}

/// What a consumer knows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) window: Window,
    pub(super) phase: Phase,
    /// Counts the consumers that the server had under our name: with each new one, old claims mean nothing.
    pub(super) epoch: u64,
    /// What the server's consumer is called.
    pub(super) consumer: Arc<str>,
    pub(super) claims: Claims,
    /// Positions of claims that may be handed out, in the order in which they came.
    pub(super) ready: VecDeque<u64>,
    /// How many claims are in [`Stage::Looking`].
    looking: usize,
    /// How many claims the server has been told everything of.
    pub(super) written: usize,
    /// Positions of claims that the server is to be told of.
    pub(super) answers: Vec<u64>,
    /// Positions of claims for which something is to be read or stored.
    pub(super) todo: Vec<u64>,
    /// What was written and not confirmed.
    pub(super) batches: Batches,
    /// A session has ended because the server confirmed nothing, and it has not confirmed anything since.
    pub(super) is_unconfirmed: bool,
    /// Records of messages that are done.
    pub(super) forgotten: Vec<u64>,
    /// Messages that were asked for and have not come.
    pub(super) outstanding: u32,
    /// Messages at or before these positions may have been delivered before, or have a record.
    pub(super) maybe_delivered: u64,
    pub(super) maybe_recorded: u64,
    /// How many messages were behind the last one that came.
    pending: u64,
    pub(super) tickets: Tickets,
    /// Settled since the drain began.
    pub(super) drained: u64,
    /// Something came since this was last looked at.
    pub(super) is_heard: bool,
    /// What the server's consumer takes as a request.
    pub(super) pulling: Pulling,
    /// No requests until the next look, because the server takes no more of them.
    pub(super) is_held_up: bool,
    /// How many requests in a row it has not taken.
    pub(super) requests_refused: u32,
    /// Why everything has to be looked at anew.
    pub(super) trouble: Option<PortError>,
    pub(super) last_progress: Time,
    pub(super) health: Health,
    /// The type of the message before.
    last_kind: Arc<str>,
}

/// What the run task is to be woken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wakes {
    /// There is something to do for the task that talks to the server.
    pub(super) runner: bool,
    /// There is something to be handed out.
    pub(super) taker: bool,
}

impl State {
    pub(super) fn new(prefetch: Prefetch, now: Time, health: Health) -> Self {
        Self {
            window: Window::new(prefetch),
            phase: Phase::Running,
            epoch: 1,
            consumer: "".into(),
            claims: Claims::default(),
            ready: VecDeque::new(),
            looking: 0,
            written: 0,
            answers: Vec::new(),
            todo: Vec::new(),
            batches: Batches::default(),
            is_unconfirmed: false,
            forgotten: Vec::new(),
            outstanding: 0,
            maybe_delivered: 0,
            maybe_recorded: 0,
            pending: 0,
            tickets: Tickets::default(),
            drained: 0,
            is_heard: false,
            pulling: Pulling::default(),
            is_held_up: false,
            requests_refused: 0,
            trouble: None,
            last_progress: now,
            health,
            last_kind: "".into(),
        }
    }

    /// Whether messages are wanted now.
    pub(super) fn wants(&self) -> bool {
        matches!(self.phase, Phase::Running) && self.window.flow() != Flow::Paused
    }

    /// Handed out and not durably settled.
    pub(super) fn unsettled(&self) -> usize {
        self.claims.len() - self.ready.len() - self.looking
    }

    /// How many messages to ask for now: nothing, or at least an eighth of what may be in hand, unless nothing would come.
    /// In smaller steps, requests would cost more than messages; in larger ones, a consumer runs dry and others get
    /// its share.
    pub(super) fn to_request(&self) -> u32 {
        if !self.wants() || self.is_held_up {
            return 0;
        }
        let size = self.window.size();
        let held = (self.claims.len() - self.written) as u32 + self.outstanding;
        let room = self.pulling.may_ask(size.saturating_sub(held), self.outstanding);
        let is_idle = self.outstanding == 0 && self.ready.is_empty() && self.looking == 0;
        if room >= (size.min(self.pulling.bound()) / 8).max(1) || is_idle { room } else { 0 }
    }

    /// Whether the server is to be told at once: an eighth of what may be in hand is answered, or nothing more is wanted.
    pub(super) fn has_enough_answers(&self) -> bool {
        self.answers.len() >= (self.window.size() as usize / 8).max(1) || !self.wants()
    }

    /// Whether a settlement gives the session something to do: it knows already that an answer waits for more.
    pub(super) fn needs_attention(&self) -> bool {
        self.answers.len() == 1 || self.has_enough_answers() || !self.todo.is_empty()
    }

    /// A message has come.
    pub(super) fn came(&mut self, incoming: Incoming, origin: Origin) -> Wakes {
        self.is_heard = true;
        self.request_was_taken();
        self.outstanding = self.outstanding.saturating_sub(1);
        self.pending = origin.pending;
        if let Some(claim) = self.claims.get_mut(&origin.sequence) {
            if !claim.is_put_off() {
                // Ours already, or settled: only the way to answer is newer.
                if !matches!(claim.stage, Stage::Answering { .. }) {
                    (claim.incoming, claim.origin) = (incoming, origin);
                }
                return Wakes::default();
            }
            // It comes again because we said so: what we said has been heard.
            self.confirm_one(origin.sequence);
        }
        let wants = self.wants();
        let is_known = origin.delivered > 1 || origin.sequence <= self.maybe_recorded;
        let stage = if !wants {
            self.answers.push(origin.sequence);
            Stage::Answering { ticket: 0, answer: Answer::Later(Duration::ZERO), is_written: false }
        } else if is_known {
            self.looking += 1;
            self.todo.push(origin.sequence);
            Stage::Looking
        } else {
            self.ready.push_back(origin.sequence);
            Stage::Ready
        };
        self.claims.insert(origin.sequence, Claim { incoming, origin, record: None, stage });
        // The pipe is filled again when it is half empty.
        let runner = !wants || is_known || self.to_request() > 0;
        Wakes { runner, taker: wants && !is_known }
    }

    /// Whether a message failed before is known now.
    pub(super) fn looked(&mut self, sequence: u64, record: Option<Record>, now: Time) -> Wakes {
        let Some(claim) =
            self.claims.get_mut(&sequence).filter(|claim| matches!(claim.stage, Stage::Looking))
        else {
            return Wakes::default();
        };
        self.looking -= 1;
        claim.record = record.map(Box::new);
        let wait = claim.record.as_ref().map_or(Duration::ZERO, |record| record.due().since(now));
        if wait > DUE_SOON {
            // The server has lost the delay, or somebody else's crash has: the rest of it is waited for.
            self.put_off(sequence, 0, wait);
            return Wakes { runner: true, taker: false };
        }
        claim.stage = Stage::Ready;
        self.ready.push_back(sequence);
        Wakes { runner: !self.wants(), taker: true }
    }

    fn put_off(&mut self, sequence: u64, ticket: Ticket, delay: Duration) {
        self.answer(sequence, ticket, Answer::Later(delay));
    }

    /// Says what the server is to be told of a claim.
    pub(super) fn answer(&mut self, sequence: u64, ticket: Ticket, answer: Answer) {
        if let Some(claim) = self.claims.get_mut(&sequence) {
            claim.stage = Stage::Answering { ticket, answer, is_written: false };
            self.answers.push(sequence);
        }
    }

    /// Hands out what may be, at most `max`.
    pub(super) fn take(&mut self, max: usize, reader: &Reader, now: Time) -> (Vec<Delivery>, Wakes) {
        let mut wakes = Wakes::default();
        let room = (self.window.size() as usize).saturating_sub(self.unsettled());
        let count = if self.wants() { max.min(room).min(self.ready.len()) } else { 0 };
        let mut deliveries = Vec::with_capacity(count);
        while deliveries.len() < count {
            let Some(sequence) = self.ready.pop_front() else { break };
            let Some(claim) = self.claims.get_mut(&sequence) else { continue };
            let message = reader.message(&claim.incoming, &claim.origin, &mut self.last_kind);
            let wait = message.run_at.map_or(Duration::ZERO, |due| due.since(now));
            if wait > DUE_SOON {
                self.put_off(sequence, 0, wait);
                wakes.runner = true;
                continue;
            }
            claim.stage = Stage::Handed;
            deliveries.push(Delivery {
                tag: Tag { epoch: self.epoch, number: sequence },
                message: Arc::new(message),
                attempt: claim.attempts().saturating_add(1),
                suspect: false,
                redelivered: claim.origin.delivered > 1 || sequence <= self.maybe_delivered,
                is_identified: true,
            });
        }
        if !deliveries.is_empty() {
            self.last_progress = now;
        } else if self.wants() && (room == 0 || self.pending > u64::from(self.outstanding)) {
            wakes.runner |= self.window.grow();
        }
        wakes.runner |= self.ready.is_empty() && self.to_request() > 0;
        (deliveries, wakes)
    }

    /// What became of a delivery. A claim that nobody has any more is ignored.
    pub(super) fn settle(&mut self, tag: Tag, verdict: Verdict, clock: &dyn Clock) -> Ticket {
        let ticket = self.tickets.issue();
        let handed = self.unsettled();
        let claim = self.claims.get_mut(&tag.number).filter(|_| tag.epoch == self.epoch);
        let Some(claim) = claim.filter(|claim| matches!(claim.stage, Stage::Handed)) else {
            self.tickets.confirm(ticket);
            return ticket;
        };
        self.window.settled(handed);
        self.drained += 1;
        let storing = match verdict {
            Verdict::Done => Err(Answer::Done),
            Verdict::Cancel { .. } => Err(Answer::Given),
            Verdict::Return => Err(Answer::Later(Duration::ZERO)),
            Verdict::Snooze { delay } => Err(Answer::Later(delay)),
            Verdict::RetryAfter { delay, reason } => {
                let due = clock.now() + delay;
                let record = Record::after(claim.record.as_deref(), claim.origin.stored_ns, &reason, due);
                Ok(Storing::Attempt(record))
            }
            Verdict::Dead { reason } => Ok(Storing::Letter { reason }),
        };
        match storing {
            Err(answer) => self.answer(tag.number, ticket, answer),
            Ok(what) => {
                claim.stage = Stage::Storing { ticket, what: Arc::new(what) };
                self.todo.push(tag.number);
            }
        }
        ticket
    }

    /// What had to be stored is stored, an attempt at this position.
    pub(super) fn stored(&mut self, sequence: u64, position: u64, now: Time) {
        let Some(Claim { stage: Stage::Storing { ticket, what }, record, .. }) =
            self.claims.get_mut(&sequence)
        else {
            return;
        };
        let (ticket, what) = (*ticket, what.clone());
        let answer = match &*what {
            Storing::Attempt(stored) => {
                *record = Some(Box::new(stored.at(position)));
                Answer::Later(stored.due().since(now))
            }
            Storing::Letter { .. } => Answer::Given,
        };
        self.answer(sequence, ticket, answer);
    }

    /// Everything up to this batch has been heard by the server.
    pub(super) fn confirm_through(&mut self, number: u64, now: Time) -> Wakes {
        self.is_heard = true;
        if std::mem::take(&mut self.is_unconfirmed) {
            self.health = Health::Ready;
        }
        while let Some(batch) = self.batches.pop_through(number) {
            for (sequence, delivered) in batch {
                let claim = self.claims.get(&sequence);
                if claim.is_some_and(|claim| claim.is_written() && claim.origin.delivered == delivered) {
                    self.confirm_one(sequence);
                }
            }
        }
        self.last_progress = now;
        let runner =
            !self.forgotten.is_empty() || self.to_request() > 0 || !matches!(self.phase, Phase::Running);
        Wakes { runner, taker: !self.ready.is_empty() }
    }

    fn confirm_one(&mut self, sequence: u64) {
        let Some(claim) = self.claims.remove(&sequence) else { return };
        let Stage::Answering { ticket, answer, is_written } = claim.stage else { return };
        self.written -= usize::from(is_written);
        self.tickets.confirm(ticket);
        if !matches!(answer, Answer::Later(_)) {
            self.forgotten.extend(claim.record.map(|record| record.sequence));
        }
    }

    /// Gives back what nobody has begun with.
    pub(super) fn give_back_ready(&mut self) {
        let looking = self.claims.iter().filter(|(_, claim)| matches!(claim.stage, Stage::Looking));
        let mut sequences: Vec<u64> = looking.map(|(&sequence, _)| sequence).collect();
        self.looking = 0;
        sequences.extend(self.ready.drain(..));
        for sequence in sequences {
            self.put_off(sequence, 0, Duration::ZERO);
        }
    }

    /// Gives back what workers have; returns how many these are.
    pub(super) fn give_back_handed(&mut self) -> u32 {
        let handed = self.claims.iter().filter(|(_, claim)| matches!(claim.stage, Stage::Handed));
        let sequences: Vec<u64> = handed.map(|(&sequence, _)| sequence).collect();
        for &sequence in &sequences {
            self.put_off(sequence, 0, Duration::ZERO);
        }
        sequences.len() as u32
    }

    /// A new connection, to the same consumer of the server or to another one: what was on its way is sent again, or
    /// has lost its meaning.
    pub(super) fn begin(&mut self, is_same: bool) {
        self.outstanding = 0;
        self.batches.clear();
        self.trouble = None;
        (self.is_held_up, self.requests_refused) = (false, 0);
        if !is_same {
            self.forget_claims();
        }
        let waits = |stage: &Stage| matches!(stage, Stage::Looking | Stage::Storing { .. });
        self.todo = self
            .claims
            .iter()
            .filter(|(_, claim)| waits(&claim.stage))
            .map(|(&sequence, _)| sequence)
            .collect();
        self.say_again();
        self.is_unconfirmed &= !self.answers.is_empty();
    }

    /// What the server was told and has not confirmed is written again, in the order in which messages came, as far as
    /// that is known.
    pub(super) fn say_again(&mut self) {
        (self.written, self.answers) = (0, Vec::new());
        for (&sequence, claim) in &mut self.claims {
            if let Stage::Answering { is_written, .. } = &mut claim.stage {
                *is_written = false;
                self.answers.push(sequence);
            }
        }
        self.answers.sort_unstable();
    }

    /// The server does not take a request, because others have taken its places; returns in how many it has not.
    pub(super) fn request_was_refused(&mut self) -> u32 {
        (self.outstanding, self.is_held_up) = (0, true);
        self.requests_refused = self.requests_refused.saturating_add(1);
        self.requests_refused
    }

    /// The server has taken a request.
    pub(super) fn request_was_taken(&mut self) {
        if std::mem::take(&mut self.requests_refused) >= REFUSALS
            && matches!(self.health, Health::Refusing(_))
        {
            self.health = Health::Ready;
        }
    }

    /// What we had in hand is gone at the server.
    fn forget_claims(&mut self) {
        self.epoch += 1;
        for (_, claim) in self.claims.drain() {
            // Nobody can ever confirm it, and whoever waits for it must not wait for ever.
            if let Stage::Answering { ticket, .. } | Stage::Storing { ticket, .. } = claim.stage {
                self.tickets.confirm(ticket);
            }
        }
        self.ready.clear();
        self.looking = 0;
    }

    /// The end: nothing is claimed. What was said and not confirmed is not called durable.
    pub(super) fn end(&mut self) {
        self.claims.clear();
        self.ready.clear();
        (self.looking, self.written) = (0, 0);
        self.phase = Phase::Ended;
        self.health = Health::Failed(ended());
    }
}

pub(super) fn ended() -> PortError {
    PortError::new(Kind::Closed, "the consumer has ended")
}
