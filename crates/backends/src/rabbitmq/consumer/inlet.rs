//! What the connection's reader does with a consumer's deliveries.

use std::sync::Arc;

use outboard_core::{Kind, PortError};

use super::{Core, claims::Arrived, state::End};
use crate::rabbitmq::{
    channel::{Content, Sink},
    codec::method::Method,
};

/// Gathers a burst, and hands it over under one lock.
#[derive(Debug)]
pub(super) struct Inlet {
    core: Arc<Core>,
    generation: u64,
    burst: Vec<(u64, Arrived)>,
}

impl Inlet {
    pub(super) fn new(core: Arc<Core>, generation: u64) -> Self {
        Self { core, generation, burst: Vec::new() }
    }

    fn end(&self, end: End) {
        let mut state = self.core.state();
        if state.generation == self.generation {
            state.ended.get_or_insert(end);
            drop(state);
            self.core.work.notify_one();
        }
    }
}

impl Sink for Inlet {
    fn delivery(&mut self, number: u64, redelivered: bool, content: Content) {
        self.burst.push((number, Arrived { content, redelivered }));
    }

    fn notice(&mut self, method: Method) -> Result<(), PortError> {
        if matches!(method, Method::BasicCancel { .. }) {
            self.end(End::Cancelled);
        }
        Ok(())
    }

    fn burst_ended(&mut self) {
        if self.burst.is_empty() {
            return;
        }
        let mut is_in_order = true;
        {
            let mut state = self.core.state();
            if state.generation != self.generation {
                return self.burst.clear();
            }
            for (number, arrived) in self.burst.drain(..) {
                is_in_order &= state.claims.arrive(number, arrived);
            }
        }
        if !is_in_order {
            self.end(End::Lost(PortError::new(
                Kind::Corrupt,
                "the broker does not number deliveries one by one",
            )));
        }
        self.core.arrived.notify_one();
    }

    fn closed(&mut self, error: &PortError) {
        self.end(End::Lost(error.clone()));
    }
}
