//! Settlements: from the runtime's word to units, and back from the ledger.

use std::sync::Arc;

use super::state::{Held, State, push_range};
use crate::{
    consumer::{Effects, Settlement, Tag, Ticket, Verdict, bytes_of},
    error::{Kind, PortError},
    ledger::{NewDead, Parked, ParkedChange, ParkedState, Unit, UnitResult},
    message::Position,
    planted::{Bug, is_planted},
    time::Time,
};

/// A commit takes no further unit with which it would have more bytes than this: one worker's large effects must not
/// hold up everybody else's commits for longer than this takes to write. The first one always goes.
pub(super) const COMMIT_BYTES: usize = 2 << 20;

/// A unit on its way, with what must happen when it is back.
pub(super) struct Sent {
    pub(super) unit: Unit,
    pub(super) after: After,
    /// The last ticket given before it.
    pub(super) earlier: Ticket,
}

pub(super) enum After {
    Nothing,
    /// A settlement with effects: in conflict, the message is tried again; refused, it is given up.
    Settled(Held),
    /// A suspect's running row: once durable, the suspect is delivered.
    Running(Held),
}

impl Sent {
    /// What its effects add to a commit.
    pub(super) fn bytes(&self) -> usize {
        bytes_of(&self.unit.writes, &self.unit.appends)
    }

    /// Whether it makes a suspect's running row durable.
    pub(super) fn is_suspect_row(&self) -> bool {
        matches!(self.after, After::Running(_))
    }
}

impl After {
    /// Takes back counted attempts of its message.
    fn give_back(&mut self, position: Position, count: u32) {
        if let Self::Settled(held) | Self::Running(held) = self
            && held.position() == position
        {
            held.attempts = held.attempts.saturating_sub(count);
        }
    }
}

impl State {
    /// Records what became of a delivery.
    pub(super) fn settle(&mut self, settlement: Settlement, now: Time) -> Ticket {
        let position = Position(settlement.tag.number);
        if settlement.tag.epoch != self.epoch {
            return self.ticket;
        }
        let Some(held) = self.unclaim(position) else { return self.ticket };
        self.last_progress = now;
        if settlement.verdict == Verdict::Return {
            self.give_up_claim(held);
            return self.ticket;
        }
        self.settled += 1;
        if self.suspect_running == Some(position) {
            self.suspect_running = None;
        }
        match settlement.verdict {
            Verdict::Done | Verdict::Cancel { .. } => {
                self.done(held, settlement.effects.filter(|effects| !effects.is_empty()));
            }
            Verdict::RetryAfter { delay, reason } => {
                let attempts = held.attempts + 1;
                self.park(&held, ParkedState::Retry, now + delay, attempts, reason);
            }
            Verdict::Snooze { delay } => {
                let attempts = held.attempts;
                self.park(&held, ParkedState::Snoozed, now + delay, attempts, "".into());
            }
            Verdict::Dead { reason } => {
                self.bulk.dead.push(NewDead { position, reason, attempts: held.attempts + 1 });
                self.done(held, None);
            }
            Verdict::Return => unreachable!("returned above"),
        }
        self.count_settlement();
        self.ticket
    }

    pub(super) fn count_settlement(&mut self) {
        self.ticket += 1;
        self.pending += 1;
    }

    /// Puts a returned message back where it is delivered from next; a suspect waits to run alone again.
    pub(super) fn give_up_claim(&mut self, held: Held) {
        self.set_aside(&held);
        if held.crashes.is_some() {
            self.suspects.push_front(held);
        } else {
            self.returned.push_back(held);
        }
    }

    /// The runtime keeps a delivery without running it.
    pub(super) fn hold(&mut self, tag: Tag) {
        let position = Position(tag.number);
        if tag.epoch != self.epoch || self.suspect_running != Some(position) {
            return;
        }
        if let Some(held) = self.claims.get(&position).cloned() {
            self.set_aside(&held);
        }
    }

    /// A suspect keeps its crashes, but what does not run must not be charged for one: its row says so, and the next
    /// suspect may run.
    fn set_aside(&mut self, held: &Held) {
        if self.suspect_running == Some(held.position()) {
            self.suspect_running = None;
            self.uncharge(held);
        }
    }

    fn uncharge(&mut self, held: &Held) {
        self.bulk.parked.push(ParkedChange::Put(Parked {
            position: held.position(),
            state: ParkedState::Straggler,
            due: Time::MAX,
            attempts: held.attempts,
            crashes: held.crashes.unwrap_or(0),
            reason: "".into(),
        }));
    }

    fn done(&mut self, held: Held, effects: Option<Box<Effects>>) {
        let Some(effects) = effects else {
            mark_done(&mut self.bulk, &held);
            return;
        };
        let mut unit = Unit::of(self.options.worker.clone(), self.epoch);
        if is_planted(Bug::EffectsApart) {
            let apart = Unit { writes: effects.writes, appends: effects.appends, ..unit };
            self.send(apart, After::Nothing);
            return self.done(held, None);
        }
        mark_done(&mut unit, &held);
        let Effects { guards, writes, appends } = *effects;
        unit.guards = guards;
        unit.writes = writes;
        unit.appends = appends;
        self.send(unit, After::Settled(held));
    }

    /// Puts a unit behind the others.
    pub(super) fn send(&mut self, unit: Unit, after: After) {
        self.units.push(Sent { unit, after, earlier: self.ticket });
    }

    pub(super) fn park(
        &mut self,
        held: &Held,
        state: ParkedState,
        due: Time,
        attempts: u32,
        reason: Arc<str>,
    ) {
        let position = held.position();
        // A row is in hand until its change is durable: a look at what is due could find the old one.
        if !held.parked {
            self.parked += 1;
            push_range(&mut self.bulk.done, position, position);
        }
        self.bulk.parked.push(ParkedChange::Put(Parked {
            position,
            state,
            due,
            attempts,
            crashes: 0,
            reason,
        }));
    }

    /// A row is not in hand any more; an answer of the ledger that is under way may still show it as it was.
    fn let_go(&mut self, position: Position) {
        self.parked_in_hand.remove(&position);
        if let Some(asked) = &mut self.asked {
            asked.changed.insert(position);
        }
    }

    /// Takes back counted attempts, in hand and in the table.
    pub(super) fn give_back(&mut self, attempts: Vec<(Tag, u32)>) {
        for (tag, count) in attempts {
            let position = Position(tag.number);
            let mut in_hand = self.due.iter_mut().chain(&mut self.returned).chain(&mut self.suspects);
            let in_hand = in_hand.find(|held| held.position() == position);
            if let Some(held) = in_hand.or_else(|| self.claims.get_mut(&position)) {
                held.attempts = held.attempts.saturating_sub(count);
            }
            if self.is_committing {
                self.given_back.push((position, count));
            }
            for Sent { after, .. } in &mut self.units {
                after.give_back(position, count);
            }
            self.bulk.parked.push(ParkedChange::GiveBack(position, count));
        }
    }

    /// What is to be committed now, as much as one commit takes; nothing while a commit runs or when there is nothing.
    pub(super) fn take_pending(&mut self) -> Option<Vec<Sent>> {
        if self.is_committing || self.failed.is_some() {
            return None;
        }
        let mut sent = Vec::with_capacity(self.units.len() + 1);
        if !self.bulk_is_empty() {
            let empty = Unit::of(self.options.worker.clone(), self.epoch);
            let unit = std::mem::replace(&mut self.bulk, empty);
            sent.push(Sent { unit, after: After::Nothing, earlier: self.ticket });
            self.skipped = 0;
        }
        let going = self.units_of_one_commit();
        sent.extend(self.units.drain(..going));
        if sent.is_empty() {
            return None;
        }
        let staying = self.units.iter().filter(|sent| matches!(sent.after, After::Settled(_))).count() as u32;
        self.committing = std::mem::replace(&mut self.pending, staying) - staying;
        let ticket = self.units.first().map_or(self.ticket, |sent| sent.earlier);
        self.resolved_ticket = std::mem::replace(&mut self.sent_ticket, ticket);
        self.is_committing = true;
        Some(sent)
    }

    /// How many of the units go together, from the first one on.
    fn units_of_one_commit(&self) -> usize {
        let mut bytes = 0_usize;
        let fits = |sent: &&Sent| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(sent.bytes());
            is_first || bytes <= COMMIT_BYTES || is_planted(Bug::CommitUnbounded)
        };
        self.units.iter().take_while(fits).count()
    }

    /// Takes over what became of the units. Returns the ticket up to which everything is durable.
    pub(super) fn committed(&mut self, sent: Vec<Sent>, results: Vec<UnitResult>, now: Time) -> Ticket {
        self.is_committing = false;
        self.committing = 0;
        self.last_progress = now;
        let mut durable = self.sent_ticket;
        let given_back = std::mem::take(&mut self.given_back);
        for (Sent { unit, mut after, .. }, result) in sent.into_iter().zip(results) {
            for &(position, count) in &given_back {
                after.give_back(position, count);
            }
            match (result, after) {
                (UnitResult::Applied(_), after) => self.applied(&unit, after),
                (UnitResult::Conflict, After::Settled(held)) => self.conflicted(held),
                (UnitResult::Refused(reason), After::Settled(held)) => {
                    self.refused(held, reason);
                    // Its dead letter is in the next commit.
                    durable = self.resolved_ticket;
                }
                (UnitResult::Fenced, _) => {
                    let text = format!("another holder has taken over worker `{}`", self.options.worker);
                    self.failed = Some(PortError::new(Kind::Fenced, text));
                }
                // It has no condition; going on would lose its marks.
                (result @ (UnitResult::Conflict | UnitResult::Refused(_) | UnitResult::Repeated), _) => {
                    let worker = &self.options.worker;
                    let text =
                        format!("the ledger did not take the progress of worker `{worker}`: {result:?}");
                    self.failed = Some(PortError::new(Kind::Corrupt, text));
                }
            }
        }
        durable
    }

    /// The attempt did not happen; a suspect runs alone again.
    fn conflicted(&mut self, held: Held) {
        if held.crashes.is_some() {
            self.uncharge(&held);
            self.suspects.push_front(held);
        } else {
            self.returned.push_back(held);
        }
    }

    /// What the handler wants written never can be: the message is given up, and only that is committed.
    fn refused(&mut self, held: Held, reason: Arc<str>) {
        let (position, attempts) = (held.position(), held.attempts + 1);
        tracing::error!(worker = %self.options.worker, message_id = %position, "{reason}; it is a dead letter now");
        self.bulk.dead.push(NewDead { position, reason, attempts });
        mark_done(&mut self.bulk, &held);
        self.pending += 1;
    }

    fn applied(&mut self, unit: &Unit, after: After) {
        for &(from, to) in &unit.done {
            let marked = self.cursor.mark(from, to);
            debug_assert!(marked, "nothing is read beyond the window");
        }
        for change in &unit.parked {
            match change {
                ParkedChange::Put(row) if row.due < Time::MAX => {
                    self.let_go(row.position);
                    self.row_due(row.due);
                }
                // A row that runs stays in hand.
                ParkedChange::Put(_) => {}
                ParkedChange::GiveBack(..) => self.row_due(Time::MIN),
                ParkedChange::Remove(position) => {
                    self.parked = self.parked.saturating_sub(1);
                    self.let_go(*position);
                }
            }
        }
        if let After::Running(held) = after {
            self.returned.push_front(held);
        }
    }
}

/// Marks a message as done, where it came from.
fn mark_done(unit: &mut Unit, held: &Held) {
    if held.parked {
        unit.parked.push(ParkedChange::Remove(held.position()));
    } else {
        push_range(&mut unit.done, held.position(), held.position());
    }
}
