//! One HTTP/1.1 connection, driven by the call that uses it.
//!
//! hyper's connection is usually a task of its own. Here the call polls it, which spares two task switches a request
//! and makes a dropped call close its connection at once.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{connect::Stream, error::ClientError};

/// The largest head of an answer, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// A request as the client sends it.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// hyper's end of the connection. Dropped as soon as it has ended: only that tells a request that still waits in its
/// queue that it was never sent.
struct Driver(Option<http1::Connection<TokioIo<Stream>, Full<Bytes>>>);

impl Driver {
    /// Reads and writes what can be. Who waits for an answer or a body hears there of what went wrong.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.0.as_mut().is_some_and(|connection| Pin::new(connection).poll(cx).is_ready()) {
            self.0 = None;
        }
    }
}

pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    /// Until when it may wait for its next request.
    pub(super) idle_until: Instant,
}

impl Connection {
    pub(super) async fn open(stream: Stream) -> Result<Self, ClientError> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::from_hyper(&error))?;
        Ok(Self { sender, driver: Driver(Some(driver)), idle_until: Instant::now() })
    }

    /// Whether it can take a request: looks once whether the peer has closed it, and does not wait.
    pub(super) async fn can_send(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            self.driver.drive(cx);
            Poll::Ready(self.driver.0.is_some() && self.sender.is_ready())
        })
        .await
    }

    /// Sends a request and waits for the head of its answer. An error that holds the request was never sent.
    pub(super) async fn exchange(
        &mut self,
        request: Outgoing,
    ) -> Result<Response<Incoming>, TrySendError<Outgoing>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        std::future::poll_fn(|cx| {
            // The order matters: what the driver reads is there for the answer in the same turn.
            driver.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Reads a body to its end, keeps its first bytes and throws the rest away. Cancel-safe, with what was kept in
    /// `kept`. Returns whether the end was reached; otherwise the connection is of no more use.
    pub(super) async fn read(&mut self, mut body: Incoming, limits: BodyLimits, kept: &mut Kept) -> bool {
        let mut total = 0;
        std::future::poll_fn(|cx| {
            let mut is_driven = false;
            loop {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        is_driven = false;
                        let Ok(data) = frame.into_data() else { continue };
                        total += data.len();
                        kept.add(data, limits.kept);
                        if total > limits.drained {
                            return Poll::Ready(false);
                        }
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Pending if is_driven => return Poll::Pending,
                    Poll::Pending => {
                        self.driver.drive(cx);
                        is_driven = true;
                    }
                }
            }
        })
        .await
    }
}

/// How much of an answer's body is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// So many bytes are kept.
    pub(super) kept: usize,
    /// After so many bytes reading stops.
    pub(super) drained: usize,
}

/// The first bytes of a body; one chunk is kept as it came, without a copy.
#[derive(Debug, Default)]
pub(super) struct Kept {
    first: Bytes,
    joined: BytesMut,
    /// Whether something was thrown away.
    pub(super) is_cut: bool,
}

impl Kept {
    fn add(&mut self, mut data: Bytes, limit: usize) {
        let room = limit - self.first.len().max(self.joined.len());
        self.is_cut |= data.len() > room;
        data.truncate(room);
        if data.is_empty() {
            return;
        }
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    pub(super) fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

/// How long the peer says that it keeps an idle connection: `Keep-Alive: timeout=5`. A second less is safe.
pub(super) fn peer_idle(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    Some(Duration::from_secs(seconds.trim().parse::<u64>().ok()?.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_bytes_are_the_first_ones_whatever_the_chunks() {
        for chunk in [1, 3, 7, 100] {
            let text: Vec<u8> = (0..100).collect();
            let mut kept = Kept::default();
            for part in text.chunks(chunk) {
                kept.add(Bytes::copy_from_slice(part), 10);
            }
            assert_eq!(kept.into_bytes(), text[..10], "chunks of {chunk}");
        }
    }

    #[test]
    fn the_peers_keep_alive_is_read_with_a_second_to_spare() {
        for (value, idle) in [
            ("timeout=5", Some(4)),
            ("timeout=5, max=1000", Some(4)),
            ("max=10, timeout=60", Some(59)),
            ("timeout=0", Some(0)),
            ("timeout=soon", None),
            ("max=10", None),
        ] {
            let headers = [("keep-alive", value)];
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>();
            assert_eq!(peer_idle(&headers), idle.map(Duration::from_secs), "{value}");
        }
    }
}
