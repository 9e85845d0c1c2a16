//! Sidekiq's queues on Redis, in both directions: jobs for Ruby, and jobs from Ruby.
//!
//! A job is an entry of a Redis list. Where Sidekiq takes it off the list and loses it with the process, a consumer of ours
//! moves it into a hash of its own in the same step, by number, and removes it there when it is settled: a process that
//! is killed leaves its jobs where others find them. Failed jobs wait, and dead ones lie, in Sidekiq's own sets, so
//! that its pages show them and its processes can run them.
//!
//! How far Sidekiq's pages know us: queues, retries, scheduled and dead jobs, and what was processed and failed. Processes
//! of ours are not listed, on purpose: Sidekiq looks the less often for due jobs the more processes there are, and we look
//! for those of our own queues only.
//!
//! Claims are not bound to a connection: what is in hand when one is lost stays in hand, and is settled over the next.

mod port;
mod url;

mod consumer;
mod job;
mod look;
mod object;
mod publish;
mod schedule;

mod keys;
mod scripts;
mod stamp;

pub use port::Sidekiq;
pub(crate) use url::checked_name;
pub use url::{Address, Jobs};

#[cfg(test)]
mod tests;
