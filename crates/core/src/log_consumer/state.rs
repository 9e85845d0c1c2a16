//! What the consumer decides, without waiting for anybody.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::{
    LogConsumerOptions,
    jumps::Jumps,
    read_ahead,
    settling::{After, Sent},
};
use crate::{
    consumer::{Delivery, Flow, Tag, Ticket},
    cursor::Cursor,
    error::PortError,
    ledger::{NewDead, Opened, Parked, ParkedChange, ParkedState, Unit},
    log::{Limit, Page},
    message::{Message, Position},
    planted::{Bug, is_planted},
    time::Time,
};

/// Skipped positions are committed by themselves when so many have gathered.
const SKIPPED_TO_COMMIT: u64 = 10_000;

/// While the log has messages, due ones hold this part of the claims at most, or one. The runtime claims twice as many
/// as it runs at once: a quarter of the claims is half of the slots.
const DUE_SHARE: u32 = 4;

/// Due rows are fetched ahead of the claims, at most so many.
const DUE_AHEAD: usize = 256;

/// What `next` has to do now.
pub(super) enum Step {
    Deliver(Vec<Delivery>),
    Read { after: Position, limit: Limit },
    Due { until: Time, max: usize },
    Wait(Option<Time>),
    Failed(PortError),
}

/// A message in the consumer's hands, delivered or about to be.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) message: Arc<Message>,
    /// Attempts made and counted before this one.
    pub(super) attempts: u32,
    /// Whether it has a row in `parked`, and its position is marked in the cursor.
    pub(super) parked: bool,
    /// Consecutive crashes while it ran alone; `None` for what never was suspect.
    pub(super) crashes: Option<u32>,
    /// Whether it had waited in `parked` until it was due, and does not run alone.
    pub(super) was_due: bool,
}

impl Held {
    pub(super) fn position(&self) -> Position {
        self.message.id
    }
}

/// What was committed since the ledger was asked for due rows: its answer may be older.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Rows that changed.
    pub(super) changed: HashSet<Position>,
    /// The earliest time at which one of them is due.
    pub(super) due: Option<Time>,
}

/// Everything that `next`, `settle` and the flusher share.
pub(super) struct State {
    pub(super) flow: Flow,
    pub(super) options: LogConsumerOptions,
    pub(super) epoch: u64,
    /// As durable in the ledger.
    pub(super) cursor: Cursor,
    /// Everything up to here was read; what of it is not done is in one of the following.
    pub(super) read: Position,
    /// Read and not delivered, in order.
    pub(super) ready: VecDeque<Held>,
    /// Given back by the runtime.
    pub(super) returned: VecDeque<Held>,
    /// Fetched from `parked`.
    pub(super) due: VecDeque<Held>,
    /// Waiting to run alone.
    pub(super) suspects: VecDeque<Held>,
    /// The suspect whose row is written or that runs.
    pub(super) suspect_running: Option<Position>,
    pub(super) claims: FxHashMap<Position, Held>,
    /// How many of the claims had waited until they were due.
    pub(super) due_claims: u32,
    /// Positions with a row in `parked` that are in hand, so that they are not fetched twice.
    pub(super) parked_in_hand: HashSet<Position>,
    /// Whether the next delivery comes from the log when both have something.
    pub(super) log_turn: bool,
    pub(super) next_due: Option<Time>,
    /// While the ledger is being asked for due rows.
    pub(super) asked: Option<Asked>,
    pub(super) parked: u64,
    pub(super) bulk: Unit,
    /// Skipped positions in `bulk`.
    pub(super) skipped: u64,
    pub(super) units: Vec<Sent>,
    pub(super) ticket: Ticket,
    /// Settlements in `bulk` and `units`.
    pub(super) pending: u32,
    /// Settlements in the commit that runs.
    pub(super) committing: u32,
    pub(super) is_committing: bool,
    /// Everything up to this ticket is in the last commit or in one before it.
    pub(super) sent_ticket: Ticket,
    /// The same of the commit before it: everything up to here is durable, dead letters of refused units included.
    pub(super) resolved_ticket: Ticket,
    /// Attempts taken back while a commit runs: their messages may be in it.
    pub(super) given_back: Vec<(Position, u32)>,
    pub(super) settled: u64,
    pub(super) draining: bool,
    /// This step has left something to commit that nobody else will ask to be committed.
    wants_flush: bool,
    pub(super) last_progress: Time,
    pub(super) jumps: Jumps,
    pub(super) failed: Option<PortError>,
    /// Why commits do not get through at the moment.
    pub(super) trouble: Option<PortError>,
}

impl State {
    /// A consumer that stands where the ledger says. `suspects` run alone; `running` rows go on normally.
    pub(super) fn new(
        options: LogConsumerOptions,
        opened: &Opened,
        suspects: VecDeque<Held>,
        running: VecDeque<Held>,
    ) -> Self {
        let in_hand = suspects.iter().chain(&running);
        Self {
            flow: match opened.paused {
                Some(_) => Flow::Paused,
                None => Flow::Running { prefetch: options.prefetch },
            },
            epoch: opened.epoch,
            cursor: opened.cursor.clone(),
            read: opened.cursor.low(),
            ready: VecDeque::new(),
            parked_in_hand: in_hand.filter(|held| held.parked).map(Held::position).collect(),
            returned: running,
            due: VecDeque::new(),
            suspects,
            suspect_running: None,
            claims: FxHashMap::default(),
            due_claims: 0,
            log_turn: false,
            next_due: opened.next_due,
            asked: None,
            parked: opened.parked,
            bulk: Unit::of(options.worker.clone(), opened.epoch),
            skipped: 0,
            units: Vec::new(),
            ticket: 0,
            pending: 0,
            committing: 0,
            is_committing: false,
            sent_ticket: 0,
            resolved_ticket: 0,
            given_back: Vec::new(),
            settled: 0,
            draining: false,
            wants_flush: false,
            last_progress: options.clock.now(),
            jumps: Jumps::new(options.clock.now(), Instant::now()),
            failed: None,
            trouble: None,
            options,
        }
    }

    /// What to do now, given the log's tip and the time, and whether something is to be committed.
    pub(super) fn step(&mut self, max: usize, tip: Position, now: Time) -> (Step, bool) {
        self.jumps.look_and_tell(&self.options.worker, now, Instant::now());
        let step = self.next_step(max, tip, now);
        (step, std::mem::take(&mut self.wants_flush))
    }

    fn next_step(&mut self, max: usize, tip: Position, now: Time) -> Step {
        if let Some(error) = &self.failed {
            return Step::Failed(error.clone());
        }
        let Flow::Running { prefetch } = self.flow else { return Step::Wait(None) };
        if self.draining {
            return Step::Wait(None);
        }
        let room = (prefetch.saturating_sub(self.unsettled()) as usize).min(max);
        if room == 0 {
            return Step::Wait(None);
        }
        if is_planted(Bug::SuspectsRunTogether) {
            self.returned.append(&mut self.suspects);
        }
        if self.suspect_running.is_none() {
            self.begin_suspect();
        }
        // Asked before the log's messages are taken: a busy log must not hold up what is due.
        if self.due.is_empty() && self.next_due.is_some_and(|due| due <= now) {
            self.asked = Some(Asked::default());
            return Step::Due { until: now, max: DUE_AHEAD + self.parked_in_hand.len() };
        }
        let deliveries = self.take(room, tip, now);
        if !deliveries.is_empty() {
            self.last_progress = now;
            return Step::Deliver(deliveries);
        }
        self.read_on(tip)
    }

    /// Claims up to `room` messages: returned ones first, then due ones and the log's in turn.
    fn take(&mut self, room: usize, tip: Position, now: Time) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        // A return during this call must not be handed out twice in one batch, hence the fixed room.
        while deliveries.len() < room {
            let held = if let Some(held) = self.returned.pop_front() {
                held
            } else if self.is_turn_of_due(tip) {
                self.log_turn = true;
                self.due.pop_front().expect("it was seen not to be empty")
            } else {
                let Some(held) = self.ready.pop_front() else { break };
                self.log_turn = false;
                held
            };
            if !held.parked && held.message.run_at.is_some_and(|run_at| run_at > now) {
                self.schedule(held);
                continue;
            }
            deliveries.push(self.claim(held));
        }
        deliveries
    }

    /// Whether a due message is the next one to be claimed.
    ///
    /// While the log has something they keep to their share: retries that hang would take all the slots again and again,
    /// and fresh messages would wait.
    fn is_turn_of_due(&self, tip: Position) -> bool {
        let Flow::Running { prefetch } = self.flow else { return false };
        let has_room = self.due_claims < (prefetch / DUE_SHARE).max(1) || is_planted(Bug::DueWithoutShare);
        let has_share = has_room && !self.log_turn;
        !self.due.is_empty() && (has_share || (self.ready.is_empty() && !self.can_read(tip)))
    }

    fn claim(&mut self, held: Held) -> Delivery {
        let delivery = Delivery {
            tag: Tag { epoch: self.epoch, number: held.position().0 },
            message: held.message.clone(),
            attempt: held.attempts + 1,
            suspect: self.suspect_running == Some(held.position()),
            redelivered: false,
            is_identified: true,
        };
        if is_planted(Bug::DoneWhenClaimed) && !held.parked {
            push_range(&mut self.bulk.done, held.position(), held.position());
        }
        self.due_claims += u32::from(held.was_due);
        self.claims.insert(held.position(), held);
        delivery
    }

    /// Ends a claim.
    pub(super) fn unclaim(&mut self, position: Position) -> Option<Held> {
        let held = self.claims.remove(&position)?;
        self.due_claims -= u32::from(held.was_due);
        Some(held)
    }

    /// Parks a message whose time has not come.
    fn schedule(&mut self, held: Held) {
        let due = held.message.run_at.expect("only messages with a time are scheduled");
        self.park(&held, ParkedState::Scheduled, due, held.attempts, "".into());
        self.count_settlement();
        self.wants_flush = true;
    }

    /// Sends the running row of the next suspect on its way, if there is one.
    fn begin_suspect(&mut self) {
        let Some(held) = self.suspects.pop_front() else { return };
        let position = held.position();
        self.suspect_running = Some(position);
        let row = Parked {
            position,
            state: ParkedState::Suspect,
            due: Time::MAX,
            attempts: held.attempts,
            crashes: held.crashes.unwrap_or(0),
            reason: "".into(),
        };
        let mut unit = Unit::of(self.options.worker.clone(), self.epoch);
        if !held.parked {
            unit.done.push((position, position));
            self.parked += 1;
            self.parked_in_hand.insert(position);
        }
        unit.parked.push(ParkedChange::Put(row));
        self.send(unit, After::Running(Held { parked: true, was_due: false, ..held }));
        self.wants_flush = true;
    }

    /// What to read next, or what to wait for.
    fn read_on(&mut self, tip: Position) -> Step {
        if !self.can_read(tip) {
            let window_is_full = self.read < tip && !self.is_full();
            if window_is_full {
                self.let_straggler_pass();
            }
            return Step::Wait(self.next_due);
        }
        let limit = self.cursor.limit();
        let ahead = read_ahead(self.options.prefetch);
        let scan = ahead.scan.min((limit.0 - self.read.0) as usize);
        Step::Read { after: self.read, limit: Limit { scan, ..ahead } }
    }

    fn is_full(&self) -> bool {
        self.parked >= self.options.max_parked && !is_planted(Bug::ParkedUnbounded)
    }

    /// Whether the log has something to be read, and there is room for it.
    fn can_read(&self, tip: Position) -> bool {
        self.read < tip && self.read < self.cursor.limit() && !self.is_full()
    }

    /// Gives the message that holds the cursor a running row, so that the cursor can pass it.
    fn let_straggler_pass(&mut self) {
        let position = self.cursor.low().next();
        let Some(held) = self.claims.get_mut(&position) else { return };
        if held.parked {
            return;
        }
        held.parked = true;
        let row = Parked {
            position,
            state: ParkedState::Straggler,
            due: Time::MAX,
            attempts: held.attempts,
            crashes: 0,
            reason: "".into(),
        };
        self.parked += 1;
        self.parked_in_hand.insert(position);
        push_range(&mut self.bulk.done, position, position);
        self.bulk.parked.push(ParkedChange::Put(row));
        self.wants_flush = true;
    }

    /// Takes over what was read after `after`. True when enough was skipped to commit it.
    pub(super) fn take_page(&mut self, after: Position, page: Page) -> bool {
        if after != self.read {
            return false;
        }
        let mut last = after;
        for message in page.messages {
            let position = message.id;
            self.skip(last.next(), position.previous());
            last = position;
            let in_hand = self.parked_in_hand.contains(&position)
                || self.suspects.iter().any(|held| held.position() == position);
            if !in_hand && !self.cursor.is_done(position) {
                let (attempts, crashes) = (0, None);
                self.ready.push_back(Held { message, attempts, parked: false, crashes, was_due: false });
            }
        }
        self.skip(last.next(), page.next);
        self.read = page.next;
        // It has had its turn when there was nothing: what is due need not wait for a long way through other types.
        self.log_turn &= !self.ready.is_empty();
        // With nothing to settle, nobody else would commit what was passed.
        self.skipped >= SKIPPED_TO_COMMIT
            || (self.skipped > 0 && self.ready.is_empty() && self.unsettled() == 0)
    }

    fn skip(&mut self, from: Position, to: Position) {
        if from <= to {
            self.skipped += to.0 - from.0 + 1;
            push_range(&mut self.bulk.done, from, to);
        }
    }

    /// The rows whose messages are not here already.
    pub(super) fn not_in_hand(&self, mut rows: Vec<Parked>) -> Vec<Parked> {
        rows.retain(|row| !self.parked_in_hand.contains(&row.position));
        rows
    }

    /// Takes over due rows; a row without its message becomes a dead letter.
    pub(super) fn take_due(&mut self, rows: Vec<(Parked, Option<Arc<Message>>)>, next: Option<Time>) {
        let Asked { changed, due } = self.asked.take().unwrap_or_default();
        self.next_due = next.into_iter().chain(due).min();
        for (row, message) in rows {
            if changed.contains(&row.position) || !self.parked_in_hand.insert(row.position) {
                continue;
            }
            match message {
                Some(message) => {
                    let crashes = (row.crashes > 0).then_some(row.crashes);
                    let attempts = row.attempts;
                    self.due.push_back(Held { message, attempts, parked: true, crashes, was_due: true });
                }
                None => self.lose(&row),
            }
        }
    }

    /// Buries a parked row whose message the log does not hold any more.
    fn lose(&mut self, row: &Parked) {
        self.bulk.parked.push(ParkedChange::Remove(row.position));
        self.bulk.dead.push(NewDead {
            position: row.position,
            reason: "the log does not hold this message any more".into(),
            attempts: row.attempts,
        });
    }

    /// A row is durably due at this time.
    pub(super) fn row_due(&mut self, due: Time) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        if let Some(asked) = &mut self.asked {
            asked.due = Some(asked.due.map_or(due, |next| next.min(due)));
        }
    }

    /// Somebody else has parked so many messages, due at once.
    pub(super) fn rows_came(&mut self, rows: u64) {
        self.parked += rows;
        self.row_due(Time::MIN);
    }

    pub(super) fn bulk_is_empty(&self) -> bool {
        self.bulk.done.is_empty() && self.bulk.parked.is_empty() && self.bulk.dead.is_empty()
    }

    pub(super) fn unsettled(&self) -> u32 {
        if is_planted(Bug::ForgetUnsettled) {
            return self.claims.len() as u32;
        }
        self.claims.len() as u32 + self.pending + self.committing
    }

    /// Stops delivering; returns how much was settled before.
    pub(super) fn begin_drain(&mut self) -> u64 {
        self.draining = true;
        self.settled
    }

    /// Whether everything claimed is settled and durable.
    pub(super) fn is_drained(&self) -> bool {
        let nothing_pending = self.units.is_empty() && self.bulk_is_empty();
        self.failed.is_some() || (self.claims.is_empty() && nothing_pending && !self.is_committing)
    }

    /// Gives up the remaining claims, uncounted: their positions are not marked, their rows stay.
    pub(super) fn end_drain(&mut self, settled_before: u64) -> (u64, u32) {
        let returned = self.claims.len() as u32;
        let claims = std::mem::take(&mut self.claims);
        self.due_claims = 0;
        for held in claims.into_values() {
            self.give_up_claim(held);
        }
        (self.settled - settled_before, returned)
    }
}

/// Adds a range, joining it to the last one when it follows it.
pub(super) fn push_range(ranges: &mut Vec<(Position, Position)>, from: Position, to: Position) {
    match ranges.last_mut() {
        Some(last) if last.1.next() == from => last.1 = to,
        _ => ranges.push((from, to)),
    }
}
