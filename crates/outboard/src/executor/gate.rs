//! One command after the other through the application's states, and the way back after a failed commit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use outboard_core::{Fut, Kind, Log, PortError, Position, TypeSet, log::Appended, pattern::TypePattern};
use tokio::{runtime::Handle, sync::watch};

use super::app_state::{Rebuild, Route};
use crate::replay::replay;

/// The lock under which commands are validated, enqueued and applied, and the count of what was applied.
pub(crate) struct Gate {
    log: Arc<dyn Log>,
    states: Vec<Arc<dyn Rebuild>>,
    routes: BTreeMap<&'static str, Route>,
    turn: Arc<tokio::sync::Mutex<()>>,
    progress: Mutex<Progress>,
    settled: watch::Sender<Settled>,
    /// Where appends are awaited whose caller went away.
    runtime: Handle,
}

/// The right to validate and apply; nobody else does meanwhile.
pub(crate) type Turn = tokio::sync::OwnedMutexGuard<()>;

#[derive(Default)]
struct Progress {
    /// Commands applied, in all.
    applied: u64,
    /// For each applied command after `Settled::through`: whether its append has answered.
    answered: VecDeque<bool>,
    /// The last position that an append answered with.
    last: Position,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Settled {
    /// So many applied commands have an answer from the log, without a gap.
    through: u64,
    /// Changes with every failed commit and every rebuild.
    generation: u64,
    /// The states hold something that is not in the log.
    broken: bool,
}

impl Gate {
    /// A gate whose states are still to be built: the first turn does it.
    pub(crate) fn new(
        log: Arc<dyn Log>,
        states: Vec<Arc<dyn Rebuild>>,
        routes: BTreeMap<&'static str, Route>,
    ) -> Arc<Self> {
        Arc::new(Self {
            log,
            states,
            routes,
            turn: Arc::default(),
            progress: Mutex::default(),
            settled: watch::Sender::new(Settled { broken: true, ..Settled::default() }),
            runtime: Handle::current(),
        })
    }

    pub(crate) fn route(&self, name: &str) -> Option<&Route> {
        self.routes.get(name)
    }

    pub(crate) fn states(&self) -> &[Arc<dyn Rebuild>] {
        &self.states
    }

    /// Waits for the turn; the states are as the log says plus what was applied since.
    pub(crate) async fn enter(&self) -> Result<Turn, PortError> {
        let turn = self.turn.clone().lock_owned().await;
        if self.settled.borrow().broken {
            self.rebuild().await?;
        }
        Ok(turn)
    }

    /// A number to tell by whether the states were rebuilt since.
    pub(crate) fn generation(&self) -> u64 {
        self.settled.borrow().generation
    }

    /// Counts a command as applied that is about to be. Only in a turn.
    pub(crate) fn begin(self: &Arc<Self>, ticket: Fut<'static, Appended>) -> Pending {
        let mut progress = self.lock();
        progress.applied += 1;
        progress.answered.push_back(false);
        Pending { gate: self.clone(), number: progress.applied, ticket: Some(ticket) }
    }

    /// Waits until all that was applied by now is durable. False when a commit has failed since `generation`.
    pub(crate) async fn durable(&self, generation: u64) -> bool {
        let applied = self.lock().applied;
        let mut settled = self.settled.subscribe();
        let state = settled
            .wait_for(|now| now.through >= applied || now.broken || now.generation != generation)
            .await;
        // The sender lives in `self`.
        state.is_ok_and(|now| !now.broken && now.generation == generation)
    }

    pub(crate) async fn read<R>(&self, look: impl Fn() -> R) -> Result<R, PortError> {
        loop {
            let before = *self.settled.borrow();
            if before.broken {
                drop(self.enter().await?);
                continue;
            }
            let answer = look();
            // Counted after the look: whatever it saw had been counted before.
            if self.durable(before.generation).await {
                return Ok(answer);
            }
        }
    }

    /// The states are not what the log says: the next turn rebuilds them.
    pub(crate) fn breaks(&self) {
        self.settled.send_modify(|settled| {
            settled.broken = true;
            settled.generation += 1;
        });
    }

    /// Builds the states from the log. Only in a turn, so that nothing is applied meanwhile.
    async fn rebuild(&self) -> Result<(), PortError> {
        let applied = self.lock().applied;
        let mut settled = self.settled.subscribe();
        // What is still under way may or may not come to be in the log.
        let _ = settled.wait_for(|now| now.through >= applied).await;
        self.states.iter().for_each(|state| state.reset());
        let to = (*self.log.tip().borrow()).max(self.lock().last);
        let routes = self.routes.values().filter(|route| route.applies());
        let types: TypeSet = routes.map(|route| TypePattern::Exact(route.name.into())).collect();
        if !types.patterns().is_empty() {
            let mut trouble = None;
            replay(&*self.log, types, Position::START, to, |message| {
                if trouble.is_none() {
                    trouble = self.reapply(message).err();
                }
            })
            .await?;
            if let Some(error) = trouble {
                return Err(error);
            }
        }
        self.settled.send_modify(|settled| {
            settled.broken = false;
            settled.generation += 1;
        });
        Ok(())
    }

    fn reapply(&self, message: &outboard_core::Message) -> Result<(), PortError> {
        let Some(route) = self.routes.get(&*message.kind) else { return Ok(()) };
        let trouble = |what: String| {
            let text = format!("the state cannot be built: {what} message {} ({})", message.id, message.kind);
            PortError::new(Kind::Invalid, text)
        };
        let command =
            (route.decode)(&message.payload).map_err(|invalid| trouble(format!("{invalid}, in")))?;
        if route.apply(&*command) { Ok(()) } else { Err(trouble("`apply` panicked at".to_string())) }
    }

    /// Takes an append's answer.
    fn answered(&self, number: u64, answer: Result<Position, ()>) {
        let mut progress = self.lock();
        let settled = *self.settled.borrow();
        let index =
            usize::try_from(number - settled.through - 1).expect("the window holds what is in flight");
        progress.answered[index] = true;
        let mut through = settled.through;
        while progress.answered.front() == Some(&true) {
            progress.answered.pop_front();
            through += 1;
        }
        if let Ok(position) = answer {
            progress.last = progress.last.max(position);
        }
        self.settled.send_modify(|settled| {
            settled.through = through;
            if answer.is_err() {
                settled.broken = true;
                settled.generation += 1;
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Changed by short sections that do not panic half-way.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An append under way whose command is applied. Its answer is taken even when nobody waits for it any more.
pub(crate) struct Pending {
    gate: Arc<Gate>,
    number: u64,
    ticket: Option<Fut<'static, Appended>>,
}

impl Pending {
    /// Waits for the log. An error means that the states will be rebuilt.
    pub(crate) async fn answer(mut self) -> Result<Appended, PortError> {
        let ticket = self.ticket.as_mut().expect("a ticket is there until it has answered");
        let answer = ticket.await;
        self.ticket = None;
        self.gate.answered(self.number, answer.as_ref().map(Appended::last).map_err(|_| ()));
        answer
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let (gate, number) = (self.gate.clone(), self.number);
        gate.runtime.clone().spawn(async move {
            let answer = ticket.await;
            gate.answered(number, answer.as_ref().map(Appended::last).map_err(|_| ()));
        });
    }
}

/// Polls once, so that an append that is refused at once is known before anything is applied. The log wakes nobody for
/// it: whoever awaits the ticket polls it again.
pub(crate) fn poll_once(ticket: &mut Fut<'static, Appended>) -> Option<Result<Appended, PortError>> {
    match ticket.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
