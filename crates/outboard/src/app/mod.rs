//! Workers, states and a data directory, put together and run.

mod open;
mod past;
mod running;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, Ledger, Log, PortError, fault::Faults, lease::Leases};
use outboard_embedded::{Embedded, OpenError};

pub use self::running::Running;
use crate::{
    command::Command,
    executor::{AppState, Executor, Rebuild, Rule},
    registry::{NameTaken, Register, Registry},
    worker::{Blueprint, Built, Worker},
    workers::{Workers, WorkersOptions},
};

/// How long a stop waits for work that is under way.
pub const DRAIN: Duration = Duration::from_secs(25);

/// An application: workers and states over one log.
///
/// ```no_run
/// # use outboard::{App, AppError, Context, Done, Outcome, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/confirm")]
/// # struct ConfirmOrder { order_id: u64 }
/// # async fn confirm(cx: Context<()>, order: ConfirmOrder) -> Outcome { Ok(Done) }
/// # async fn example() -> Result<(), AppError> {
/// App::open("shop-data").await?
///     .worker(Worker::new("orders", "Confirms orders", ()).on(confirm))
///     .run().await
/// # }
/// ```
pub struct App {
    log: Arc<dyn Log>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    /// What the app itself has opened, and closes.
    store: Option<Embedded>,
    leases: Option<Leases>,
    blueprints: Vec<Box<dyn Blueprint>>,
    rules: Vec<Rule>,
    states: Vec<Arc<dyn Rebuild>>,
    commands: Vec<Register>,
    drain: Duration,
}

/// Why an app did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The code that built the app is wrong; the text says what to change.
    #[error("{0}")]
    Mistake(String),
    /// Two Rust types want the same command name.
    #[error("{0}")]
    NameTaken(#[from] NameTaken),
    /// The data directory cannot be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The storage failed.
    #[error("{0}")]
    Port(#[from] PortError),
}

impl App {
    /// An app on ports that somebody else has opened, and closes after the app has shut down.
    pub fn with_ports(
        log: Arc<dyn Log>,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        faults: Faults,
    ) -> Self {
        Self {
            log,
            ledger,
            clock,
            faults,
            store: None,
            leases: None,
            blueprints: Vec::new(),
            rules: Vec::new(),
            states: Vec::new(),
            commands: Vec::new(),
            drain: DRAIN,
        }
    }

    /// Adds a worker. Two workers of the same name are an error at start.
    #[must_use]
    pub fn worker<S: Send + Sync + 'static>(mut self, worker: Worker<S>) -> Self {
        self.blueprints.push(Box::new(worker));
        self
    }

    /// Adds a state that commands validate against and change. Keep a handle to read it. A state belongs to one app:
    /// the second app that starts with it is refused.
    #[must_use]
    pub fn state<S: Send + Sync + 'static>(mut self, state: &AppState<S>) -> Self {
        self.rules.extend(state.rules().iter().cloned());
        self.states.push(state.erased());
        self
    }

    /// Lets a command be executed that no worker and no state of this app handles (yet).
    #[must_use]
    pub fn command<C: Command>(mut self) -> Self {
        self.commands.push(|registry| registry.add::<C>());
        self
    }

    /// Shares periodic work and locks with other processes through a store: each tick of periodic work is run by one of
    /// them, and [`Context::lock`](crate::Context::lock) is one lock over all. Without it, each process does its own
    /// periodic work, and there are no locks.
    ///
    /// What a dead process held is free after the leases' time; 15 s is a good one.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use std::{sync::Arc, time::Duration};
    /// use outboard::{App, core::lease::Leases};
    /// use outboard_embedded::{Embedded, MemoryDisk, Options};
    /// // Of use is a store that others share, such as one on Redis.
    /// let store = Embedded::memory(&MemoryDisk::new()?, Options::default()).await?;
    /// let leases = Leases::new(Arc::new(store), "shop-1", Duration::from_secs(15));
    /// let running = App::memory().await?.leases(leases).start().await?;
    /// let lock = running.lock("stock").await?;
    /// assert!(lock.is_held());
    /// # running.shutdown().await?;
    /// # Ok::<(), outboard::AppError>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn leases(mut self, leases: Leases) -> Self {
        self.leases = Some(leases);
        self
    }

    /// How long a stop waits for work that is under way (25 s).
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Starts everything: checks the workers, rebuilds the states, then delivers. Needs a tokio runtime.
    ///
    /// Errors: a mistake in how the app was put together, found before anything is touched; the storage failed.
    pub async fn start(self) -> Result<Running, AppError> {
        let registry = self.checked()?;
        let Self { log, ledger, clock, faults, store, leases, blueprints, rules, states, drain, .. } = self;
        let executor = Executor::new(log.clone(), registry, &rules, states)?;
        if !executor.build().await? {
            let text = "a state belongs to another app already, or was given twice: make a new `AppState` for each app";
            return Err(AppError::Mistake(text.to_string()));
        }
        let mut specs = Vec::new();
        for blueprint in blueprints {
            let Built { spec, replayer } = blueprint.build(executor.clone(), ledger.clone(), leases.clone());
            if let Some(replayer) = replayer {
                past::rebuild(&*log, &*ledger, &spec.name, spec.start, replayer).await?;
            }
            specs.push(spec);
        }
        let workers = Workers::new(
            log.clone(),
            ledger.clone(),
            WorkersOptions {
                clock: clock.clone(),
                faults,
                leases: leases.clone(),
                ..WorkersOptions::default()
            },
        );
        let running = Running::new((log, ledger), clock, (store, leases), executor, workers, drain);
        for spec in specs {
            if let Err(error) = running.workers().start(spec).await {
                // What has started already must not outlive the error.
                running.shutdown().await?;
                return Err(error.into());
            }
        }
        Ok(running)
    }

    /// Starts everything and runs until ctrl-c or SIGTERM, then drains and closes.
    pub async fn run(self) -> Result<(), AppError> {
        let running = self.start().await?;
        running::asked_to_stop().await?;
        tracing::info!("stopping: what is under way is drained");
        running.shutdown().await
    }

    /// Everything that can be wrong before anything is touched.
    fn checked(&self) -> Result<Registry, AppError> {
        let mut registry = Registry::default();
        for register in &self.commands {
            register(&mut registry)?;
        }
        for rule in &self.rules {
            (rule.register)(&mut registry)?;
        }
        let mut names = std::collections::BTreeSet::new();
        for blueprint in &self.blueprints {
            blueprint.register(&mut registry)?;
            if !names.insert(blueprint.name().clone()) {
                let text = format!("two workers are called `{}`: give one another name", blueprint.name());
                return Err(AppError::Mistake(text));
            }
        }
        Ok(registry)
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.blueprints.iter().map(|blueprint| blueprint.name()).collect();
        f.debug_struct("App").field("workers", &names).finish_non_exhaustive()
    }
}
