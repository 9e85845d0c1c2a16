//! From a typed worker to what the runtime starts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use outboard_core::{Ledger, Message, TypePattern, TypeSet, lease::Leases, ledger::WorkerName};

use super::{
    Worker,
    typed::{ReplayCall, Route, TypedHandler},
};
use crate::{
    app::AppError,
    context::{Shared, Tick},
    executor::Executor,
    outcome::Failure,
    periodic::Periodic,
    registry::Registry,
    source::Source,
    workers::WorkerSpec,
};

/// The longest worker name, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// A worker whose state's type is known to itself only.
pub(crate) trait Blueprint: Send {
    fn name(&self) -> &WorkerName;

    /// Checks it, and registers what it handles.
    fn register(&self, registry: &mut Registry) -> Result<(), AppError>;

    fn build(self: Box<Self>, executor: Executor, ledger: Arc<dyn Ledger>, leases: Option<Leases>) -> Built;
}

/// A worker that can be started, and how its state is rebuilt before that.
pub(crate) struct Built {
    pub(crate) spec: WorkerSpec,
    pub(crate) replayer: Option<Replayer>,
}

/// Rebuilds a worker's state in memory.
pub(crate) struct Replayer {
    pub(crate) types: TypeSet,
    /// Takes one message; false when it cannot be read.
    pub(crate) each: Box<dyn FnMut(&Message) + Send>,
}

impl<S: Send + Sync + 'static> Blueprint for Worker<S> {
    fn name(&self) -> &WorkerName {
        &self.name
    }

    fn register(&self, registry: &mut Registry) -> Result<(), AppError> {
        let mistake = |text: String| AppError::Mistake(format!("the worker `{}` {text}", self.name));
        check_name(&self.name)?;
        let mut seen = BTreeSet::new();
        for route in &self.routes {
            if !seen.insert(route.name) {
                return Err(mistake(format!("has two handlers for `{}`: remove one", route.name)));
            }
            (route.register)(registry)?;
        }
        let mut replayed = BTreeSet::new();
        for replay in &self.replays {
            if !seen.contains(replay.name) {
                let text = format!("has a replay function for `{}`, but no handler", replay.name);
                return Err(mistake(text));
            }
            if !replayed.insert(replay.name) {
                return Err(mistake(format!("has two replay functions for `{}`: remove one", replay.name)));
            }
        }
        if seen.is_empty() && self.periodic.is_empty() {
            return Err(mistake("has neither handlers nor periodic work".to_string()));
        }
        if self.policy.concurrency == 0 || self.policy.attempts == 0 || self.policy.timeout.is_zero() {
            return Err(mistake("needs a concurrency, attempts and a timeout above zero".to_string()));
        }
        if self.periodic.iter().any(|(every, _)| every.is_zero()) {
            return Err(mistake("has periodic work without an interval".to_string()));
        }
        Ok(())
    }

    fn build(self: Box<Self>, executor: Executor, ledger: Arc<dyn Ledger>, leases: Option<Leases>) -> Built {
        let Self { name, description, state, routes, replays, periodic, policy, start, source } = *self;
        let source = named_by_its_only_command(source, &routes);
        let shared = Arc::new(Shared { state, ledger, executor, leases });
        let types = set_of(routes.iter().map(|route| route.name));
        let replayer = (!replays.is_empty()).then(|| {
            let types = set_of(replays.iter().map(|replay| replay.name));
            let calls = replays.into_iter().map(|replay| (replay.name, replay.call)).collect();
            let each = replayer(name.clone(), shared.clone(), calls);
            Replayer { types, each }
        });
        let periodic = periodic
            .into_iter()
            .enumerate()
            .map(|(index, (every, work))| {
                let (worker, shared) = (name.clone(), shared.clone());
                periodic_work(index, every, move || {
                    work(Tick { worker: worker.clone(), shared: shared.clone() })
                })
            })
            .collect();
        let handler = Arc::new(TypedHandler::new(shared, routes));
        Built {
            spec: WorkerSpec { name, description, types, start, policy, handler, periodic, source },
            replayer,
        }
    }
}

/// A publisher that knows nothing of us names no type: a worker with one command knows which it is.
fn named_by_its_only_command<S>(mut source: Source, routes: &[Route<S>]) -> Source {
    if let (Source::Queue(queue), [only]) = (&mut source, routes)
        && queue.consume.untyped == queue.consume.queue.name
    {
        queue.consume.untyped = only.name.into();
    }
    source
}

fn replayer<S: Send + Sync + 'static>(
    worker: WorkerName,
    shared: Arc<Shared<S>>,
    calls: HashMap<&'static str, ReplayCall<S>>,
) -> Box<dyn FnMut(&Message) + Send> {
    Box::new(move |message| {
        let Some(call) = calls.get(&*message.kind) else { return };
        if let Err(invalid) = call(&shared.state, message) {
            let (id, kind) = (message.id, &message.kind);
            tracing::warn!(%worker, %id, %kind, %invalid, "a message cannot be read and was left out of the replay");
        }
    })
}

fn periodic_work(
    index: usize,
    every: Duration,
    work: impl Fn() -> super::BoxFuture<crate::Outcome> + Send + Sync + 'static,
) -> Periodic {
    let work = Arc::new(work);
    Periodic::new(format!("periodic-{}", index + 1), every, move || {
        let work = work.clone();
        async move {
            match work().await {
                Ok(_) | Err(Failure::Snooze(_)) => Ok(()),
                Err(
                    Failure::Retry { reason, .. }
                    | Failure::Cancel(reason)
                    | Failure::Dead(reason)
                    | Failure::Pause(reason),
                ) => Err(reason.into_owned()),
            }
        }
    })
}

fn set_of(names: impl Iterator<Item = &'static str>) -> TypeSet {
    names.map(|name| TypePattern::Exact(name.into())).collect()
}

fn check_name(name: &str) -> Result<(), AppError> {
    let fits = !name.trim().is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.contains('/')
        && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    let text = format!(
        "`{name}` is not a worker's name: use 1 to {MAX_NAME_BYTES} bytes without `/` and control characters"
    );
    Err(AppError::Mistake(text))
}
