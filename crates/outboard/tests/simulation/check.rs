//! What must be true at the end of every seed.

use std::collections::BTreeMap;

use outboard::{
    core::{
        Ledger, Log, Message, Position, TypeSet,
        fault::Faults,
        ledger::{DeadLetter, DeadQuery},
        log::Limit,
    },
    workers::Workers,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::{
    handler::{COUNT, EFFECT},
    journal::{End, Journal, LifeEnd, Run},
    plan::{ATTEMPTS, Conduct, Plan, SHORTEST_WAIT},
    world::WORKERS,
};

/// Everything the checks look at.
struct Facts<'a> {
    plan: &'a Plan,
    journal: &'a Journal,
    storage: Embedded,
    messages: Vec<std::sync::Arc<Message>>,
    runs: BTreeMap<(String, Position), Vec<Run>>,
    dead: Vec<DeadLetter>,
    broken: Vec<String>,
}

/// The promises that were broken, in words.
pub(crate) async fn check(plan: &Plan, disk: &MemoryDisk, journal: &Journal) -> Vec<String> {
    let options = Options { faults: Faults::none(), ..Options::default() };
    let storage = match Embedded::memory(disk, options).await {
        Ok(storage) => storage,
        Err(error) => return vec![format!("the storage does not open any more: {error}")],
    };
    let limit = Limit { messages: 100_000, bytes: usize::MAX, scan: 100_000 };
    let messages = match storage.read(Position::START, TypeSet::all(), limit).await {
        Ok(page) => page.messages,
        Err(error) => return vec![format!("the log cannot be read any more: {error}")],
    };
    let mut runs: BTreeMap<_, Vec<Run>> = BTreeMap::new();
    for run in journal.runs() {
        runs.entry((run.worker.clone(), run.position)).or_default().push(run);
    }
    let query = DeadQuery { max: 100_000, ..DeadQuery::default() };
    let dead = storage.dead(query).await.map(|page| page.letters).unwrap_or_default();
    let mut facts = Facts { plan, journal, storage, messages, runs, dead, broken: Vec::new() };
    facts.accepted_is_durable_once();
    facts.everything_was_handled();
    facts.repeats_are_bounded();
    facts.retries_wait_and_count();
    facts.nothing_is_left().await;
    facts.effects_happened_once().await;
    facts.broken
}

impl Facts<'_> {
    fn accepted_is_durable_once(&mut self) {
        let accepted = self.journal.accepted();
        for (number, position) in &accepted {
            let payload = format!("{{\"n\":{number}}}");
            let copies: Vec<_> = self.messages.iter().filter(|message| message.payload == payload).collect();
            let ids: Vec<u64> = copies.iter().map(|message| message.id.0).collect();
            if ids != [position.0] {
                self.broken
                    .push(format!("promise 1: message {number} was accepted at {position}, is at {ids:?}"));
            }
        }
        let planned = self.plan.batches.iter().map(Vec::len).sum::<usize>();
        if accepted.len() != planned {
            self.broken.push(format!("promise 1: {} of {planned} messages were accepted", accepted.len()));
        }
    }

    /// The messages of the simulation that a worker handles.
    fn handled_by(&self, types: &[&str]) -> Vec<(Position, Conduct)> {
        let types: TypeSet = types.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
        let messages = self.messages.iter().filter(|message| types.contains(&message.kind));
        messages.filter_map(|message| Some((message.id, Conduct::of(&message.kind)?))).collect()
    }

    fn runs_of(&self, worker: &str, position: Position) -> &[Run] {
        self.runs.get(&(worker.to_owned(), position)).map_or(&[], Vec::as_slice)
    }

    fn everything_was_handled(&mut self) {
        for (worker, types) in WORKERS {
            for (position, conduct) in self.handled_by(types) {
                let done = self.runs_of(worker, position).iter().any(|run| run.end == Some(End::Done));
                let letters: Vec<_> = self
                    .dead
                    .iter()
                    .filter(|letter| letter.message_id == position && &*letter.worker == worker)
                    .collect();
                let poison = letters.iter().any(|letter| letter.reason.contains("crashed"));
                let expected = if poison {
                    self.journal.crashes() >= 3
                } else {
                    done != conduct.dies() && letters.len() == usize::from(conduct.dies())
                };
                if !expected {
                    self.broken.push(format!(
                        "promise 2: {worker} and {position} ({conduct:?}): done {done}, dead letters {letters:?}"
                    ));
                }
            }
        }
    }

    fn repeats_are_bounded(&mut self) {
        let bound = self.journal.crashes() * 2 * u64::from(self.plan.concurrency);
        for (worker, types) in WORKERS {
            let mut repeats = Vec::new();
            for (position, conduct) in self.handled_by(types) {
                // A conflict runs again by right: its effects are checked instead.
                if conduct != Conduct::Counts {
                    let runs = self.runs_of(worker, position).iter();
                    let done = runs.filter(|run| run.end == Some(End::Done));
                    repeats.extend(done.skip(1).map(|run| (position.0, conduct, run.life)));
                }
            }
            if repeats.len() as u64 > bound {
                self.broken.push(format!("promise 2: {worker} repeated {repeats:?}, the bound is {bound}"));
            }
        }
    }

    fn retries_wait_and_count(&mut self) {
        let mut broken = Vec::new();
        for ((worker, position), runs) in &self.runs {
            for pair in runs.windows(2) {
                let waited = pair[1].began.since(pair[0].began);
                if pair[0].end == Some(End::Failed) && pair[0].life == pair[1].life && waited < SHORTEST_WAIT
                {
                    broken.push(format!("promise 4: {worker} tried {position} again after {waited:?}"));
                }
            }
            let highest = runs.iter().map(|run| run.attempt).max().unwrap_or(0);
            let message = &self.messages[position.0 as usize - 1];
            let is_early = |run: &&Run| message.run_at.is_some_and(|run_at| run.began < run_at);
            if let Some(run) = runs.iter().find(is_early) {
                broken.push(format!(
                    "promise 4: {worker} ran {position} before its time, in life {}",
                    run.life
                ));
            }
            let conduct = Conduct::of(&message.kind);
            // What panics or hangs is not seen to end; what else was not seen to end was given back.
            let unseen = matches!(conduct, Some(Conduct::Panics | Conduct::Hangs));
            let failed =
                runs.iter().filter(|run| run.end == Some(End::Failed) || (unseen && run.end.is_none()));
            let (failed, refused) = (failed.count() as u32, self.plan.refusals);
            if highest > ATTEMPTS || highest > 1 + failed + refused {
                let promise = if self.plan.sick.is_empty() { 7 } else { 9 };
                broken.push(format!(
                    "promise {promise}: {worker} counted attempt {highest} of {position} after {failed} failures"
                ));
            }
        }
        self.broken.append(&mut broken);
    }

    async fn nothing_is_left(&mut self) {
        let tip = *self.storage.tip().borrow();
        for row in self.storage.workers().await.unwrap_or_default() {
            if row.low != tip || row.parked != 0 {
                self.broken.push(format!("promise 4: left behind: {row:?} at tip {tip}"));
            }
        }
        if self.journal.lives().last() != Some(&LifeEnd::Idle) {
            self.broken.push("promise 4: the last life did not become idle".to_owned());
        }
    }

    async fn effects_happened_once(&mut self) {
        for (worker, types) in WORKERS {
            let mut expected = 0_usize;
            for (position, conduct) in self.handled_by(types) {
                let buried =
                    self.dead.iter().any(|letter| letter.message_id == position && &*letter.worker == worker);
                if conduct != Conduct::Counts || buried {
                    continue;
                }
                expected += 1;
                let source = format!("{{\"worker\":\"{worker}\",\"of\":{position}}}");
                let appended =
                    self.messages.iter().filter(|m| &*m.kind == EFFECT && m.payload == source).count();
                if appended != 1 {
                    self.broken
                        .push(format!("exactly-once effect: {worker} and {position} appended {appended}"));
                }
            }
            let keys = self.storage.keys(worker.into(), vec![COUNT.into()]).await.unwrap_or_default();
            let counted = keys.into_iter().next().and_then(|key| key.value);
            let counted =
                counted.map_or_else(|| "0".to_owned(), |value| String::from_utf8_lossy(&value).into_owned());
            if counted != expected.to_string() {
                self.broken.push(format!("exactly-once effect: {worker} counted {counted} of {expected}"));
            }
        }
    }
}

/// Whether every worker has done everything.
pub(crate) async fn is_idle(storage: &Embedded) -> bool {
    let tip = *storage.tip().borrow();
    let rows = storage.workers().await.unwrap_or_default();
    rows.iter().all(|row| row.low == tip && row.parked == 0)
}

/// Why the process says that it is not ready, if it does: nothing in a simulation is a reason.
pub(crate) fn unready(workers: &Workers) -> Option<String> {
    let health = workers.health().health;
    (!health.is_ready()).then(|| format!("{health:?}"))
}
