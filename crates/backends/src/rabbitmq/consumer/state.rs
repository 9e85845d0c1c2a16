//! What a consumer knows at one moment, behind one lock. Nothing here waits.

use std::time::Duration;

use outboard_core::{
    Clock, Health, PortError, Time,
    consumer::{Flow, Tag, Ticket},
    time::SystemClock,
};

use super::claims::{Ack, Arrived, Claims, Fate, Tickets};
use crate::rabbitmq::{
    channel::Channel,
    codec::method::{Method, flags},
};

/// With this part of the prefetch settled, the broker is told in one word.
const ACK_PART: usize = 5;

/// What is settled waits so long for more; what was settled out of turn, as long as those before it are settled meanwhile.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(4);

#[derive(Debug)]
pub(super) struct State {
    /// Counts channels.
    pub(super) generation: u64,
    /// The channel of this generation, as long as it lives.
    pub(super) channel: Option<Channel>,
    pub(super) claims: Claims,
    pub(super) tickets: Tickets,
    /// Everything up to this ticket has been told to the broker.
    pub(super) sent: Ticket,
    pub(super) flow: Flow,
    pub(super) phase: Phase,
    /// Why this generation has ended, until the loop has seen it.
    pub(super) ended: Option<End>,
    pub(super) standing: Standing,
    /// What the broker was told.
    pub(super) prefetch: u16,
    /// What had waited too long was given back: nothing is to come until somebody asks for it.
    pub(super) is_sated: bool,
    /// Nothing is delivered beyond what is asked for.
    pub(super) is_narrow: bool,
    /// So many were asked for the last time.
    pub(super) asked: usize,
    /// The loop is to look after [`FLUSH_AFTER`].
    pub(super) is_timed: bool,
    /// The oldest unsettled one when it was looked last.
    waited_for: u64,
    /// Settled so far, for a drain.
    pub(super) settled: u64,
    pub(super) last_progress: Time,
    acks: Vec<Ack>,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Nothing new is taken.
    Draining,
    Ended,
}

/// How a generation ends.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// The broker has ended the consumer: the queue is gone, or has moved.
    Cancelled,
    /// The channel or its connection is gone.
    Lost(PortError),
}

/// Whether it consumes.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// There is no connection: the link knows why.
    Away,
    /// There is one, and no consuming over it yet.
    Trouble(Health),
    Consuming,
}

/// What is to be done after a settlement, outside of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Nobody,
    Loop,
}

impl State {
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            generation: 0,
            channel: None,
            claims: Claims::default(),
            tickets: Tickets::default(),
            sent: 0,
            flow: Flow::Running { prefetch: prefetch.into() },
            phase: Phase::Running,
            ended: None,
            standing: Standing::Away,
            prefetch,
            is_sated: false,
            is_narrow: false,
            asked: 0,
            is_timed: false,
            waited_for: 0,
            settled: 0,
            last_progress: SystemClock.now(),
            acks: Vec::new(),
        }
    }

    /// A new channel: its numbers count from 1.
    pub(super) fn begin(&mut self, channel: Channel) -> u64 {
        self.generation += 1;
        self.channel = Some(channel);
        self.claims = Claims::default();
        self.ended = None;
        self.standing = Standing::Away;
        self.generation
    }

    /// The channel is of no use any more: the broker delivers again what was not settled. What was settled and not
    /// acknowledged is among that; there is nothing more to be said about it.
    pub(super) fn leave(&mut self) -> Option<Channel> {
        self.claims = Claims::default();
        self.tickets.close_all();
        self.sent = self.tickets.settled();
        self.channel.take()
    }

    /// Whether deliveries are wanted.
    pub(super) fn wants(&self) -> bool {
        self.phase == Phase::Running && self.flow != Flow::Paused && !self.is_sated
    }

    /// Somebody asks for so many, and may have to be brought some.
    pub(super) fn ask(&mut self, max: usize) -> Wake {
        self.asked = max;
        let was_sated = std::mem::take(&mut self.is_sated);
        let is_short = self.is_narrow && self.claims.ready() == 0 && self.wanted() > self.prefetch.into();
        if was_sated || is_short { Wake::Loop } else { Wake::Nobody }
    }

    /// Claimed, and asked for besides.
    pub(super) fn wanted(&self) -> u32 {
        self.claims.claimed().saturating_add(u32::try_from(self.asked).unwrap_or(u32::MAX))
    }

    /// Claimed and not durably settled.
    pub(super) fn unsettled(&self) -> u32 {
        let unsent = u32::try_from(self.claims.unsent()).unwrap_or(u32::MAX);
        self.claims.claimed() + self.claims.moving() + unsent
    }

    /// Settles a claim; nothing if it is none (any more).
    pub(super) fn settle(&mut self, tag: Tag, fate: Fate) -> Option<Arrived> {
        let is_now = tag.epoch == self.generation && self.channel.is_some() && self.phase != Phase::Ended;
        let settled = if is_now { self.claims.settle(tag.number, fate)? } else { return None };
        if fate != Fate::Returned {
            self.settled += 1;
        }
        Some(settled)
    }

    /// After something was settled: tells the broker when it is worth a word, and else soon.
    ///
    /// A word for each burst that a fast worker has settled costs the broker more than it gains: it answers with a burst
    /// that is just as small. What was settled out of turn needs a word for each, and waits for those before it.
    pub(super) fn flush_when_due(&mut self) -> Wake {
        let prefetch = usize::from(self.prefetch);
        if self.claims.unsent() >= prefetch.div_ceil(ACK_PART) {
            self.flush_by(Claims::acks_up_to_the_oldest);
        }
        if self.claims.unsent() >= prefetch.div_ceil(2) {
            // A slow one is the oldest: nobody waits for it.
            self.flush();
        }
        self.time()
    }

    /// After [`FLUSH_AFTER`]: tells the broker what one word can say, and also what has waited so long for one before it.
    /// When somebody waits to know what is durable, it tells everything.
    pub(super) fn flush_on_time(&mut self, is_watched: bool) {
        self.is_timed = false;
        self.flush_by(Claims::acks_up_to_the_oldest);
        let oldest = self.claims.oldest();
        if is_watched
            || self.claims.unsent() == 0
            || std::mem::replace(&mut self.waited_for, oldest) == oldest
        {
            self.flush();
        } else {
            self.is_timed = true;
        }
    }

    /// Has the loop look after [`FLUSH_AFTER`].
    pub(super) fn time(&mut self) -> Wake {
        if std::mem::replace(&mut self.is_timed, true) { Wake::Nobody } else { Wake::Loop }
    }

    /// Tells the broker everything that is settled.
    pub(super) fn flush(&mut self) {
        self.flush_by(Claims::acks);
        self.sent = self.tickets.settled();
    }

    fn flush_by(&mut self, acks_of: fn(&mut Claims, &mut Vec<Ack>)) {
        let mut acks = std::mem::take(&mut self.acks);
        acks_of(&mut self.claims, &mut acks);
        if let (Some(channel), false) = (&self.channel, acks.is_empty()) {
            // When the channel is gone, the loop hears of it, and everything is delivered again.
            let _ = channel.send_all(acks.drain(..).map(|Ack { number, multiple }| Method::BasicAck {
                delivery: number,
                flags: if multiple { flags::MULTIPLE } else { 0 },
            }));
        }
        acks.clear();
        self.acks = acks;
    }

    /// Gives deliveries back to the broker.
    pub(super) fn give_back(&self, numbers: &[u64]) {
        if let (Some(channel), false) = (&self.channel, numbers.is_empty()) {
            let nack = |&delivery: &u64| Method::BasicNack { delivery, flags: flags::NACK_REQUEUE };
            // When the channel is gone, they are back already.
            let _ = channel.send_all(numbers.iter().map(nack));
        }
    }

    /// Gives back what nobody has claimed.
    pub(super) fn give_back_ready(&mut self) {
        let mut numbers = Vec::new();
        self.claims.give_up_ready(&mut numbers);
        self.give_back(&numbers);
    }

    /// Gives back what is claimed; how many that are.
    pub(super) fn give_back_claimed(&mut self) -> u32 {
        let mut numbers = Vec::new();
        self.claims.give_up_claimed(&mut numbers);
        self.give_back(&numbers);
        u32::try_from(numbers.len()).unwrap_or(u32::MAX)
    }
}
