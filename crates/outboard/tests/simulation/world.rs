//! One seed's world: storage that survives, lives of the process that end, a client that tries again.

use std::{sync::Arc, time::Duration};

use outboard::{
    OutagePolicy, Policy,
    core::{
        Clock, Ledger, Log, NewMessage, Time, TypeSet,
        fault::Faults,
        ledger::Start,
        log::{Append, Idempotency},
        time::TokioClock,
    },
    workers::{WorkerSpec, Workers, WorkersOptions},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use tokio::time::Instant;

use crate::{
    check,
    handler::{Conductor, pass},
    journal::{Journal, LifeEnd},
    plan::{ATTEMPTS, Conduct, Ending, Plan, TIMEOUT},
};

/// The two workers: one handles everything, one only some types.
pub(crate) const WORKERS: [(&str, &[&str]); 2] =
    [("main", &["sim/*"]), ("audit", &["sim/counts", "sim/fine"])];

/// When every simulation begins.
pub(crate) const EPOCH: Time = Time::from_millis(1_700_000_000_000);
/// A world that is not idle after so long is stuck.
const STUCK: Duration = Duration::from_secs(4 * 3_600);

pub(crate) struct World {
    plan: Plan,
    disk: MemoryDisk,
    journal: Journal,
    now: Time,
    hits: Vec<(outboard::core::fault::Point, u64)>,
}

/// One life of the process.
struct Life {
    storage: Embedded,
    workers: Workers,
    clock: Arc<TokioClock>,
    faults: Faults,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            disk: MemoryDisk::new().expect("memory can be opened"),
            journal: Journal::default(),
            now: EPOCH,
            hits: Vec::new(),
        }
    }

    /// Every life, the last one until nothing is left to do.
    pub(crate) fn run(&mut self) {
        let endings = self.plan.endings.clone();
        for (life, ending) in endings.iter().enumerate() {
            self.live(life, Some(*ending));
        }
        self.live(endings.len(), None);
    }

    /// How often each point was reached in the lives that crash at one.
    pub(crate) fn hits(&self) -> &[(outboard::core::fault::Point, u64)] {
        &self.hits
    }

    /// What was broken, and the journal.
    pub(crate) fn finish(self) -> (Vec<String>, Journal) {
        let mut broken = self.journal.all_broken();
        broken.extend(runtime().block_on(check::check(&self.plan, &self.disk, &self.journal)));
        (broken, self.journal)
    }

    fn live(&mut self, life: usize, ending: Option<Ending>) {
        let faults = match ending {
            Some(Ending::CrashAt(point, nth)) => Faults::crash_at(point, nth),
            _ => Faults::counting(),
        };
        let runtime = runtime();
        let end = runtime.block_on(async {
            let clock = Arc::new(TokioClock::starting_at(self.now));
            let end = tokio::select! {
                biased;
                () = faults.crashed() => LifeEnd::Crashed,
                end = self.live_until(life, ending, clock.clone(), faults.clone()) => end,
            };
            self.now = clock.now();
            end
        });
        // Every task of this life ends here, wherever it stands; only the disk stays.
        drop(runtime);
        self.hits.extend(faults.hits());
        self.journal.end_life(end);
        self.journal.note(format!("life {life} ended at {}: {end:?} ({ending:?})", self.now));
    }

    async fn live_until(
        &self,
        life: usize,
        ending: Option<Ending>,
        clock: Arc<TokioClock>,
        faults: Faults,
    ) -> LifeEnd {
        let begun = self.begin(life, clock, faults.clone()).await;
        let Ok(life) = begun else {
            if !faults.is_down() {
                self.journal.broken(format!("life {life} did not begin: {:?}", begun.err()));
            }
            return LifeEnd::Crashed;
        };
        let client = self.append_everything(&life);
        match ending {
            Some(Ending::CrashAfter(after)) => {
                tokio::select! { () = client => pass(after).await, () = pass(after) => {} }
                faults.crash();
                LifeEnd::Crashed
            }
            Some(Ending::Drain(after, deadline)) => {
                tokio::select! { () = client => pass(after).await, () = pass(after) => {} }
                self.drain(&life, deadline).await;
                LifeEnd::Drained
            }
            Some(Ending::CrashAt(..)) | None => {
                client.await;
                self.until_idle(&life).await;
                self.drain(&life, Duration::from_secs(5)).await;
                LifeEnd::Idle
            }
        }
    }

    async fn begin(&self, number: usize, clock: Arc<TokioClock>, faults: Faults) -> Result<Life, String> {
        let options = Options { clock: clock.clone(), faults: faults.clone(), ..Options::default() };
        let storage = Embedded::memory(&self.disk, options).await.map_err(|error| error.to_string())?;
        let (log, ledger): (Arc<dyn Log>, Arc<dyn Ledger>) =
            (Arc::new(storage.clone()), Arc::new(storage.clone()));
        let workers_options = WorkersOptions {
            clock: clock.clone(),
            faults: faults.clone(),
            seed: self.plan.seed,
            leases: None,
        };
        let workers = Workers::new(log, ledger.clone(), workers_options);
        for (name, types) in WORKERS {
            let conductor = Conductor {
                worker: name,
                journal: self.journal.clone(),
                ledger: ledger.clone(),
                clock: clock.clone(),
                faults: faults.clone(),
                life: number,
                sick: self
                    .plan
                    .sick
                    .iter()
                    .map(|&(start, length)| (EPOCH + start, EPOCH + start + length))
                    .collect(),
            };
            let types: TypeSet = types.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
            let spec = WorkerSpec {
                name: name.into(),
                description: "simulated".into(),
                types,
                start: Start::Beginning,
                policy: self.policy(),
                handler: Arc::new(conductor),
                periodic: Vec::new(),
                source: outboard::Source::Log,
            };
            workers.start(spec).await.map_err(|error| error.to_string())?;
        }
        Ok(Life { storage, workers, clock, faults })
    }

    fn policy(&self) -> Policy {
        Policy {
            concurrency: self.plan.concurrency,
            timeout: TIMEOUT,
            attempts: ATTEMPTS,
            outage: Some(OutagePolicy::default()),
            ..Policy::default()
        }
    }

    /// The client: each message until it is acknowledged, in this life or a later one, under its own key.
    async fn append_everything(&self, life: &Life) {
        let mut number = 0;
        for (index, batch) in self.plan.batches.iter().enumerate() {
            let first = number;
            number += batch.len() as u64;
            if self.journal.accepted().contains_key(&first) {
                continue;
            }
            let appended = life.storage.append(append_of(index, first, batch)).await;
            if life.faults.is_down() {
                return;
            }
            match appended {
                Ok(appended) => {
                    for (offset, position) in (appended.first.0..=appended.last().0).enumerate() {
                        self.journal.accept(first + offset as u64, outboard::core::Position(position));
                    }
                }
                Err(error) => self.journal.broken(format!("an append failed without a fault: {error}")),
            }
            pass(Duration::from_millis(150)).await;
        }
    }

    async fn until_idle(&self, life: &Life) {
        let begun = Instant::now();
        while !check::is_idle(&life.storage).await {
            if begun.elapsed() > STUCK {
                self.journal.broken(format!("promise 4: stuck at {}", life.clock.now()));
                return;
            }
            if let Some(unready) = check::unready(&life.workers) {
                self.journal.broken(format!("promise 5: unready without a reason: {unready}"));
                return;
            }
            pass(Duration::from_secs(1)).await;
        }
    }

    async fn drain(&self, life: &Life, deadline: Duration) {
        let begun = Instant::now();
        life.workers.drain(begun + deadline).await;
        if begun.elapsed() > deadline + Duration::from_secs(1) {
            self.journal.broken(format!("promise 7: the drain took {:?} of {deadline:?}", begun.elapsed()));
        }
        life.storage.close().await;
    }
}

fn append_of(index: usize, first: u64, batch: &[(Conduct, Option<Duration>)]) -> Append {
    let messages = batch.iter().zip(first..).map(|((conduct, delay), number)| NewMessage {
        run_at: delay.map(|delay| EPOCH + delay),
        ..NewMessage::new(conduct.kind(), format!("{{\"n\":{number}}}"))
    });
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(index as u64).to_le_bytes());
    let idempotency = Idempotency { key, body: key, keep: Duration::from_secs(86_400) };
    Append { messages: messages.collect(), idempotency: Some(idempotency) }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be built")
}
