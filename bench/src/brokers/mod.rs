//! The whole worker on brokers, beside other clients on the same broker: the same messages, in turn.

mod alternate;
mod amqp;
mod jetstream;
mod rabbitmq;
mod sidekiq;
mod workshop;

pub(crate) use self::{jetstream::run as jetstream, rabbitmq::run as rabbitmq, sidekiq::run as sidekiq};
