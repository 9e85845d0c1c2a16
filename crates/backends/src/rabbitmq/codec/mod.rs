//! AMQP 0-9-1 on the wire: frames, methods, properties and tables. No I/O.
//!
//! The published codecs copy bodies byte by byte or bring a TCP stack along; this one hands out bodies as slices of
//! what was read.

pub(crate) mod field;
pub(crate) mod frame;
pub(crate) mod method;
pub(crate) mod properties;
pub(crate) mod table;

/// What the other side sent is not AMQP, or not the AMQP that was agreed upon. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something that is not AMQP 0-9-1: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);
