//! What a [`Store`] must do, one function per behaviour.
//!
//! A backend's tests call [`crate::store_conformance!`] once with an expression that makes a [`StoreBackend`].

pub mod counting;
pub mod expiring;
pub mod keeping;
pub mod leasing;
pub mod watching;

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::broadcast;

use super::soon;
use crate::{
    Kind, PortError,
    store::{Change, Entry, Store, StoreKey, Version, When, Write, next_change},
};

/// A place that keeps what was written while it is opened and closed.
pub trait StoreBackend: Send + Sync {
    /// Opens it; finds what earlier opens wrote.
    fn open(&self) -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send + '_>>;

    /// Closes what was opened, so that it can be opened again.
    fn close(&self, store: Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

async fn get(store: &dyn Store, key: &str) -> Option<Entry> {
    soon(store.get(vec![key.into()])).await.expect("the store answers").remove(0)
}

/// The value of a key as text.
async fn text(store: &dyn Store, key: &str) -> Option<String> {
    get(store, key).await.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

async fn write(store: &dyn Store, write: Write) -> Result<Version, PortError> {
    soon(store.write(vec![write])).await.expect("the store answers").remove(0)
}

fn set(key: &str, value: &str) -> Write {
    set_when(key, value, When::Always)
}

fn set_when(key: &str, value: &str, when: When) -> Write {
    Write::Set { key: key.into(), value: value.to_owned().into(), ttl: None, when }
}

fn set_for(key: &str, value: &str, ttl: Duration) -> Write {
    let (key, value) = (key.into(), value.to_owned().into());
    Write::Set { key, value, ttl: Some(ttl), when: When::Always }
}

fn delete(key: &str, when: When) -> Write {
    Write::Delete { key: key.into(), when }
}

fn kind<T: std::fmt::Debug>(result: Result<T, PortError>) -> Kind {
    result.expect_err("the store refuses it").kind
}

async fn watch(store: &dyn Store, prefix: &str) -> broadcast::Receiver<Change> {
    soon(store.watch(prefix.into())).await.expect("the prefix can be watched")
}

/// Waits until a watcher is told of this key.
async fn told_of(changes: &mut broadcast::Receiver<Change>, key: &str) {
    let key = Change::Key(StoreKey::from(key));
    while soon(next_change(changes)).await.expect("the store is open") != key {}
}

/// Makes one named test of every case for a store; `$make` is evaluated for each and makes a future of a
/// [`StoreBackend`].
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        $crate::store_conformance_tests! { $make;
            keeping {
                what_was_set_is_there, what_was_deleted_is_gone, answers_come_in_the_order_asked,
                an_absent_key_is_set_once, a_version_is_changed_once, of_fifty_that_want_it_absent_one_wins,
                of_fifty_that_change_a_version_one_wins, one_refused_write_leaves_the_others_alone,
                a_later_write_sees_an_earlier_one, versions_never_come_again, versions_outlive_a_deletion_and_a_restart,
                every_byte_comes_back, unicode_keys_are_kept_apart, what_is_too_large_is_refused,
                ten_thousand_keys_are_kept, what_was_set_survives_reopening,
            }
            expiring {
                a_time_to_live_is_told, what_has_expired_is_gone_and_told, an_expired_key_counts_as_absent,
                versions_outlive_expiry, a_set_without_a_time_lives_for_ever, a_set_starts_the_time_anew,
                a_time_to_live_of_zero_is_refused, what_expires_survives_reopening, many_expire_together,
            }
            counting {
                counters_add_up, fifty_that_add_lose_nothing, a_sum_that_does_not_fit_is_refused,
                adding_to_something_else_is_refused, a_number_that_was_set_counts, counting_changes_the_version,
                a_counter_s_time_starts_anew, a_counter_keeps_its_time,
            }
            watching {
                a_watcher_is_told_of_its_prefix, a_watcher_is_told_of_everybody_s_changes,
                a_change_is_told_after_it_happened, who_lags_is_told_so, an_empty_prefix_is_everything,
            }
            leasing {
                a_lease_has_one_holder, a_living_holder_keeps_it, a_dead_holder_is_followed,
                many_wait_and_each_has_it_alone, what_was_taken_away_is_lost, what_is_dropped_is_given_back,
            }
        }
    };
}

/// The inner part of [`store_conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! store_conformance_tests {
    ($make:expr; $($group:ident { $($case:ident,)* })*) => {
        $(mod $group {
            $(
                #[tokio::test]
                async fn $case() {
                    let backend = $make.await;
                    $crate::conformance::store::$group::$case(&backend).await;
                }
            )*
        })*
    };
}
