//! What a handler has at hand.

use std::{fmt, sync::Arc};

use outboard_core::{
    Headers, Ledger, Message, MessageId, NewMessage, Time,
    consumer::Effects,
    lease::{Lease, Leases},
};

use crate::{
    command::{self, Command},
    executor::Executor,
    handler::Attempt,
    keys::{Buffer, Keys, MAX_APPENDS, MAX_EFFECT_BYTES},
    outcome::Failure,
};

/// What is said where there is no store for locks.
pub(crate) const NO_LOCKS: &str = "the app has no store for locks: give it one with `App::leases`";

/// What the lease of a lock is called.
pub(crate) fn lock_name(name: &str) -> String {
    format!("lock/{name}")
}

/// What all attempts of one worker share.
pub(crate) struct Shared<S> {
    pub(crate) state: S,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) executor: Executor,
    pub(crate) leases: Option<Leases>,
}

struct Inner<S> {
    shared: Arc<Shared<S>>,
    attempt: Attempt,
    buffer: Buffer,
}

/// One attempt at one message: the worker's state, the message, and what commits when the handler says `Done`. Cheap
/// to clone.
///
/// Effects outside Outboard (a mail, a request) happen at least once. What goes through [`Context::keys`] and
/// [`Context::append`] happens exactly once: it commits with the done mark or not at all.
pub struct Context<S>(Arc<Inner<S>>);

impl<S> Context<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, attempt: Attempt) -> Self {
        Self(Arc::new(Inner { shared, attempt, buffer: Buffer::default() }))
    }

    /// What the attempt has buffered; later changes come to nothing.
    pub(crate) fn take_effects(&self) -> Option<Box<Effects>> {
        self.0.buffer.take()
    }

    /// The worker's state in memory. Attempts share it: use a lock or atomics for what changes.
    pub fn state(&self) -> &S {
        &self.0.shared.state
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.0.attempt.worker
    }

    /// The message as the log holds it.
    pub fn message(&self) -> &Message {
        &self.0.attempt.message
    }

    /// The message's id: its position in the log, or its name on a queue. The same in every attempt.
    pub fn id(&self) -> MessageId {
        self.0.attempt.message.id()
    }

    /// 1 for the first attempt.
    pub fn attempt(&self) -> u32 {
        self.0.attempt.number
    }

    /// What travels with the message.
    pub fn headers(&self) -> &Headers {
        &self.0.attempt.message.headers
    }

    /// When the message was appended.
    pub fn timestamp(&self) -> Time {
        self.0.attempt.message.timestamp
    }

    /// The worker's durable keys.
    pub fn keys(&self) -> Keys<'_> {
        Keys { ledger: &*self.0.shared.ledger, worker: &self.0.attempt.worker, buffer: &self.0.buffer }
    }

    /// Appends a command if and when this message is done.
    ///
    /// A command that breaks its own rules, that nobody handles, or that touches an
    /// [`AppState`](crate::AppState) (send that one with [`Context::executor`]) is a [`Failure::Dead`]: another
    /// attempt would build the same one.
    pub fn append<C: Command>(&self, command: &C) -> Result<(), Failure> {
        self.buffer(command, None)
    }

    /// As [`Context::append`], not to be handled before `run_at`.
    pub fn append_at<C: Command>(&self, command: &C, run_at: Time) -> Result<(), Failure> {
        self.buffer(command, Some(run_at))
    }

    fn buffer<C: Command>(&self, command: &C, run_at: Option<Time>) -> Result<(), Failure> {
        let executor = &self.0.shared.executor;
        let Some(kind) = executor.registry().kind::<C>() else {
            return Err(Failure::dead(format!("`{}` was to be appended, but nobody handles it", C::NAME)));
        };
        if executor.touches_state(C::NAME) {
            let mend = "it touches the application's state: use `executor().execute()`";
            return Err(Failure::dead(format!(
                "`{}` cannot be appended with the done mark: {mend}",
                C::NAME
            )));
        }
        let message = command::message_of(command, kind)
            .map_err(|invalid| Failure::dead(format!("`{}` was to be appended: {invalid}", C::NAME)))?;
        if self.0.buffer.append(NewMessage { run_at, ..message }) {
            Ok(())
        } else {
            let limit = format!("{MAX_APPENDS} messages and {MAX_EFFECT_BYTES} bytes, keys included");
            Err(Failure::dead(format!("one attempt appends at most {limit}")))
        }
    }

    /// Waits until nobody else has this lock, in any process that shares the app's store, and takes it. Drop it to give
    /// it back. Whoever changes something outside under it passes [`Lease::fence`] along: a process that stood still
    /// may have lost it without knowing.
    ///
    /// An app without [`App::leases`](crate::App::leases) has no locks: [`Failure::Dead`].
    pub async fn lock(&self, name: &str) -> Result<Lease, Failure> {
        let Some(leases) = &self.0.shared.leases else {
            return Err(Failure::dead(NO_LOCKS));
        };
        Ok(leases.wait(&lock_name(name)).await?)
    }

    /// Executes commands at once, whatever becomes of this attempt: at least once, when it is repeated.
    pub fn executor(&self) -> &Executor {
        &self.0.shared.executor
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.0.attempt).finish()
    }
}

/// What periodic work has at hand. It has no done mark, and so no buffered effects: it changes the worker's state in
/// memory and executes commands.
pub struct Tick<S> {
    pub(crate) worker: Arc<str>,
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S> Tick<S> {
    /// The worker's state in memory.
    pub fn state(&self) -> &S {
        &self.shared.state
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Executes commands.
    pub fn executor(&self) -> &Executor {
        &self.shared.executor
    }
}

impl<S> fmt::Debug for Tick<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tick").field("worker", &self.worker).finish_non_exhaustive()
    }
}
