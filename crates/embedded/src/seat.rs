//! Where the writer sits, and who steps it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
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
    /// Whether a thread of its own steps the writer, whatever becomes of the callers and their runtimes.
    has_thread: bool,
    /// Nothing once the writer has ended.
    writer: Mutex<Option<Box<Writer>>>,
}

impl Seat {
    /// A seat with its writer.
    pub(crate) fn new(writer: Writer, shared: Arc<Shared>) -> Self {
        let has_thread = writer.has_thread();
        Self { shared, has_thread, writer: Mutex::new(Some(Box::new(writer))) }
    }

    /// What it shares with the handles.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn sit(&self) -> MutexGuard<'_, Option<Box<Writer>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_sit(&self) -> Option<MutexGuard<'_, Option<Box<Writer>>>> {
        match self.writer.try_lock() {
            Ok(seat) => Some(seat),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Steps the writer on this thread until the queue is closed and empty, or the log has failed.
    pub(crate) fn run(&self) {
        loop {
            self.shared.queue.wait();
            if !turn(&mut self.sit()) {
                return;
            }
        }
    }

    /// As [`Seat::run`], as a task. The writer ends with the task, also when its runtime is dropped.
    pub(crate) fn run_in_task(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        // Made here, since a task may be dropped before it has begun.
        let leave = Leave(self.clone());
        async move {
            let seat = &leave.0;
            loop {
                seat.shared.queue.wait_in_task().await;
                if !turn(&mut seat.sit()) {
                    return;
                }
            }
        }
    }

    /// Makes a request and blocks this thread until it is answered. An error when there is no room for it.
    pub(crate) fn request_blocking<T>(
        &self,
        request: Request,
        mut answer: Answer<T>,
    ) -> Result<Result<T, PortError>, PortError> {
        let seat = self.try_sit();
        if seat.is_none() && self.has_thread {
            // Who steps it now takes this along, or else the thread does, which this wakes.
            self.shared.queue.push(request)?;
            return Ok(block_on(answer));
        }
        self.shared.queue.push_quietly(request)?;
        // A task may never run again if this is its thread; in memory, nobody steps for long.
        let mut seat = seat.unwrap_or_else(|| self.sit());
        loop {
            if let Some(answer) = answer.look() {
                return Ok(answer);
            }
            turn(&mut seat);
        }
    }
}

/// One turn of the writer. Returns whether there is a writer still.
fn turn(seat: &mut MutexGuard<'_, Option<Box<Writer>>>) -> bool {
    let Some(mut writer) = seat.take() else { return false };
    // Whose thread this is must not suffer for a broken invariant; nobody waits for a writer that had one.
    match catch_unwind(AssertUnwindSafe(|| writer.turn())) {
        Ok(true) => **seat = Some(writer),
        Ok(false) | Err(_) => return false,
    }
    true
}

/// Ends the writer when the task that steps it is dropped.
struct Leave(Arc<Seat>);

impl Drop for Leave {
    fn drop(&mut self) {
        // While it is held: who sits down next finds the queue closed.
        drop(self.0.sit().take());
    }
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
