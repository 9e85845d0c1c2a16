//! Frames: what goes over the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Malformed, field::Field, method::Method, properties::Properties};

/// The first bytes of a connection.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Type, channel, length and the end.
pub(crate) const FRAME_OVERHEAD: usize = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;

/// The class of messages in content headers.
const BASIC: u16 = 60;

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Method(u16, Method),
    /// A message's properties, as they came, and the length of its body. Who consumes reads them, not who dispatches.
    Header(u16, Bytes, u64),
    Body(u16, Bytes),
    Heartbeat,
}

impl Frame {
    /// Takes the first frame, if it is there as a whole. `max` limits its size, as was agreed upon.
    pub(crate) fn read(from: &mut BytesMut, max: usize) -> Result<Option<Self>, Malformed> {
        let Some(head) = from.first_chunk::<7>() else { return Ok(None) };
        let (kind, channel) = (head[0], u16::from_be_bytes([head[1], head[2]]));
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if kind == b'A' {
            return Err(Malformed("the server speaks another version of AMQP"));
        }
        if length.saturating_add(FRAME_OVERHEAD) > max {
            return Err(Malformed("a frame is larger than was agreed"));
        }
        if from.len() < length + FRAME_OVERHEAD {
            from.reserve(length + FRAME_OVERHEAD - from.len());
            return Ok(None);
        }
        from.advance(7);
        let mut payload = from.split_to(length).freeze();
        if from.get_u8() != END {
            return Err(Malformed("a frame does not end where it should"));
        }
        let frame = match kind {
            METHOD => Self::Method(channel, Method::read(&mut payload)?),
            HEADER => {
                let (_class, _weight) = (u16::read(&mut payload)?, u16::read(&mut payload)?);
                let length = u64::read(&mut payload)?;
                return Ok(Some(Self::Header(channel, payload, length)));
            }
            BODY => return Ok(Some(Self::Body(channel, payload))),
            HEARTBEAT => Self::Heartbeat,
            _ => return Err(Malformed("a frame of an unknown type")),
        };
        if payload.has_remaining() { Err(Malformed("a frame has bytes left over")) } else { Ok(Some(frame)) }
    }

    /// Appends it.
    #[cfg(test)]
    pub(crate) fn write(&self, to: &mut BytesMut) {
        match self {
            Self::Method(channel, method) => put_method(to, *channel, method),
            Self::Header(channel, properties, length) => {
                put_header(to, *channel, *length, |to| to.put_slice(properties));
            }
            Self::Body(channel, body) => put_frame(to, BODY, *channel, |to| to.put_slice(body)),
            Self::Heartbeat => put_heartbeat(to),
        }
    }
}

/// Appends a method frame.
pub(crate) fn put_method(to: &mut BytesMut, channel: u16, method: &Method) {
    put_frame(to, METHOD, channel, |to| method.write(to));
}

/// Appends a message: its header, and its body in as many frames as it takes.
pub(crate) fn put_content(to: &mut BytesMut, channel: u16, properties: &Properties, body: &[u8], max: usize) {
    put_header(to, channel, body.len() as u64, |to| properties.write(to));
    for part in body.chunks(max - FRAME_OVERHEAD) {
        put_frame(to, BODY, channel, |to| to.put_slice(part));
    }
}

/// Appends a sign of life.
pub(crate) fn put_heartbeat(to: &mut BytesMut) {
    put_frame(to, HEARTBEAT, 0, |_| {});
}

fn put_header(to: &mut BytesMut, channel: u16, length: u64, properties: impl FnOnce(&mut BytesMut)) {
    put_frame(to, HEADER, channel, |to| {
        to.put_u16(BASIC);
        to.put_u16(0);
        to.put_u64(length);
        properties(to);
    });
}

fn put_frame(to: &mut BytesMut, kind: u8, channel: u16, payload: impl FnOnce(&mut BytesMut)) {
    to.put_u8(kind);
    to.put_u16(channel);
    let at = to.len();
    to.put_u32(0);
    payload(to);
    let length = u32::try_from(to.len() - at - 4).expect("a frame's size is limited");
    to[at..at + 4].copy_from_slice(&length.to_be_bytes());
    to.put_u8(END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbitmq::codec::{
        field::ShortString,
        table::{Table, Value},
    };

    const MAX: usize = 4_096;

    fn short(text: &str) -> ShortString {
        ShortString::new(text).unwrap()
    }

    fn written(properties: &Properties) -> Bytes {
        let mut bytes = BytesMut::new();
        properties.write(&mut bytes);
        bytes.freeze()
    }

    fn frames() -> Vec<Frame> {
        let arguments = Table::of([
            ("x-max-priority", 10.into()),
            ("x-dead-letter-exchange", "game.dlx".into()),
            ("large", i64::MAX.into()),
            ("deep", Value::Table(Table::of([("list", Value::Array(vec![true.into(), Value::Void]))]))),
            ("point", Value::Float(0.5)),
            ("at", Value::Timestamp(7)),
            ("bytes", Value::Binary(Bytes::from_static(b"\xff\0"))),
            ("digits", Value::Decimal(2, -314)),
        ]);
        let queue = short("orders/ü");
        let declare = Method::QueueDeclare { reserved1: 0, queue, flags: 0b10, arguments: arguments.clone() };
        let properties = Properties {
            headers: Some(arguments),
            delivery_mode: Some(2),
            message_id: Some(short("m-1")),
            ..Properties::default()
        };
        vec![
            Frame::Method(7, declare),
            Frame::Header(7, written(&properties), 5),
            Frame::Body(7, Bytes::from_static(b"hello")),
            Frame::Heartbeat,
            Frame::Method(0, Method::ConnectionCloseOk {}),
        ]
    }

    #[test]
    fn what_is_written_is_read_again_however_it_is_cut() {
        let mut whole = BytesMut::new();
        frames().iter().for_each(|frame| frame.write(&mut whole));
        for cut in 0..=whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut read = Vec::new();
            for rest in [&[][..], &whole[cut..]] {
                buffer.extend_from_slice(rest);
                while let Some(frame) = Frame::read(&mut buffer, MAX).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames(), "cut at {cut}");
        }
    }

    #[test]
    fn a_body_is_cut_to_the_size_that_was_agreed() {
        let body: Vec<u8> = (0..20_u8).collect();
        let mut buffer = BytesMut::new();
        put_content(&mut buffer, 3, &Properties::default(), &body, FRAME_OVERHEAD + 8);
        assert_eq!(
            Frame::read(&mut buffer, MAX).unwrap(),
            Some(Frame::Header(3, written(&Properties::default()), 20))
        );
        for part in body.chunks(8) {
            let expected = Frame::Body(3, Bytes::copy_from_slice(part));
            assert_eq!(Frame::read(&mut buffer, MAX).unwrap(), Some(expected));
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn anything_else_is_an_error_and_never_a_panic_or_a_wait() {
        let mut whole = BytesMut::new();
        frames().iter().for_each(|frame| frame.write(&mut whole));
        // Every byte of it spoiled, one at a time, in every way.
        for at in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut buffer = whole.clone();
                buffer[at] = value;
                while let Ok(Some(frame)) = Frame::read(&mut buffer, MAX) {
                    if let Frame::Header(_, properties, _) = frame {
                        let _ = Properties::read(properties);
                    }
                }
            }
        }
        let mut large = BytesMut::from(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(Frame::read(&mut large, MAX).is_err(), "nobody waits for 4 GiB");
        assert!(Frame::read(&mut BytesMut::from(&PROTOCOL_HEADER[..]), MAX).is_err());
        let mut endless = BytesMut::from(&[8, 0, 0, 0, 0, 0, 0, 0][..]);
        assert!(Frame::read(&mut endless, MAX).is_err());
    }

    #[test]
    fn tables_within_tables_have_a_limit() {
        let mut value = Value::Void;
        for _ in 0..100 {
            value = Value::Array(vec![value]);
        }
        let properties = Properties { headers: Some(Table::of([("deep", value)])), ..Properties::default() };
        assert!(Properties::read(written(&properties)).is_err());
    }
}
