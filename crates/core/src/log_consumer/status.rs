//! Where a consumer of a log stands, as its status tells it.

use super::state::State;
use crate::{
    consumer::Status,
    error::{Health, Kind, PortError},
};

impl State {
    pub(super) fn status(&self, epoch: u64) -> Status {
        Status {
            flow: self.flow,
            epoch,
            low: self.cursor.low(),
            unsettled: self.unsettled(),
            parked: self.parked,
            suspects: self.suspects.len() as u32 + u32::from(self.suspect_running.is_some()),
            last_progress: self.last_progress,
            clock_jumps: self.jumps.count(),
            health: self.health(),
        }
    }

    fn health(&self) -> Health {
        if let Some(error) = &self.failed {
            return Health::Failed(error.clone());
        }
        if let Some(error) = &self.trouble {
            return Health::Refusing(error.clone());
        }
        if self.parked < self.options.max_parked {
            return Health::Ready;
        }
        let text = format!("{} messages are parked, which is the limit; nothing new is taken", self.parked);
        Health::Refusing(PortError::new(Kind::Full, text))
    }
}
