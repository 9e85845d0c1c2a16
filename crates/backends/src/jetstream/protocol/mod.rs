//! NATS's own protocol, as far as JetStream needs it: lines, messages, headers, and one connection.
//!
//! Written for this backend because what a client library hides is what matters here: whether a request was written
//! before the connection ended, which words were still in the buffer, and when the peer was heard last. It also lets an
//! acknowledgement be written where it is decided, without a channel and a task between.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod headers;
pub(crate) mod replies;
