//! One command after the other through the application's states, and the way back after a failed commit.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use outboard_core::{
    Fut, Kind, Log, Message, PortError, Position, TypeSet, log::Appended, pattern::TypePattern,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::app_state::{Rebuild, Route};
use crate::replay::replay;

/// At most so many commands are applied and not answered by the log.
const UNANSWERED: usize = 8_192;

/// The lock under which commands are validated, enqueued and applied, and the count of what was applied.
pub(crate) struct Gate {
    log: Arc<dyn Log>,
    states: Vec<Arc<dyn Rebuild>>,
    routes: BTreeMap<&'static str, Route>,
    turn: tokio::sync::Mutex<()>,
    /// Commands applied, in all; counted before the states change.
    applied: AtomicU64,
    settled: Arc<watch::Sender<Settled>>,
    unanswered: mpsc::Sender<Unanswered>,
}

/// The right to validate and apply: nobody else does meanwhile, and there is room for one more to be answered.
pub(crate) struct Turn<'a> {
    _turn: tokio::sync::MutexGuard<'a, ()>,
    room: mpsc::Permit<'a, Unanswered>,
}

/// A command that is applied, with its append.
struct Unanswered {
    ticket: Fut<'static, Appended>,
    caller: oneshot::Sender<Result<Appended, PortError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    /// So many applied commands have an answer from the log.
    through: u64,
    /// The last position that an append answered with.
    last: Position,
    /// Changes with every failed commit and every rebuild.
    generation: u64,
    /// The states hold something that is not in the log.
    broken: bool,
}

impl Gate {
    /// A gate whose states are still to be built: the first turn does it. Needs a tokio runtime.
    pub(crate) fn new(
        log: Arc<dyn Log>,
        states: Vec<Arc<dyn Rebuild>>,
        routes: BTreeMap<&'static str, Route>,
    ) -> Arc<Self> {
        let before = Settled { through: 0, last: Position::START, generation: 0, broken: true };
        let settled = Arc::new(watch::Sender::new(before));
        let (unanswered, receiver) = mpsc::channel(UNANSWERED);
        // Ends when the gate is gone and everything is answered.
        tokio::spawn(answer_all(receiver, settled.clone()));
        Arc::new(Self {
            log,
            states,
            routes,
            turn: tokio::sync::Mutex::default(),
            applied: AtomicU64::new(0),
            settled,
            unanswered,
        })
    }

    pub(crate) fn route(&self, name: &str) -> Option<&Route> {
        self.routes.get(name)
    }

    pub(crate) fn states(&self) -> &[Arc<dyn Rebuild>] {
        &self.states
    }

    /// Waits for the turn; the states are as the log says plus what was applied since.
    pub(crate) async fn enter(&self) -> Result<Turn<'_>, PortError> {
        let gone = |_| PortError::new(Kind::Closed, "the executor's answering task has ended");
        let room = self.unanswered.reserve().await.map_err(gone)?;
        let turn = self.turn.lock().await;
        if self.settled.borrow().broken {
            self.rebuild().await?;
        }
        Ok(Turn { _turn: turn, room })
    }

    /// A number to tell by whether the states were rebuilt since.
    pub(crate) fn generation(&self) -> u64 {
        self.settled.borrow().generation
    }

    /// Applies a command that is enqueued, and ends the turn. The caller's answer follows the log's.
    pub(crate) fn apply(
        &self,
        turn: Turn<'_>,
        route: &Route,
        command: &dyn std::any::Any,
        ticket: Fut<'static, Appended>,
    ) -> oneshot::Receiver<Result<Appended, PortError>> {
        let (caller, answer) = oneshot::channel();
        self.applied.fetch_add(1, SeqCst);
        if !route.apply(command) {
            tracing::error!(command = route.name, "`apply` panicked: the states are rebuilt from the log");
            breaks(&self.settled);
        }
        turn.room.send(Unanswered { ticket, caller });
        answer
    }

    /// Waits until all that was applied by now is durable. False when a commit has failed since `generation`.
    pub(crate) async fn durable(&self, generation: u64) -> bool {
        let applied = self.applied.load(SeqCst);
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

    /// Builds the states from the log. Only in a turn, so that nothing is applied meanwhile.
    async fn rebuild(&self) -> Result<(), PortError> {
        let applied = self.applied.load(SeqCst);
        let mut settled = self.settled.subscribe();
        // What is still under way may or may not come to be in the log.
        let _ = settled.wait_for(|now| now.through >= applied).await;
        self.states.iter().for_each(|state| state.reset());
        let to = (*self.log.tip().borrow()).max(self.settled.borrow().last);
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

    fn reapply(&self, message: &Message) -> Result<(), PortError> {
        let Some(route) = self.routes.get(&*message.kind) else { return Ok(()) };
        let trouble = |what: String| {
            let text = format!("the state cannot be built: {what} message {} ({})", message.id, message.kind);
            PortError::new(Kind::Invalid, text)
        };
        let command =
            (route.decode)(&message.payload).map_err(|invalid| trouble(format!("{invalid}, in")))?;
        if route.apply(&*command) { Ok(()) } else { Err(trouble("`apply` panicked at".to_string())) }
    }
}

/// Takes the log's answers, in the order in which the log gives them. A task of its own, so that nothing depends on
/// callers who wait for something else first or who went away.
async fn answer_all(mut unanswered: mpsc::Receiver<Unanswered>, settled: Arc<watch::Sender<Settled>>) {
    while let Some(Unanswered { ticket, caller }) = unanswered.recv().await {
        let answer = ticket.await;
        if answer.is_err() {
            breaks(&settled);
        }
        settled.send_modify(|settled| {
            settled.through += 1;
            settled.last = settled.last.max(answer.as_ref().map_or(Position::START, Appended::last));
        });
        // A caller that went away needs no answer.
        let _ = caller.send(answer);
    }
}

/// The states are not what the log says: the next turn rebuilds them.
fn breaks(settled: &watch::Sender<Settled>) {
    settled.send_modify(|settled| {
        settled.broken = true;
        settled.generation += 1;
    });
}

/// Polls once, so that an append that is refused at once is known before anything is applied. The log wakes nobody for
/// it: whoever awaits the ticket polls it again.
pub(crate) fn poll_once(ticket: &mut Fut<'static, Appended>) -> Option<Result<Appended, PortError>> {
    match ticket.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
