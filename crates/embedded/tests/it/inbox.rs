//! The inbox: done messages of brokers are remembered for a time, and not for ever.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Clock, Ledger, Time,
    ledger::{Unit, UnitResult},
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::support::{commit, hold};

#[tokio::test(start_paused = true)]
async fn an_id_is_forgotten_after_its_time_or_when_there_are_too_many() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Time::from_millis(1_000)));
    let keep = Duration::from_secs(10);
    let options = Options { clock, inbox_keep: keep, inbox_ids: 5, ..Options::default() };
    let log = Embedded::memory(&MemoryDisk::new().unwrap(), options).await.unwrap();
    let epoch = hold(&log, "w").await.epoch;
    let done = |id: String| Unit { inbox: Some(id.into()), ..Unit::of("w".into(), epoch) };
    for number in 0..8 {
        assert_eq!(commit(&log, done(format!("m{number}"))).await, UnitResult::Applied(None));
    }
    let ids = || (0..8).map(|number| format!("m{number}").into()).collect();
    let known = log.inbox("w".into(), ids()).await.unwrap();
    assert_eq!(known, [false, false, false, true, true, true, true, true], "the five youngest");
    tokio::time::advance(keep).await;
    assert_eq!(log.inbox("w".into(), ids()).await.unwrap(), [false; 8]);
    assert_eq!(commit(&log, done("m7".into())).await, UnitResult::Applied(None), "it counts as new");
}
