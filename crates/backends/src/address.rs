//! One URL picks the backend.

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, Kind, PortError, Queue, queue::QueueName};

/// Where a broker is: the URL's scheme says which it is.
#[derive(Debug, Clone)]
enum Address {
    #[cfg(feature = "rabbitmq")]
    RabbitMq(crate::rabbitmq::Target),
    #[cfg(feature = "sidekiq")]
    Sidekiq(crate::sidekiq::Address),
    #[cfg(feature = "jetstream")]
    JetStream(crate::jetstream::Target),
}

fn parse(url: &str) -> Result<Address, PortError> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        #[cfg(feature = "rabbitmq")]
        Some("amqp" | "amqps") => url.parse().map(Address::RabbitMq),
        #[cfg(feature = "sidekiq")]
        Some("sidekiq+redis" | "sidekiq+rediss") => url.parse().map(Address::Sidekiq),
        #[cfg(feature = "jetstream")]
        Some("nats" | "tls") => url.parse().map(Address::JetStream),
        Some("redis" | "rediss") => {
            let text =
                "the broker's URL is one of Redis: for Sidekiq's queues there, write `sidekiq+` before it";
            Err(PortError::new(Kind::Invalid, text))
        }
        _ => {
            let text = "the broker's URL begins with amqp://, amqps://, sidekiq+redis://, sidekiq+rediss://, nats:// or tls://";
            Err(PortError::new(Kind::Invalid, text))
        }
    }
}

/// Whether a URL is one that [`open`] takes. The error names what is wrong, and no password.
pub fn check_url(url: &str) -> Result<(), PortError> {
    parse(url).map(drop)
}

/// Whether the broker of a URL can have a queue of this name. The error names what is wrong with it.
#[cfg(any(feature = "rabbitmq", feature = "sidekiq", feature = "jetstream"))]
pub fn check_queue(url: &str, name: &str) -> Result<(), PortError> {
    match parse(url)? {
        #[cfg(feature = "rabbitmq")]
        Address::RabbitMq(_) => crate::rabbitmq::check_name(name),
        #[cfg(feature = "sidekiq")]
        Address::Sidekiq(_) => crate::sidekiq::checked_name(name).map(drop),
        #[cfg(feature = "jetstream")]
        Address::JetStream(_) => crate::jetstream::check_stream(name),
    }
}

/// Whether the CA file that a URL names is there, and holds certificates; so it does when none is named. `Invalid` with what
/// is wrong with it.
#[cfg(any(feature = "rabbitmq", feature = "sidekiq", feature = "jetstream"))]
pub async fn check_ca_file(url: &str) -> Result<(), PortError> {
    let tls = match parse(url)? {
        #[cfg(feature = "rabbitmq")]
        Address::RabbitMq(target) => target.tls,
        #[cfg(feature = "sidekiq")]
        Address::Sidekiq(address) => address.target.tls,
        #[cfg(feature = "jetstream")]
        Address::JetStream(target) => Some(target.tls),
    };
    match tls {
        Some(tls) => crate::tls::roots(&tls).await.map(drop),
        None => Ok(()),
    }
}

/// The queue that a URL names, if it names one.
pub fn queue_of_url(url: &str) -> Option<QueueName> {
    match parse(url).ok()? {
        #[cfg(feature = "rabbitmq")]
        Address::RabbitMq(_) => None,
        #[cfg(feature = "sidekiq")]
        Address::Sidekiq(address) => address.queue,
        #[cfg(feature = "jetstream")]
        Address::JetStream(_) => None,
    }
}

/// What a broker cannot tell about itself.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// How long RabbitMQ lets a delivery be unsettled: its `consumer_timeout`.
    pub ack_timeout: Duration,
}

/// A broker's queues, not connected yet: it is connected, and recovered, by itself. Needs a tokio runtime.
///
/// Errors: `Invalid` for a URL that cannot be read.
#[cfg_attr(
    not(all(feature = "rabbitmq", any(feature = "sidekiq", feature = "jetstream"))),
    expect(unused_variables, reason = "RabbitMQ alone has options, and it alone has no use for the clock")
)]
pub fn open(url: &str, options: OpenOptions, clock: Arc<dyn Clock>) -> Result<Arc<dyn Queue>, PortError> {
    match parse(url)? {
        #[cfg(feature = "rabbitmq")]
        Address::RabbitMq(target) => {
            let options = crate::rabbitmq::Options { ack_timeout: options.ack_timeout, ..Default::default() };
            Ok(Arc::new(crate::rabbitmq::RabbitMq::new(target, options)))
        }
        #[cfg(feature = "sidekiq")]
        Address::Sidekiq(address) => Ok(Arc::new(crate::sidekiq::Sidekiq::open(address, clock))),
        #[cfg(feature = "jetstream")]
        Address::JetStream(target) => {
            let options = crate::jetstream::Options::default();
            Ok(Arc::new(crate::jetstream::JetStream::open(target, options, clock)))
        }
    }
}
