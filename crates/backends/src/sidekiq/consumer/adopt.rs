//! What holders that are gone have left.

use outboard_core::PortError;

use super::Shared;
use crate::{
    redis::Connection,
    sidekiq::{keys, scripts},
};

/// At most so many jobs are taken over in one step.
const STEP_JOBS: usize = 500;

impl Shared {
    /// These holders are gone, as far as is known.
    pub(super) fn found_gone(&self, holders: Vec<String>) {
        let is_any = !holders.is_empty();
        self.lock().gone_holders = holders;
        if is_any {
            self.room.notify_one();
        }
    }

    /// Takes over up to so many jobs of holders that are gone; how many there were.
    ///
    /// An error is no reason not to fetch: a holder that was not taken over is found again.
    pub(super) async fn adopt(&self, connection: &Connection, room: usize) -> usize {
        let mut adopted = 0;
        while adopted < room {
            let Some(holder) = self.lock().gone_holders.last().cloned() else { break };
            let most = (room - adopted).min(STEP_JOBS);
            let count = self.adopt_from(connection, &holder, most).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "what a consumer has left could not be taken over");
                0
            });
            adopted += count;
            let mut state = self.lock();
            if count > 0 && state.adopted_from.as_ref() != Some(&holder) {
                let queue = &*self.spec.queue.name;
                tracing::info!(holder, queue, "takes over the jobs of a consumer that is gone");
                state.adopted_from = Some(holder.clone());
            }
            if count < most {
                state.gone_holders.retain(|other| *other != holder);
            }
        }
        adopted
    }

    async fn adopt_from(
        &self,
        connection: &Connection,
        holder: &str,
        most: usize,
    ) -> Result<usize, PortError> {
        let reserved = self.lock().reserve(most, connection.generation(), true);
        let (keys, queue) = (&self.keys, &self.spec.queue.name);
        let jobs: Vec<Vec<u8>> = connection
            .script(&scripts::ADOPT, |script| {
                script.key(&keys.claims).key(keys::claims(queue, holder)).key(keys::arrivals(queue, holder));
                script.key(keys::alive(queue, holder)).key(&keys.holders);
                script.arg(holder).arg(reserved.first).arg(reserved.count);
            })
            .await
            .inspect_err(|_| self.lock().failed(reserved))?;
        let count = jobs.len();
        self.arrived(reserved, (reserved.first..).zip(jobs));
        Ok(count)
    }
}
