//! Outboard's ports on brokers: a module and a feature each.

mod address;
#[cfg(any(feature = "rabbitmq", feature = "redis", feature = "jetstream"))]
mod authority;
#[cfg(any(feature = "rabbitmq", feature = "redis", feature = "jetstream"))]
mod tls;

#[cfg(feature = "jetstream")]
pub mod jetstream;

#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;

#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "redis")]
pub mod redis_store;

#[cfg(feature = "sidekiq")]
pub mod sidekiq;

pub use address::{OpenOptions, check_url, open, queue_of_url};
#[cfg(any(feature = "rabbitmq", feature = "sidekiq", feature = "jetstream"))]
pub use address::{check_ca_file, check_queue};
