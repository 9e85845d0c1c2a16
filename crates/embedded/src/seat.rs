//! Where the writer sits, and who steps it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use outboard_core::PortError;

use crate::{
    request::{Answer, Request},
    shared::Shared,
    writer::Writer,
};

/// Holds the writer between its turns. For a directory a thread steps it, for `:memory:` a task, so that paused
/// time does not run ahead of it; a thread that blocks for its answer steps it itself when nobody else does,
/// which spares two changes of threads.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    /// Nothing once the writer has ended.
    writer: Mutex<Option<Box<Writer>>>,
}

impl Seat {
    /// A seat with its writer.
    pub(crate) fn new(writer: Writer, shared: Arc<Shared>) -> Self {
        Self { shared, writer: Mutex::new(Some(Box::new(writer))) }
    }

    /// What it shares with the handles.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Steps the writer on this thread until the queue is closed and empty, or the log has failed.
    pub(crate) fn run(&self) {
        loop {
            self.shared.queue.wait();
            if !turn(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner)) {
                return;
            }
        }
    }

    /// As [`Seat::run`], as a task.
    pub(crate) async fn run_in_task(&self) {
        loop {
            self.shared.queue.wait_in_task().await;
            if !turn(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner)) {
                return;
            }
        }
    }

    /// Makes a request and blocks this thread until it is answered. An error when there is no room for it.
    pub(crate) fn request_blocking<T>(
        &self,
        request: Request,
        mut answer: Answer<T>,
    ) -> Result<Result<T, PortError>, PortError> {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Somebody else steps it and takes this along with what else waits.
                self.shared.queue.push(request)?;
                return Ok(block_on(answer));
            }
        };
        self.shared.queue.push_quietly(request)?;
        loop {
            turn(&mut writer);
            if let Some(answer) = answer.look() {
                return Ok(answer);
            }
        }
    }
}

/// One turn of the writer. Returns whether there is a writer still.
fn turn(seat: &mut MutexGuard<'_, Option<Box<Writer>>>) -> bool {
    // Not in its place while it works: a panic drops it, and nobody waits for it any more.
    let Some(mut writer) = seat.take() else { return false };
    let goes_on = writer.turn();
    if goes_on {
        **seat = Some(writer);
    }
    goes_on
}

/// Parks this thread until the answer is there.
fn block_on<T>(answer: Answer<T>) -> Result<T, PortError> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    // On a runtime's thread a task that has used up its budget would be told to come back when the runtime runs
    // again: never, while this blocks it.
    let mut answer = std::pin::pin!(tokio::task::coop::unconstrained(answer));
    loop {
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}
