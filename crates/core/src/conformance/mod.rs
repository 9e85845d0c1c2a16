//! What every backend must do, one function per behaviour, taking the backend.
//!
//! A backend's tests call [`crate::conformance!`] once with an expression that makes a fresh [`Backend`]; each case becomes
//! a test with its own name.

pub mod consumer;
pub mod effects;
pub mod ledger;
pub mod log;
pub mod poison;
pub mod queue;
pub mod sharing;
pub mod store;

use std::{pin::Pin, sync::Arc, time::Duration};

use crate::{
    Clock, Ledger, Log, LogConsumer, NewMessage, Position, TypeSet,
    ledger::{OpenWorker, Opened, Start},
    log::Append,
    log_consumer::LogConsumerOptions,
};

/// A place that keeps what was committed while it is opened and closed.
pub trait Backend: Send + Sync {
    /// Opens it; finds what earlier opens committed.
    fn open(&self) -> Pin<Box<dyn Future<Output = Ports> + Send + '_>>;

    /// Closes it, so that it can be opened again.
    fn close(&self, ports: Ports) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// An opened backend.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Its log.
    pub log: Arc<dyn Log>,
    /// Its ledger, on the same storage.
    pub ledger: Arc<dyn Ledger>,
    /// The clock that it was given.
    pub clock: Arc<dyn Clock>,
}

impl Ports {
    /// Appends messages of these types with a small payload each; returns the first position.
    async fn append(&self, kinds: &[&str]) -> Position {
        let messages = kinds.iter().map(|kind| NewMessage::new(*kind, r#"{"n":1}"#)).collect::<Vec<_>>();
        self.log.append(Append::from(messages)).await.expect("the backend appends").first
    }

    async fn open_worker(&self, name: &str, start: Start) -> Opened {
        let open = OpenWorker { worker: name.into(), start, claims: 64 };
        self.ledger.open(open).await.expect("the worker opens")
    }

    /// A consumer of every type, from the beginning.
    async fn consumer(&self, name: &str, prefetch: u32) -> Arc<LogConsumer> {
        self.consumer_of(name, prefetch, TypeSet::all()).await
    }

    async fn consumer_of(&self, name: &str, prefetch: u32, types: TypeSet) -> Arc<LogConsumer> {
        let options = LogConsumerOptions {
            start: Start::Beginning,
            prefetch,
            claims: prefetch,
            ..LogConsumerOptions::new(name, types, self.clock.clone())
        };
        LogConsumer::open(self.log.clone(), self.ledger.clone(), options).await.expect("the consumer opens")
    }
}

/// A type set from patterns.
fn types(patterns: &[&str]) -> TypeSet {
    patterns.iter().map(|pattern| pattern.parse().expect("a pattern of the suite")).collect()
}

/// Fails instead of waiting forever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this happens within 20 s")
}

/// Whether a future is still waiting after everything that can happen now has happened.
async fn waits<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(40), future).await.is_err()
}

/// Makes one named test of every case for a backend; `$make` is evaluated for each.
#[macro_export]
macro_rules! conformance {
    ($make:expr) => {
        $crate::conformance_tests! { $make;
            log {
                positions_are_dense_and_ordered, an_append_is_all_or_nothing, what_was_appended_survives_reopening,
                timestamps_never_decrease, everything_of_a_message_comes_back, reading_keeps_to_its_types,
                reading_keeps_to_its_limits, get_answers_in_the_order_asked, a_repeated_key_gets_the_first_answer,
                a_key_with_another_body_is_refused, a_key_in_flight_waits, a_key_survives_reopening,
                an_expired_key_counts_as_new, concurrent_appends_get_their_own_positions,
                a_dropped_append_keeps_its_place, readers_are_woken_for_their_types,
                other_types_wake_a_reader_at_most_once_a_second,
            }
            ledger {
                a_new_worker_begins_at_the_end_or_the_beginning, done_ranges_survive_reopening,
                a_unit_in_conflict_leaves_its_neighbours_alone, a_later_unit_sees_an_earlier_one,
                an_older_epoch_is_fenced, counters_add_up, adding_to_text_is_refused,
                appending_what_the_log_would_refuse_is_refused, appends_of_a_unit_get_positions,
                parked_rows_come_by_due_time, running_rows_are_never_due, giving_back_uncounts_and_is_due,
                dead_letters_are_listed_by_page, a_revived_letter_is_parked_and_wakes, a_pause_survives_reopening,
                a_crash_charges_the_suspect_only, a_released_worker_is_clean, fates_tell_what_became_of_a_message,
                a_message_of_a_broker_is_done_once, unknown_things_are_not_found,
            }
            consumer {
                delivers_in_order, prefetch_bounds_what_is_unsettled, done_is_not_delivered_again,
                a_retry_comes_back_counted, a_snooze_is_not_counted, a_return_is_not_counted,
                a_dead_letter_can_come_back, a_cancelled_message_leaves_nothing, effects_commit_with_the_done_mark,
                a_conflict_is_delivered_again_uncounted, a_scheduled_message_waits_for_its_time,
                a_straggler_lets_the_cursor_pass, a_paused_consumer_delivers_nothing, a_drain_waits_for_what_is_claimed,
                a_drain_gives_back_the_rest_uncounted, given_back_attempts_are_due_at_once, a_dropped_next_loses_nothing,
                a_later_holder_fences_the_earlier, skipped_positions_are_committed, two_workers_each_get_everything,
                a_full_table_of_parked_messages_stops_claiming, many_retries_are_claimed_at_once,
                what_comes_back_at_once_leaves_the_thread,
            }
            effects {
                a_refused_settlement_is_a_dead_letter, a_refused_settlement_s_ticket_covers_its_dead_letter,
                an_impossible_append_is_a_dead_letter, large_effects_commit_apart,
                a_suspect_in_conflict_runs_alone_again,
            }
            poison {
                a_crash_repeats_what_was_claimed_alone, a_scheduled_message_is_no_suspect, three_crashes_bury_a_suspect,
                a_completed_run_clears_a_suspect, a_held_suspect_is_not_charged, what_flow_let_in_is_suspect,
                a_straggler_of_a_crash_stays_suspect,
            }
            sharing {
                due_messages_keep_to_their_share, due_messages_take_what_the_log_does_not,
                due_messages_wait_until_the_log_was_looked_at, one_claim_is_taken_in_turn,
                a_returned_message_comes_first_whatever_the_share,
            }
        }
    };
}

/// The inner part of [`conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr; $($group:ident { $($case:ident,)* })*) => {
        $(mod $group {
            $(
                #[tokio::test]
                async fn $case() {
                    let backend = $make;
                    $crate::conformance::$group::$case(&backend).await;
                }
            )*
        })*
    };
}
