//! Validate, append, apply: the one way in for commands.

mod app_state;
mod gate;
#[cfg(test)]
mod tests;

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use outboard_core::{
    Kind, Log, NewMessage, PortError, Position, Time,
    log::{Append, Appended},
};

pub use self::app_state::AppState;
pub(crate) use self::app_state::{Rebuild, Rule};
use self::{
    app_state::Route,
    gate::{Gate, Turn, poll_once},
};
use crate::{
    command::{self, Command},
    registry::{NameTaken, Registry, Rejected},
    validate::Invalid,
};

/// Takes commands: validates, appends, applies, and answers once the command is durable. Cheap to clone.
///
/// Commands that touch an [`AppState`] go one at a time through validation, enqueueing and application, so no two of
/// them validate against the same state; their fsyncs are shared. Other commands only pass their own rules.
#[derive(Clone)]
pub struct Executor(Arc<Inner>);

struct Inner {
    log: Arc<dyn Log>,
    registry: Registry,
    gate: Arc<Gate>,
}

/// Why a command was not executed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecuteError {
    /// Neither a worker nor a state knows the command; nothing was appended.
    #[error("the command `{name}` is not registered: no worker and no state of this app handles it")]
    NotRegistered {
        /// The name that was given.
        name: String,
        /// The names that are known.
        known: Vec<&'static str>,
    },
    /// It breaks rules; nothing was appended.
    #[error("{0}")]
    Invalid(Invalid),
    /// The log did not take it, or, with [`Kind::Unknown`], may have.
    #[error("{0}")]
    Port(PortError),
}

impl From<PortError> for ExecuteError {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<Rejected> for ExecuteError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Unknown { kind, known } => Self::NotRegistered { name: kind, known },
            Rejected::Invalid(invalid) => Self::Invalid(invalid),
        }
    }
}

impl Executor {
    /// An executor over a log; needs a tokio runtime. The states are built by the first turn.
    pub(crate) fn new(
        log: Arc<dyn Log>,
        mut registry: Registry,
        rules: &[Rule],
        states: Vec<Arc<dyn Rebuild>>,
    ) -> Result<Self, NameTaken> {
        let mut routes: BTreeMap<&'static str, Route> = BTreeMap::new();
        for rule in rules {
            (rule.register)(&mut registry)?;
            routes.entry(rule.name).or_insert_with(|| Route::of(rule)).add(&rule.act);
        }
        let gate = Gate::new(log.clone(), states, routes);
        Ok(Self(Arc::new(Inner { log, registry, gate })))
    }

    /// Ties the states to this executor and builds them from the log. False, and nothing
    /// built, when one has an executor already.
    pub(crate) async fn build(&self) -> Result<bool, PortError> {
        let gate = &self.0.gate;
        if !gate.states().iter().all(|state| state.attach(Arc::downgrade(gate))) {
            return Ok(false);
        }
        drop(gate.enter().await?);
        Ok(true)
    }

    /// The commands of the app.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Executes a command, and answers with its position once it is durable. Dropping the future does not take the
    /// command back.
    pub async fn execute<C: Command>(&self, command: C) -> Result<Position, ExecuteError> {
        self.run(command, None).await
    }

    /// As [`Executor::execute`], for workers to handle at `run_at` and not before. States apply it at once.
    pub async fn execute_at<C: Command>(&self, command: C, run_at: Time) -> Result<Position, ExecuteError> {
        self.run(command, Some(run_at)).await
    }

    async fn run<C: Command>(&self, command: C, run_at: Option<Time>) -> Result<Position, ExecuteError> {
        let Some(kind) = self.0.registry.kind::<C>() else {
            let known = self.0.registry.commands().iter().map(|info| info.name).collect();
            return Err(ExecuteError::NotRegistered { name: C::NAME.to_string(), known });
        };
        let message = command::message_of(&command, kind).map_err(ExecuteError::Invalid)?;
        let message = NewMessage { run_at, ..message };
        if self.touches_state(C::NAME) {
            return Ok(self.through_states(Box::new(command), message).await?.first);
        }
        Ok(self.0.log.append(vec![message].into()).await?.first)
    }

    /// Checks and appends messages that came as bytes, all of them or none: the door for an API.
    ///
    /// Every message must be of a registered command. One that touches a state comes alone and without an idempotency
    /// key, else it is refused as [`Kind::Unsupported`]: a batch could not be validated as a whole, and a repetition
    /// would be judged by a state that its first time has changed. Otherwise answers as [`Log::append`] does.
    pub async fn append(&self, append: Append) -> Result<Appended, ExecuteError> {
        for message in &append.messages {
            self.0.registry.check(&message.kind, &message.payload)?;
        }
        let stateful = append.messages.iter().find(|message| self.touches_state(&message.kind));
        let Some(message) = stateful else { return Ok(self.0.log.append(append).await?) };
        if append.messages.len() > 1 || append.idempotency.is_some() {
            let text = format!(
                "`{}` touches the application's state: send it alone and without an idempotency key",
                message.kind
            );
            return Err(PortError::new(Kind::Unsupported, text).into());
        }
        let route = self.0.gate.route(&message.kind).expect("a command that touches a state has a route");
        let command = (route.decode)(&message.payload).map_err(ExecuteError::Invalid)?;
        self.through_states(command, message.clone()).await
    }

    /// Whether a command must go through the executor, because a state validates or applies it.
    pub(crate) fn touches_state(&self, name: &str) -> bool {
        self.0.gate.route(name).is_some()
    }

    async fn through_states(
        &self,
        command: Box<dyn Any + Send>,
        message: NewMessage,
    ) -> Result<Appended, ExecuteError> {
        let gate = &self.0.gate;
        let route = gate.route(&message.kind).expect("a command that touches a state has a route");
        let (turn, command) = self.validated(command, route).await?;
        // From here to `apply` nothing awaits: the order in the log is the order in which the states change.
        let mut ticket = self.0.log.append(vec![message].into());
        match poll_once(&mut ticket) {
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(appended)) => ticket = Box::pin(std::future::ready(Ok(appended))),
            None => {}
        }
        let answer = gate.apply(turn, route, &*command, ticket);
        let lost =
            || PortError::new(Kind::Unknown, "the answer was lost: the command may have been appended");
        Ok(answer.await.unwrap_or_else(|_| Err(lost()))?)
    }

    /// A turn in which the states take the command.
    ///
    /// A refusal is an answer, too: it waits until what it was judged by is durable, and if that failed the command
    /// is judged again.
    async fn validated(
        &self,
        command: Box<dyn Any + Send>,
        route: &Route,
    ) -> Result<(Turn<'_>, Box<dyn Any + Send>), ExecuteError> {
        let gate = &self.0.gate;
        loop {
            let turn = gate.enter().await?;
            let Err(invalid) = route.validate(&*command) else { return Ok((turn, command)) };
            let generation = gate.generation();
            drop(turn);
            if gate.durable(generation).await {
                return Err(ExecuteError::Invalid(invalid));
            }
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("registry", &self.0.registry).finish_non_exhaustive()
    }
}
