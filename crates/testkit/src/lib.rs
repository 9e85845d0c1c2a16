//! Real brokers for tests and measurements, and a connection that fails on command.
//!
//! Servers come from Debian's packages (`scripts/test` installs them), each on free ports and in a directory of its own.
//! A shell holds each one and takes it down, with its directory, when the process that started it is gone: no test
//! leaves a server behind, however it ended.

mod certificates;
mod held;
pub mod nats;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;

pub use certificates::{Certificates, Refusal};
pub use held::free_ports;
pub use nats::Nats;
pub use proxy::Proxy;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;
