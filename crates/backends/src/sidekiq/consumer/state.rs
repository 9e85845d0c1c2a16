//! What a consumer has in hand, and every decision about it.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use outboard_core::{
    Delivery, Health, Kind, PortError, Settlement, Time, Verdict,
    consumer::{Flow, Tag, Ticket},
    queue::Prefetch,
};
use rustc_hash::FxHashMap;

use crate::sidekiq::job::Job;

/// Claims outlive connections: a tag is good as long as its consumer.
pub(super) const EPOCH: u64 = 1;

/// How many deliveries are asked for before the runtime has asked.
const ASKED_AT_FIRST: u32 = 32;

/// How often it is looked for jobs whose number was given, and of which nobody knows whether they came.
const LOOKS_FOR_LOST: u32 = 5;

/// What is to be said to Redis about one claim.
#[derive(Debug)]
pub(super) enum Word {
    Done,
    /// Back to the queue; with the mark that somebody has had it, if somebody had.
    Return {
        had: Option<Job>,
    },
    Retry {
        job: Job,
        due: Time,
        reason: Arc<str>,
    },
    Snooze {
        job: Job,
        due: Time,
    },
    Dead {
        job: Job,
        reason: Arc<str>,
        /// Whether it was given up by its own `retry`, of which only we know.
        by_itself: bool,
    },
    /// Nobody can run it; it becomes a dead one as it is.
    Malformed {
        raw: bytes::Bytes,
    },
}

/// A word on its way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) word: Word,
    ticket: Ticket,
}

/// Numbers that were given for jobs to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) first: u64,
    pub(super) count: usize,
    /// The connection over which they were asked for.
    generation: u64,
    /// Whether somebody may have had those jobs before.
    redelivered: bool,
    looks: u32,
    is_lost: bool,
}

impl Reserved {
    fn contains(&self, number: u64) -> bool {
        (self.first..self.first + self.count as u64).contains(&number)
    }
}

#[derive(Debug)]
struct Claim {
    job: Option<Job>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    Delivered,
    Settling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
    Ended,
}

#[derive(Debug)]
pub(super) struct State {
    prefetch: Prefetch,
    is_paused: bool,
    /// As many as the runtime has asked for at once.
    asked: u32,
    phase: Phase,
    /// The number of the next claim.
    number: u64,
    claims: FxHashMap<u64, Claim>,
    /// Claims that were not delivered, and whether somebody may have had them before.
    ready: VecDeque<(u64, bool)>,
    delivered: usize,
    pending: VecDeque<Sent>,
    reserved: Vec<Reserved>,
    /// Holders that are gone, and may have left jobs.
    pub(super) gone_holders: Vec<String>,
    /// The one of them that was told of last.
    pub(super) adopted_from: Option<String>,
    /// Those that are being looked for, once for each look.
    looked_for: Vec<Reserved>,
    /// Numbers among both of jobs that came and are settled for good: an answer that was given before may still tell of them.
    gone: HashSet<u64>,
    /// Whether jobs may be on their way.
    pub(super) is_fetching: bool,
    /// The connection that waits for jobs, as Redis calls it.
    pub(super) waiting: Option<u64>,
    ticket: Ticket,
    settled: u64,
    warned: bool,
    pub(super) last_progress: Time,
    /// What keeps it from consuming, other than an outage.
    pub(super) trouble: Option<Health>,
}

impl State {
    pub(super) fn new(prefetch: Prefetch, now: Time) -> Self {
        Self {
            prefetch,
            is_paused: false,
            asked: ASKED_AT_FIRST,
            phase: Phase::Running,
            number: 1,
            claims: FxHashMap::default(),
            ready: VecDeque::new(),
            delivered: 0,
            pending: VecDeque::new(),
            reserved: Vec::new(),
            gone_holders: Vec::new(),
            adopted_from: None,
            looked_for: Vec::new(),
            gone: HashSet::new(),
            is_fetching: false,
            waiting: None,
            ticket: 0,
            settled: 0,
            warned: false,
            last_progress: now,
            trouble: None,
        }
    }

    /// How many jobs may be fetched now.
    pub(super) fn room(&self) -> usize {
        if !self.is_wanted() {
            return 0;
        }
        let reserved: usize =
            self.reserved.iter().filter(|reserved| !reserved.is_lost).map(|reserved| reserved.count).sum();
        (self.bound() as usize).saturating_sub(self.claims.len() + reserved)
    }

    /// Whether jobs are wanted, if there is room.
    pub(super) fn is_wanted(&self) -> bool {
        self.phase == Phase::Running && !self.is_paused
    }

    fn bound(&self) -> u32 {
        match self.prefetch {
            Prefetch::Fixed(prefetch) => prefetch,
            // As many again as are in work, and as many as are asked for: nobody waits, and little is hoarded.
            Prefetch::Auto { max } => {
                let busy = u32::try_from(self.claims.len() - self.ready.len()).unwrap_or(u32::MAX);
                busy.saturating_mul(2).saturating_add(self.asked).min(max)
            }
        }
        .max(1)
    }

    /// Gives numbers for so many jobs that are asked for over this connection; whether somebody may have had them before.
    pub(super) fn reserve(&mut self, count: usize, generation: u64, redelivered: bool) -> Reserved {
        let (first, looks) = (self.number, LOOKS_FOR_LOST);
        let reserved = Reserved { first, count, generation, redelivered, looks, is_lost: false };
        self.number += count as u64;
        self.reserved.push(reserved);
        reserved
    }

    /// The answer for these numbers was an error.
    pub(super) fn failed(&mut self, failed: Reserved) {
        for reserved in self.reserved.iter_mut().filter(|reserved| reserved.first == failed.first) {
            reserved.is_lost = true;
        }
    }

    /// Numbers of which nobody knows whether a job has come: asked for over an earlier connection, or answered with an
    /// error. They are looked for some times, since what was sent over a connection may be done after its end.
    pub(super) fn lost(&mut self, generation: u64) -> Vec<Reserved> {
        let mut lost = Vec::new();
        self.reserved.retain_mut(|reserved| {
            if reserved.generation == generation && !reserved.is_lost {
                return true;
            }
            lost.push(*reserved);
            reserved.is_lost = true;
            reserved.looks -= 1;
            reserved.looks > 0
        });
        self.looked_for.extend(&lost);
        lost
    }

    /// A look for these has ended.
    pub(super) fn looked(&mut self, lost: &[Reserved]) {
        for looked in lost {
            let at = self.looked_for.iter().position(|reserved| reserved.first == looked.first);
            at.map(|at| self.looked_for.swap_remove(at));
        }
        self.forget_gone();
    }

    /// What this number was given for, while an answer may still tell of it.
    fn reserved_for(&self, number: u64) -> Option<&Reserved> {
        self.reserved.iter().chain(&self.looked_for).find(|reserved| reserved.contains(number))
    }

    fn may_be_told(&self, number: u64) -> bool {
        self.reserved_for(number).is_some()
    }

    fn forget_gone(&mut self) {
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|&number| self.may_be_told(number));
        self.gone = gone;
    }

    /// The answer for these numbers has come.
    pub(super) fn answered(&mut self, reserved: Reserved) {
        self.reserved.retain(|other| other.first != reserved.first);
        self.forget_gone();
    }

    /// A job is in hand.
    pub(super) fn arrived(&mut self, number: u64, job: Result<Job, bytes::Bytes>, now: Time) {
        // It was looked for, and the answer came all the same.
        if self.claims.contains_key(&number) || self.gone.contains(&number) {
            return;
        }
        self.last_progress = now;
        match job {
            Ok(job) => {
                if !job.is_identified && !self.warned {
                    self.warned = true;
                    tracing::warn!(
                        "a job has neither a jid nor a job_id: its effects may happen more than once"
                    );
                }
                // Also when it was looked for, because the answer was lost.
                let redelivered =
                    job.is_returned || self.reserved_for(number).is_some_and(|reserved| reserved.redelivered);
                self.claims.insert(number, Claim { job: Some(job), stage: Stage::Ready });
                self.ready.push_back((number, redelivered));
                if !self.is_wanted() {
                    self.return_ready();
                }
            }
            Err(raw) => {
                self.claims.insert(number, Claim { job: None, stage: Stage::Settling });
                self.say(number, Word::Malformed { raw });
            }
        }
    }

    /// What is delivered next, and whether there is room for more than before.
    pub(super) fn take(&mut self, max: usize, now: Time) -> Result<(Vec<Delivery>, bool), PortError> {
        if self.phase == Phase::Ended {
            return Err(PortError::new(Kind::Closed, "the consumer has ended"));
        }
        let asked = u32::try_from(max).unwrap_or(u32::MAX);
        let asks_more = asked > self.asked;
        self.asked = asked.max(1);
        let count = max.min(self.ready.len());
        let mut deliveries = Vec::with_capacity(count);
        for (number, redelivered) in self.ready.drain(..count) {
            let claim = self.claims.get_mut(&number).expect("what is ready is claimed");
            let job = claim.job.as_ref().expect("what is ready can be run");
            claim.stage = Stage::Delivered;
            deliveries.push(Delivery {
                tag: Tag { epoch: EPOCH, number },
                message: job.message.clone(),
                attempt: job.attempt,
                suspect: false,
                redelivered,
                is_identified: job.is_identified,
            });
        }
        self.delivered += deliveries.len();
        if !deliveries.is_empty() {
            self.last_progress = now;
        }
        let follows = matches!(self.prefetch, Prefetch::Auto { .. });
        Ok((deliveries, follows && (count > 0 || asks_more)))
    }

    /// Records what became of a delivery.
    pub(super) fn settle(&mut self, settlement: Settlement, now: Time) -> Ticket {
        let number = settlement.tag.number;
        let claim = self.claims.get_mut(&number).filter(|_| settlement.tag.epoch == EPOCH);
        let Some(claim) = claim.filter(|claim| claim.stage == Stage::Delivered) else { return self.ticket };
        claim.stage = Stage::Settling;
        self.delivered -= 1;
        let job = claim.job.take().expect("what is delivered can be run");
        let word = match settlement.verdict {
            Verdict::Done | Verdict::Cancel { .. } => Word::Done,
            Verdict::Return => Word::Return { had: Some(job) },
            Verdict::RetryAfter { delay, reason } => match job.given_up(&reason) {
                Some(reason) => Word::Dead { job, reason, by_itself: true },
                None => Word::Retry { job, due: now + delay, reason },
            },
            Verdict::Snooze { delay } => Word::Snooze { job, due: now + delay },
            Verdict::Dead { reason } => Word::Dead { job, reason, by_itself: false },
        };
        self.settled += u64::from(!matches!(word, Word::Return { .. }));
        self.ticket += 1;
        self.say(number, word);
        self.ticket
    }

    fn say(&mut self, number: u64, word: Word) {
        self.pending.push_back(Sent { number, word, ticket: self.ticket });
    }

    /// What is to be said next, oldest first.
    pub(super) fn words(&mut self, max: usize) -> Vec<Sent> {
        let count = max.min(self.pending.len());
        self.pending.drain(..count).collect()
    }

    /// What was said is done; the ticket up to which everything is.
    pub(super) fn said(&mut self, words: &[Sent], now: Time) -> Ticket {
        for sent in words {
            self.claims.remove(&sent.number);
            if self.may_be_told(sent.number) {
                self.gone.insert(sent.number);
            }
        }
        self.last_progress = now;
        self.trouble = None;
        words.last().map_or(0, |sent| sent.ticket)
    }

    pub(super) fn flow(&mut self, flow: Flow) {
        match flow {
            Flow::Paused => {
                self.is_paused = true;
                self.return_ready();
            }
            // How many is as it was configured.
            Flow::Running { .. } => self.is_paused = false,
        }
    }

    pub(super) fn shown_flow(&self) -> Flow {
        if self.is_paused { Flow::Paused } else { Flow::Running { prefetch: self.bound() } }
    }

    pub(super) fn unsettled(&self) -> u32 {
        u32::try_from(self.claims.len()).unwrap_or(u32::MAX)
    }

    /// What was fetched and not delivered is for others.
    fn return_ready(&mut self) {
        while let Some((number, redelivered)) = self.ready.pop_back() {
            self.return_claim(number, redelivered);
        }
    }

    fn return_claim(&mut self, number: u64, was_had: bool) {
        let claim = self.claims.get_mut(&number).expect("only what is claimed is returned");
        claim.stage = Stage::Settling;
        let had = claim.job.take().filter(|_| was_had);
        self.say(number, Word::Return { had });
    }

    /// From now on nothing is delivered; how many were settled before.
    pub(super) fn begin_drain(&mut self) -> u64 {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
        }
        self.return_ready();
        self.settled
    }

    /// Gives back what is still in work; how many were settled since, and how many are given back.
    pub(super) fn end_drain(&mut self, before: u64) -> (u64, u32) {
        let in_work = |(number, claim): (&u64, &Claim)| (claim.stage == Stage::Delivered).then_some(*number);
        let mut numbers: Vec<u64> = self.claims.iter().filter_map(in_work).collect();
        // The oldest is consumed next, so it goes back last.
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        numbers.iter().for_each(|&number| self.return_claim(number, true));
        self.delivered = 0;
        (self.settled - before, u32::try_from(numbers.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn is_drained(&self) -> bool {
        self.claims.is_empty() && self.pending.is_empty() && !self.is_fetching
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.ready.clear();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::queue::Identify;

    use super::*;

    fn job(now: Time) -> Result<Job, bytes::Bytes> {
        let raw = br#"{"class":"A","args":[],"jid":"1"}"#;
        Ok(Job::parse(bytes::Bytes::from_static(raw), "q", &"q".into(), Identify::ByPublisher, now).unwrap())
    }

    #[test]
    fn an_answer_from_before_a_job_was_settled_brings_it_no_second_time() {
        let now = Time::from_millis(1_000);
        let mut state = State::new(Prefetch::Fixed(10), now);
        let reserved = state.reserve(2, 1, false);
        // Over the next connection two look for it at the same time, and Redis answers both.
        let looks = [state.lost(2), state.lost(2)];
        assert_eq!(looks[0].len(), 1);
        state.arrived(reserved.first, job(now), now);
        let (deliveries, _) = state.take(10, now).unwrap();
        let done = Settlement { tag: deliveries[0].tag, verdict: Verdict::Done, effects: None };
        state.settle(done, now);
        let words = state.words(10);
        state.said(&words, now);
        state.looked(&looks[0]);
        state.arrived(reserved.first, job(now), now);
        assert!(state.take(10, now).unwrap().0.is_empty(), "it was settled");
        state.arrived(reserved.first + 1, job(now), now);
        assert_eq!(state.take(10, now).unwrap().0.len(), 1, "the other one was not");
        state.looked(&looks[1]);
        state.answered(reserved);
        assert!(state.gone.is_empty(), "nothing is kept for ever");
    }

    #[test]
    fn what_was_taken_over_is_redelivered_also_when_the_answer_was_lost() {
        let now = Time::from_millis(1_000);
        let mut state = State::new(Prefetch::Fixed(10), now);
        let adopted = state.reserve(1, 1, true);
        let fetched = state.reserve(1, 1, false);
        assert_eq!(state.lost(2).len(), 2);
        state.arrived(adopted.first, job(now), now);
        state.arrived(fetched.first, job(now), now);
        let (deliveries, _) = state.take(10, now).unwrap();
        assert!(deliveries[0].redelivered, "somebody had it, and may have done it");
        assert!(!deliveries[1].redelivered, "nobody had it");
    }
}
