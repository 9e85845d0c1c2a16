//! The application's state in memory, and what commands do to it.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, PoisonError, RwLock, Weak},
};

use outboard_core::PortError;

use super::gate::Gate;
use crate::{
    command::{self, Command},
    registry::Register,
    validate::Invalid,
};

/// An application's state in memory, as the log's commands have made it.
///
/// The state is always what `apply` functions make of the log, from its first message to the last: it is built so at
/// start, it changes so with each command that goes through the executor, and it is rebuilt so when a commit failed.
/// A start reads all those messages again, at roughly a million a second.
///
/// Therefore an `apply` function does nothing but change the state, and depends on nothing but its two arguments.
///
/// ```
/// use std::collections::BTreeSet;
/// use outboard::{App, AppState, ExecuteError, Invalid};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/place")]
/// # struct PlaceOrder { order_id: u64 }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let orders = AppState::new(BTreeSet::<u64>::new)
///     .validate_with(|orders, order: &PlaceOrder| match orders.contains(&order.order_id) {
///         true => Err(Invalid::field("order_id", "taken", "is taken")),
///         false => Ok(()),
///     })
///     .apply(|orders, order: &PlaceOrder| { orders.insert(order.order_id); });
/// let running = App::memory().await?.state(&orders).start().await?;
/// running.executor().execute(PlaceOrder { order_id: 7 }).await?;
/// let again = running.executor().execute(PlaceOrder { order_id: 7 }).await;
/// assert!(matches!(again, Err(ExecuteError::Invalid(_))));
/// assert_eq!(orders.read(|orders| orders.len()).await?, 1);
/// # running.shutdown().await?;
/// # anyhow::Ok(())
/// # }).unwrap();
/// ```
pub struct AppState<S> {
    cell: Arc<Cell<S>>,
    rules: Vec<Rule>,
}

struct Cell<S> {
    init: Box<dyn Fn() -> S + Send + Sync>,
    value: RwLock<S>,
    gate: OnceLock<Weak<Gate>>,
}

type Validate = Arc<dyn Fn(&dyn Any) -> Result<(), Invalid> + Send + Sync>;
type Apply = Arc<dyn Fn(&dyn Any) + Send + Sync>;
type Decode = fn(&[u8]) -> Result<Box<dyn Any + Send>, Invalid>;

/// What one command means to one state; the command's Rust type is known to the closures only.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) register: Register,
    pub(crate) decode: Decode,
    pub(crate) act: Act,
}

#[derive(Clone)]
pub(crate) enum Act {
    Validate(Validate),
    Apply(Apply),
}

/// A state as the executor sees it: something that can begin anew.
pub(crate) trait Rebuild: Send + Sync {
    /// Back to the initial state.
    fn reset(&self);
    /// Ties the state to its executor; false when it already has one.
    fn attach(&self, gate: Weak<Gate>) -> bool;
}

impl<S: Send + Sync + 'static> AppState<S> {
    /// A state that begins as `init` makes it, before the first message.
    pub fn new(init: impl Fn() -> S + Send + Sync + 'static) -> Self {
        let value = RwLock::new(init());
        Self {
            cell: Arc::new(Cell { init: Box::new(init), value, gate: OnceLock::new() }),
            rules: Vec::new(),
        }
    }

    /// What a command of type `C` does to the state. Must not panic, and must take whatever the log holds.
    #[must_use]
    pub fn apply<C: Command>(mut self, apply: impl Fn(&mut S, &C) + Send + Sync + 'static) -> Self {
        let cell = self.cell.clone();
        let apply = move |command: &dyn Any| {
            let mut value = cell.value.write().unwrap_or_else(PoisonError::into_inner);
            apply(&mut value, typed(command));
        };
        self.rules.push(rule::<C>(Act::Apply(Arc::new(apply))));
        self
    }

    /// What a command of type `C` must keep, given the state. No other command can come between this check and the
    /// command's own `apply`.
    #[must_use]
    pub fn validate_with<C: Command>(
        mut self,
        validate: impl Fn(&S, &C) -> Result<(), Invalid> + Send + Sync + 'static,
    ) -> Self {
        let cell = self.cell.clone();
        let validate = move |command: &dyn Any| {
            let value = cell.value.read().unwrap_or_else(PoisonError::into_inner);
            validate(&value, typed(command))
        };
        self.rules.push(rule::<C>(Act::Validate(Arc::new(validate))));
        self
    }

    /// Looks at the state. The answer waits until everything that it could see is durable; when a commit fails
    /// meanwhile, the state is rebuilt and `read` is called again.
    ///
    /// Errors: the log cannot be read for a rebuild, or the state cannot be built from it. Before the app has
    /// started, the state is the initial one.
    pub async fn read<R>(&self, read: impl Fn(&S) -> R) -> Result<R, PortError> {
        let look = || read(&self.cell.value.read().unwrap_or_else(PoisonError::into_inner));
        match self.cell.gate.get().and_then(Weak::upgrade) {
            Some(gate) => gate.read(look).await,
            None => Ok(look()),
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn erased(&self) -> Arc<dyn Rebuild> {
        self.cell.clone()
    }
}

impl<S: Send + Sync> Rebuild for Cell<S> {
    fn reset(&self) {
        let fresh = (self.init)();
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    fn attach(&self, gate: Weak<Gate>) -> bool {
        self.gate.set(gate).is_ok()
    }
}

impl<S> Clone for AppState<S> {
    /// Another handle on the same state.
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone(), rules: self.rules.clone() }
    }
}

impl<S> fmt::Debug for AppState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

fn rule<C: Command>(act: Act) -> Rule {
    Rule {
        name: C::NAME,
        register: |registry| registry.add::<C>(),
        decode: |payload| Ok(Box::new(command::decode::<C>(payload)?)),
        act,
    }
}

fn typed<C: Command>(command: &dyn Any) -> &C {
    command.downcast_ref().expect("the registry holds one Rust type for each name")
}

/// Everything that the states of an application do with one command.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) name: &'static str,
    pub(crate) decode: Decode,
    validate: Vec<Validate>,
    apply: Vec<Apply>,
}

impl Route {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self { name: rule.name, decode: rule.decode, validate: Vec::new(), apply: Vec::new() }
    }

    pub(crate) fn add(&mut self, act: &Act) {
        match act {
            Act::Validate(validate) => self.validate.push(validate.clone()),
            Act::Apply(apply) => self.apply.push(apply.clone()),
        }
    }

    /// The errors of all states together.
    pub(crate) fn validate(&self, command: &dyn Any) -> Result<(), Invalid> {
        let fields: Vec<_> = self
            .validate
            .iter()
            .filter_map(|validate| validate(command).err())
            .flat_map(|invalid| invalid.fields)
            .collect();
        if fields.is_empty() { Ok(()) } else { Err(Invalid { fields }) }
    }

    /// Changes every state. False when a function panicked: then the states are not what the log says.
    pub(crate) fn apply(&self, command: &dyn Any) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.apply.iter().for_each(|apply| apply(command)))).is_ok()
    }

    pub(crate) fn applies(&self) -> bool {
        !self.apply.is_empty()
    }
}
