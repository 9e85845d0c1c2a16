//! The bounded queue in front of the writer.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outboard_core::{Kind, PortError};
use tokio::{sync::Notify, time::Instant};

use crate::{options::Options, request::Request};

/// Requests in the order in which they were made. Taking everything that waits is what makes a group commit.
///
/// The writer's own thread (or task) waits here; whoever else steps the writer takes from it without waiting.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Wakes a writer on its own thread.
    thread: Condvar,
    /// Wakes a writer that runs as a task.
    task: Notify,
    limits: Limits,
}

#[derive(Debug)]
struct Limits {
    requests: usize,
    messages: usize,
    bytes: usize,
    batch_messages: usize,
    batch_bytes: usize,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    messages: usize,
    bytes: usize,
    thread_sleeps: bool,
    /// When the writer has something to do though nobody asks.
    alarm: Option<Instant>,
    /// The alarm that the thread or task sleeps until; it looks for a later one when it wakes.
    sleeps_until: Option<Instant>,
    /// What further requests are answered, once it is closed.
    closed: Option<PortError>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("requests", &self.requests.len()).field("closed", &self.closed).finish()
    }
}

/// What was there to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Requests were taken.
    Requests,
    /// Nothing waits.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl Queue {
    /// An open queue.
    pub(crate) fn new(options: &Options) -> Self {
        let limits = Limits {
            requests: options.queue_requests,
            messages: options.queue_messages,
            bytes: options.queue_bytes,
            batch_messages: options.batch_messages,
            batch_bytes: options.batch_bytes,
        };
        Self { state: Mutex::default(), thread: Condvar::new(), task: Notify::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned queue is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a request, or says at once that there is no room: order among callers leaves no way to wait.
    pub(crate) fn push(&self, request: Request) -> Result<(), PortError> {
        let mut state = self.lock();
        self.admit(&mut state, request)?;
        self.wake(state);
        Ok(())
    }

    /// As [`Queue::push`], by somebody who steps the writer himself until it is answered.
    pub(crate) fn push_quietly(&self, request: Request) -> Result<(), PortError> {
        self.admit(&mut self.lock(), request)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let wake_thread = std::mem::take(&mut state.thread_sleeps);
        drop(state);
        if wake_thread {
            self.thread.notify_one();
        }
        self.task.notify_one();
    }

    fn admit(&self, state: &mut State, request: Request) -> Result<(), PortError> {
        let (messages, bytes) = request.weight();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        // Settlements still go where appends do not any more.
        let room = if matches!(request, Request::Append(_)) { 1 } else { 2 };
        let is_full = state.messages + messages > room * self.limits.messages
            || state.bytes + bytes > room * self.limits.bytes;
        // What one request may carry is limited elsewhere: into an empty queue it always goes.
        let is_over = bytes > 0 && state.bytes > 0 && is_full;
        if is_over || state.requests.len() >= self.limits.requests {
            let text = format!("{} requests wait for the log; try again", state.requests.len());
            return Err(PortError::new(Kind::Full, text));
        }
        state.messages += messages;
        state.bytes += bytes;
        state.requests.push_back(request);
        Ok(())
    }

    /// Refuses further requests with this error; what waits is still taken. Returns whether it was open.
    pub(crate) fn close(&self, error: PortError) -> bool {
        let mut state = self.lock();
        let was_open = state.closed.is_none();
        state.closed.get_or_insert(error);
        drop(state);
        self.thread.notify_all();
        self.task.notify_one();
        was_open
    }

    /// Drops what waits: the writer is gone.
    pub(crate) fn clear(&self) {
        let requests = std::mem::take(&mut self.lock().requests);
        drop(requests);
    }

    /// How many requests and messages wait.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.requests.len(), state.messages)
    }

    /// Says when the writer has something to do though nobody asks.
    pub(crate) fn set_alarm(&self, at: Option<Instant>) {
        let mut state = self.lock();
        let is_earlier = at.is_some_and(|at| state.sleeps_until.is_none_or(|until| at < until));
        state.alarm = at;
        if is_earlier {
            self.wake(state);
        }
    }

    /// Waits until there is something to take, it is closed, or the alarm rings. On the writer's thread.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        while state.requests.is_empty() && state.closed.is_none() {
            let left = state.alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()));
            (state.thread_sleeps, state.sleeps_until) = (true, state.alarm);
            state = match left {
                None => self.thread.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.thread.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.thread_sleeps = false;
    }

    /// As [`Queue::wait`], for a writer that runs as a task.
    pub(crate) async fn wait_in_task(&self) {
        loop {
            let alarm = {
                let mut state = self.lock();
                let is_due = state.alarm.is_some_and(|alarm| alarm <= Instant::now());
                if !state.requests.is_empty() || state.closed.is_some() || is_due {
                    return;
                }
                state.sleeps_until = state.alarm;
                state.alarm
            };
            match alarm {
                None => self.task.notified().await,
                Some(alarm) => {
                    // Whether it rang is seen above: it may have been set to a later time.
                    let _ = tokio::time::timeout_at(alarm, self.task.notified()).await;
                }
            }
        }
    }

    /// Moves what waits into `batch`, up to one transaction's worth.
    pub(crate) fn take(&self, batch: &mut Vec<Request>) -> Taken {
        let mut state = self.lock();
        if state.requests.is_empty() {
            return if state.closed.is_some() { Taken::Closed } else { Taken::Nothing };
        }
        let (mut messages, mut bytes) = (0, 0);
        while messages < self.limits.batch_messages && bytes < self.limits.batch_bytes {
            let Some(request) = state.requests.pop_front() else { break };
            let (more_messages, more_bytes) = request.weight();
            messages += more_messages;
            bytes += more_bytes;
            batch.push(request);
        }
        state.messages -= messages;
        state.bytes -= bytes;
        Taken::Requests
    }
}
