//! The answers to one batch of publications.

use std::sync::{Arc, Mutex, PoisonError};

use outboard_core::PortError;
use tokio::sync::Notify;

use super::Answers;

/// Collects answers until all are there.
#[derive(Debug)]
pub(super) struct Batch {
    collected: Mutex<Collected>,
    complete: Notify,
}

#[derive(Debug)]
struct Collected {
    results: Vec<Result<(), PortError>>,
    missing: usize,
}

impl Batch {
    pub(super) fn new(size: usize) -> Self {
        let collected = Collected { results: vec![Ok(()); size], missing: size };
        Self { collected: Mutex::new(collected), complete: Notify::new() }
    }

    /// All answers, in the order of the batch.
    pub(super) async fn all(self: Arc<Self>) -> Vec<Result<(), PortError>> {
        loop {
            {
                let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
                if collected.missing == 0 {
                    return std::mem::take(&mut collected.results);
                }
            }
            self.complete.notified().await;
        }
    }
}

impl Answers for Batch {
    fn answer(&self, token: u64, result: Result<(), PortError>) {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(token).expect("tokens count the batch");
        collected.results[at] = result;
        collected.missing -= 1;
        if collected.missing == 0 {
            self.complete.notify_one();
        }
    }
}
