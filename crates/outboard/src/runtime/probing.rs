//! Probes: messages that find out whether the target is well again, and questions that need no message.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::oneshot, time::Instant};

use super::{Runtime, info::count, verdict::panic_text};
use crate::{
    handler::{Handler, Unwell},
    outage::{Event, Probe, Spent},
};

/// What a target that was asked said; if it is not well, why, and how long it took to find out.
pub(super) type Answered = Result<(), (Unwell, Spent)>;

impl Runtime {
    pub(super) fn probe_due(&self) -> Option<Instant> {
        if self.is_paused { None } else { self.outage.as_ref()?.probe_due() }
    }

    /// Begins the next probe.
    pub(super) fn probe(&mut self) {
        let Some(outage) = &mut self.outage else { return };
        let Some(probe) = outage.probe(Instant::now()) else { return };
        if let Some((_, probes)) = outage.open() {
            self.shared.probed(probes);
        }
        count(&self.shared.tally.probes);
        match probe {
            Probe::Message { delivery, limit } => self.slots.start(delivery, limit, true),
            Probe::Ask { limit } => {
                let (sender, answer) = oneshot::channel();
                let handler = self.handler.clone();
                tokio::spawn(async move {
                    // The loop may have ended meanwhile.
                    let _ = sender.send(ask(handler, limit).await);
                });
                self.asking = Some(answer);
            }
        }
    }

    pub(super) fn answered(&mut self, answer: Answered) {
        self.asking = None;
        let event = match answer {
            Ok(()) => Event::Well,
            Err((Unwell::Said(reason), spent)) => Event::Sick { reason: reason.into(), spent, is_said: true },
            Err((Unwell::Silent(reason), spent)) => {
                Event::Sick { reason: reason.into(), spent, is_said: false }
            }
        };
        self.tell(Instant::now(), event);
    }
}

/// Whether this handler can ask its target. A panic counts as no.
pub(crate) fn can_ask(handler: &dyn Handler) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(|| handler.probe().is_some())).unwrap_or(false)
}

/// Asks the target, within `limit`.
async fn ask(handler: Arc<dyn Handler>, limit: Duration) -> Answered {
    let began = Instant::now();
    let question = AssertUnwindSafe(async {
        match handler.probe() {
            Some(answer) => tokio::time::timeout(limit, answer).await,
            None => Ok(Ok(())),
        }
    });
    let (unwell, is_expired) = match question.catch_unwind().await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(unwell))) => (unwell, false),
        Ok(Err(_elapsed)) => (Unwell::Silent(format!("the probe did not answer within {limit:?}")), true),
        Err(payload) => (Unwell::Silent(format!("the probe panicked: {}", panic_text(&*payload))), false),
    };
    Err((unwell, Spent { took: began.elapsed(), is_expired }))
}
