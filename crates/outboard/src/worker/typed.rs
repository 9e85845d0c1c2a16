//! From bytes to typed handlers.

use std::{collections::HashMap, fmt, sync::Arc};

use outboard_core::Message;

use super::{BoxFuture, Handled};
use crate::{
    command::{self, Command},
    context::{Context, Shared},
    handler::{Attempt, Handler},
    outcome::{Failure, Outcome},
    registry::Register,
    validate::Invalid,
};

/// One command of one worker.
pub(super) struct Route<S> {
    pub(super) name: &'static str,
    pub(super) register: Register,
    call: Call<S>,
}

/// A handler with its command's type gone.
type Call<S> = Box<dyn Fn(Context<S>) -> BoxFuture<Handled> + Send + Sync>;

impl<S: Send + Sync + 'static> Route<S> {
    pub(super) fn new<C, H, F>(handler: H) -> Self
    where
        C: Command,
        H: Fn(Context<S>, C) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let call = move |cx: Context<S>| -> BoxFuture<Handled> {
            let handler = handler.clone();
            // Everything that may panic or take long happens inside the future, where the runtime bounds it.
            Box::pin(async move {
                let command = match command::decode::<C>(&cx.message().payload) {
                    Ok(command) => command,
                    Err(invalid) => return Err(undecodable(C::NAME, &invalid)).into(),
                };
                let outcome = handler(cx.clone(), command).await;
                let effects = if outcome.is_ok() { cx.take_effects() } else { None };
                Handled { outcome, effects }
            })
        };
        Self { name: C::NAME, register: |registry| registry.add::<C>(), call: Box::new(call) }
    }
}

/// Another attempt would read the same bytes.
fn undecodable(name: &str, invalid: &Invalid) -> Failure {
    Failure::dead(format!("the payload is not a `{name}`: {invalid}"))
}

/// The typed handlers of one worker, as the runtime calls them.
pub(super) struct TypedHandler<S> {
    shared: Arc<Shared<S>>,
    calls: HashMap<&'static str, Call<S>>,
}

impl<S> TypedHandler<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, routes: Vec<Route<S>>) -> Self {
        Self { shared, calls: routes.into_iter().map(|route| (route.name, route.call)).collect() }
    }
}

impl<S: Send + Sync + 'static> Handler for TypedHandler<S> {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        match self.calls.get(&*attempt.message.kind) {
            Some(call) => call(Context::new(self.shared.clone(), attempt)),
            // The consumer delivers the types that were asked for, and these are the same ones.
            None => {
                let reason = format!("no handler for `{}`", attempt.message.kind);
                Box::pin(std::future::ready(Err(Failure::dead(reason)).into()))
            }
        }
    }
}

impl<S> fmt::Debug for TypedHandler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedHandler").field("types", &self.calls.keys()).finish_non_exhaustive()
    }
}

/// One replay function of one worker.
pub(super) struct Replay<S> {
    pub(super) name: &'static str,
    pub(super) call: ReplayCall<S>,
}

/// A replay function with its command's type gone.
pub(super) type ReplayCall<S> = Box<dyn Fn(&S, &Message) -> Result<(), Invalid> + Send + Sync>;

impl<S> Replay<S> {
    pub(super) fn new<C: Command>(replay: impl Fn(&S, C, &Message) + Send + Sync + 'static) -> Self {
        let call = move |state: &S, message: &Message| {
            replay(state, command::decode(&message.payload)?, message);
            Ok(())
        };
        Self { name: C::NAME, call: Box::new(call) }
    }
}
