//! What goes over a connection: a task that reads and one that writes.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use outboard_core::{Kind, PortError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

use super::{Shared, closed_by_broker};
use crate::rabbitmq::{
    channel::Channel,
    codec::{
        frame::{Frame, put_heartbeat, put_method},
        method::Method,
    },
    handshake::{Reader, Writer},
};

/// What is read at once, at most. What is delivered is a part of it, so that it lives as long as one of these is kept.
const READ_BYTES: usize = 64 << 10;

/// With less room than this left, the next buffer is begun.
const READ_LEAST: usize = 8 << 10;

/// The end of a burst comes after this many frames, also when more have been read.
const BURST_FRAMES: usize = 384;

/// What the reader knows of the channels.
#[derive(Default)]
struct Reading {
    /// The channel of the last frame: the next one is nearly always for it, too.
    current: Option<(u16, Channel)>,
    /// Got something in this burst.
    touched: Vec<Channel>,
}

pub(super) async fn read(shared: Arc<Shared>, mut reader: Reader, mut buffer: BytesMut) {
    let mut reading = Reading::default();
    let mut ended = shared.ended.subscribe();
    let mut ended = pin!(ended.wait_for(Option::is_some));
    // Any traffic is a sign of life.
    let silence = 2 * shared.agreed.heartbeat;
    let mut last_sign = Instant::now();
    let mut deadline = pin!(sleep_until(last_sign + silence));
    let error = loop {
        match reading.take_frames(&shared, &mut buffer) {
            Ok(is_more) => {
                reading.end_burst();
                if is_more {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            Err(error) => break error,
        }
        if buffer.capacity() - buffer.len() < READ_LEAST {
            buffer.reserve(READ_BYTES);
        }
        tokio::select! {
            biased;
            _ = &mut ended => return,
            read = reader.read_buf(&mut buffer) => match read {
                Ok(0) => break PortError::new(Kind::Unavailable, "the broker closed the connection"),
                Ok(_) => last_sign = Instant::now(),
                Err(error) => break lost(&error),
            },
            () = &mut deadline => {
                if last_sign.elapsed() >= silence {
                    break silent(silence);
                }
                deadline.as_mut().reset(last_sign + silence);
            }
        }
    };
    reading.end_burst();
    shared.end(error);
}

impl Reading {
    /// Gives frames to whom they are for; whether some may be left. An error ends the connection.
    fn take_frames(&mut self, shared: &Shared, buffer: &mut BytesMut) -> Result<bool, PortError> {
        let corrupt = |error| PortError::new(Kind::Corrupt, format!("{error}"));
        for _ in 0..BURST_FRAMES {
            let Some(frame) = Frame::read(buffer, shared.agreed.frame_max).map_err(corrupt)? else {
                return Ok(false);
            };
            self.dispatch(shared, frame)?;
        }
        Ok(true)
    }

    fn dispatch(&mut self, shared: &Shared, frame: Frame) -> Result<(), PortError> {
        let (number, is_end) = match &frame {
            Frame::Heartbeat => return Ok(()),
            Frame::Method(0, _) => return on_own(shared, frame),
            Frame::Method(number, method) => {
                (*number, matches!(method, Method::ChannelClose { .. } | Method::ChannelCloseOk {}))
            }
            Frame::Header(number, ..) | Frame::Body(number, _) => (*number, false),
        };
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            let channel = shared.channels().by_number.get(&number).cloned();
            self.current = channel.map(|channel| (number, channel));
        }
        // Without it, this is what was on its way when the channel was closed.
        if let Some((_, channel)) = &self.current
            && channel.on_frame(frame)?
        {
            self.touched.push(channel.clone());
        }
        if is_end {
            self.current = None;
        }
        Ok(())
    }

    fn end_burst(&mut self) {
        for channel in self.touched.drain(..) {
            channel.burst_ended();
        }
    }
}

/// A frame for the connection itself.
fn on_own(shared: &Shared, frame: Frame) -> Result<(), PortError> {
    let Frame::Method(_, method) = frame else { return Ok(()) };
    match method {
        Method::ConnectionClose { code, text, .. } => {
            put_method(&mut shared.out(), 0, &Method::ConnectionCloseOk {});
            shared.flush.notify_one();
            Err(closed_by_broker(code, text.as_str()))
        }
        Method::ConnectionCloseOk {} => Err(PortError::new(Kind::Closed, "the connection is closed")),
        Method::ConnectionBlocked { reason } => {
            tracing::warn!(reason = reason.as_str(), "the broker takes no messages for now");
            shared.blocked.send_replace(Some(reason.as_str().into()));
            Ok(())
        }
        Method::ConnectionUnblocked {} => {
            tracing::info!("the broker takes messages again");
            shared.blocked.send_replace(None);
            Ok(())
        }
        other => {
            let text = format!("the broker sent {} on channel 0", other.name());
            Err(PortError::new(Kind::Corrupt, text))
        }
    }
}

pub(super) async fn write(shared: Arc<Shared>, mut writer: Writer) {
    let mut batch = BytesMut::new();
    let silence = 2 * shared.agreed.heartbeat;
    loop {
        std::mem::swap(&mut batch, &mut *shared.out());
        if batch.is_empty() {
            if shared.ended.borrow().is_some() {
                break;
            }
            if timeout(shared.agreed.heartbeat / 2, shared.flush.notified()).await.is_err() {
                put_heartbeat(&mut shared.out());
            }
            continue;
        }
        // A peer that takes nothing would hold up acknowledgements and heartbeats for ever.
        match timeout(silence, writer.write_all(&batch)).await {
            Ok(Ok(())) => keep_small(&mut batch),
            Ok(Err(error)) => return shared.end(lost(&error)),
            Err(_) => return shared.end(silent(silence)),
        }
    }
    let _ = writer.shutdown().await;
}

/// Empties a buffer, and gives back what one large burst has made it.
fn keep_small(batch: &mut BytesMut) {
    if batch.capacity() > 4 * READ_BYTES {
        *batch = BytesMut::new();
    } else {
        batch.clear();
    }
}

fn lost(error: &std::io::Error) -> PortError {
    PortError::new(Kind::Unavailable, format!("the connection to the broker is lost: {error}"))
}

fn silent(silence: Duration) -> PortError {
    PortError::new(Kind::Unavailable, format!("the broker has been silent for {} s", silence.as_secs()))
}
