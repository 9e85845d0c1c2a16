//! Why a call has no answer.

use std::{error::Error, io, net::IpAddr, time::Duration};

/// Why a call has no answer. An answer of any status is not an error.
///
/// The text is whole: it holds the cause, and no part of the URL but host and port.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host's name has no address, or the resolver did not tell it.
    #[error("the name {host} was not resolved: {cause}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// The host is at an address that [`crate::UrlPolicy`] does not allow.
    #[error("{origin} is at {address}, an address that must not be called")]
    Forbidden {
        /// Host and port.
        origin: String,
        /// The last of its addresses; no other one was allowed either.
        address: IpAddr,
    },
    /// Nobody listens there.
    #[error("{origin} refused the connection")]
    Refused {
        /// Host and port.
        origin: String,
    },
    /// No connection came about for another reason, such as no route.
    #[error("{origin} cannot be reached: {cause}")]
    Unreachable {
        /// Host and port.
        origin: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The TLS handshake failed: no TLS there, or a certificate that is not trusted.
    #[error("no TLS with {origin}: {cause}")]
    Tls {
        /// Host and port.
        origin: String,
        /// What rustls said.
        cause: io::Error,
    },
    /// It took too long.
    #[error("timeout after {} ms while {phase}", after.as_millis())]
    Timeout {
        /// What was being waited for.
        phase: Phase,
        /// The bound that was reached.
        after: Duration,
    },
    /// The connection ended before an answer had come; the request may have been processed.
    #[error("the connection was closed before the answer: {cause}")]
    Closed {
        /// What was seen of it.
        cause: String,
    },
    /// What came back is not HTTP/1.1, or its head is larger than the client takes.
    #[error("the answer is not understood: {cause}")]
    Protocol {
        /// What was wrong.
        cause: String,
    },
    /// Calls to as many different hosts as the client takes are under way.
    #[error("connections to {limit} different hosts are in use, which is the limit")]
    TooManyOrigins {
        /// The limit.
        limit: usize,
    },
}

/// What a call that timed out was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The name, the TCP connection or the TLS handshake.
    Connecting,
    /// A free connection, or the answer's head.
    Answering,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Answering => "waiting for the answer",
        })
    }
}

impl ClientError {
    /// Whether it is certain that the request was not sent, so that a repetition cannot do anything twice.
    pub fn was_not_sent(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Forbidden { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::TooManyOrigins { .. } => true,
            Self::Timeout { phase, .. } => *phase == Phase::Connecting,
            Self::Closed { .. } | Self::Protocol { .. } => false,
        }
    }

    /// Sorts what hyper says about a connection on which no answer came.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        let cause = whole_text(error);
        let broken_pipe = error.source().is_some_and(<dyn Error>::is::<io::Error>);
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || broken_pipe {
            Self::Closed { cause }
        } else {
            Self::Protocol { cause }
        }
    }
}

fn whole_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
