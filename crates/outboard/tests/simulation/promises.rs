//! For each promise a planted bug, and the check that catches it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use outboard::{
    Policy, WorkerSpec, WorkerState, Workers, WorkersOptions,
    core::{
        NewMessage, TypeSet,
        conformance::{self, Backend, Ports},
        fault::Faults,
        ledger::{OpenWorker, Start},
        planted::{Bug, plant},
        time::TokioClock,
    },
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::{
    handler::{Conductor, pass},
    journal::Journal,
    plan::Plan,
    world::{EPOCH, World, runtime},
};

/// Runs plans with the bug planted until a check that speaks of `promise` fails.
fn is_caught_in(plans: impl Iterator<Item = Plan>, bug: Bug, promise: &str) {
    let _planted = plant(bug);
    for plan in plans {
        let seed = plan.seed;
        let mut world = World::new(plan);
        world.run();
        let (broken, _) = world.finish();
        if let Some(broken) = broken.iter().find(|broken| broken.starts_with(promise)) {
            println!("{bug:?} is caught by seed {seed}: {broken}");
            return;
        }
    }
    panic!("{bug:?} broke nothing");
}

/// Memory as a backend of the conformance suite.
struct Memory(MemoryDisk);

impl Backend for Memory {
    fn open(&self) -> Pin<Box<dyn Future<Output = Ports> + Send + '_>> {
        Box::pin(async {
            let clock = Arc::new(TokioClock::starting_at(EPOCH));
            let options = Options { clock: clock.clone(), ..Options::default() };
            let storage = Embedded::memory(&self.0, options).await.expect("memory opens");
            Ports { log: Arc::new(storage.clone()), ledger: Arc::new(storage), clock }
        })
    }

    fn close(&self, _ports: Ports) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

type Case = for<'a> fn(&'a dyn Backend) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs a case of the conformance suite with the bug planted: it must fail.
fn fails(bug: Bug, case: Case) {
    let run = || {
        let memory = Memory(MemoryDisk::new().expect("memory can be opened"));
        catch_unwind(AssertUnwindSafe(|| runtime().block_on(case(&memory))))
    };
    assert!(run().is_ok(), "the case must hold without the bug");
    let _planted = plant(bug);
    assert!(run().is_err(), "{bug:?} passes the case");
}

#[test]
fn a_long_outage_keeps_every_promise() {
    let mut world = World::new(Plan::outage());
    world.run();
    let (broken, journal) = world.finish();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let probes =
        journal.runs().iter().filter(|run| run.worker == "main" && run.began < EPOCH + Plan::SICK).count();
    assert!(
        (610..=720).contains(&probes),
        "at least one probe a second, and what opened the outage: {probes}"
    );
}

#[test]
fn a_flapping_target_buries_nothing() {
    let mut world = World::new(Plan::flapping());
    world.run();
    let (broken, _) = world.finish();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn forgetting_what_is_unsettled_is_caught() {
    fails(Bug::ForgetUnsettled, |backend| {
        Box::pin(conformance::consumer::prefetch_bounds_what_is_unsettled(backend))
    });
}

#[test]
fn parking_without_a_limit_is_caught() {
    fails(Bug::ParkedUnbounded, |backend| {
        Box::pin(conformance::consumer::a_full_table_of_parked_messages_stops_claiming(backend))
    });
}

#[test]
fn suspects_that_run_together_are_caught() {
    fails(Bug::SuspectsRunTogether, |backend| {
        Box::pin(conformance::poison::a_crash_repeats_what_was_claimed_alone(backend))
    });
}

#[test]
fn due_messages_without_a_share_are_caught() {
    fails(Bug::DueWithoutShare, |backend| {
        Box::pin(conformance::sharing::due_messages_keep_to_their_share(backend))
    });
}

#[test]
fn a_commit_without_a_limit_is_caught() {
    fails(Bug::CommitUnbounded, |backend| {
        Box::pin(conformance::effects::large_effects_commit_apart(backend))
    });
}

/// Whether the process says that it is not ready once a worker has failed for good: here, fenced by another holder.
async fn a_failed_worker_makes_unready() -> bool {
    let memory = Memory(MemoryDisk::new().expect("memory can be opened"));
    let Ports { log, ledger, clock } = memory.open().await;
    let options = WorkersOptions { clock: clock.clone(), ..WorkersOptions::default() };
    let workers = Workers::new(log.clone(), ledger.clone(), options);
    let conductor = Conductor {
        worker: "main",
        journal: Journal::default(),
        ledger: ledger.clone(),
        clock,
        faults: Faults::none(),
        life: 0,
        sick: Vec::new(),
    };
    let spec = WorkerSpec {
        name: "main".into(),
        description: String::new(),
        types: TypeSet::all(),
        start: Start::Beginning,
        policy: Policy::default(),
        handler: Arc::new(conductor),
        periodic: Vec::new(),
        source: outboard::Source::Log,
    };
    let handle = workers.start(spec).await.expect("the worker starts");
    let other = OpenWorker { worker: "main".into(), start: Start::Beginning, claims: 1 };
    ledger.open(other).await.expect("another holder takes over");
    log.append(vec![NewMessage::new("sim/fine", "{}")].into()).await.expect("appends");
    while !matches!(handle.state(), WorkerState::Failed { .. }) {
        pass(Duration::from_millis(1)).await;
    }
    !workers.health().health.is_ready()
}

#[test]
fn a_failed_worker_that_leaves_the_process_ready_is_caught() {
    assert!(runtime().block_on(a_failed_worker_makes_unready()), "promise 5");
    let _planted = plant(Bug::FailedWorkerReady);
    assert!(!runtime().block_on(a_failed_worker_makes_unready()), "the check sees the bug");
}

macro_rules! caught {
    ($($name:ident: $bug:ident breaks $promise:literal in $plans:expr,)*) => {
        $(#[test] fn $name() { is_caught_in($plans, Bug::$bug, $promise); })*
    };
}

fn seeds() -> impl Iterator<Item = Plan> {
    (0..200).map(Plan::of)
}

fn outage() -> impl Iterator<Item = Plan> {
    std::iter::once(Plan::outage())
}

caught! {
    acknowledging_before_the_commit_is_caught: AcknowledgeBeforeCommit breaks "promise 1" in seeds(),
    done_when_claimed_is_caught: DoneWhenClaimed breaks "promise 2" in seeds(),
    effects_apart_from_the_done_mark_are_caught: EffectsApart breaks "exactly-once" in seeds(),
    a_panic_that_ends_the_worker_is_caught: PanicEndsWorker breaks "promise 4" in seeds(),
    retrying_at_once_is_caught: RetryAtOnce breaks "promise 4" in seeds(),
    a_sick_target_that_makes_unready_is_caught: SickTargetUnready breaks "promise 5" in outage(),
    a_drain_that_counts_attempts_is_caught: DrainCountsAttempts breaks "promise 7" in seeds(),
    an_outage_that_parks_is_caught: OutageParks breaks "promise 9" in outage(),
    an_outage_that_keeps_attempts_is_caught: OutageKeepsAttempts breaks "promise 9" in outage(),
}
