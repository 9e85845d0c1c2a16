//! What a server sends, and how what we send is written.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter};
use outboard_core::{Kind, PortError};

/// The longest line before its CR LF; a server's INFO is the longest one by far.
const MAX_LINE: usize = 64 << 10;

/// The largest message that is taken, headers included; a server allows 64 MiB at most.
const MAX_MESSAGE: usize = 64 << 20;

/// One thing that a server says.
#[derive(Debug)]
pub(crate) enum Frame {
    /// What it is and allows: a JSON object.
    Info(Bytes),
    Message(Incoming),
    Ping,
    Pong,
    Ok,
    /// An error; most of them end the connection.
    Refusal(String),
}

/// A message on one of our subscriptions. Its parts share one buffer.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    frame: Bytes,
    pub(crate) sid: u64,
    subject: (u32, u32),
    reply: (u32, u32),
    headers: (u32, u32),
    payload: (u32, u32),
}

impl Incoming {
    pub(crate) fn subject(&self) -> &str {
        // Subjects are checked to be UTF-8 when they are read.
        std::str::from_utf8(self.part(self.subject)).unwrap_or_default()
    }

    /// Where an answer goes; empty for nowhere.
    pub(crate) fn reply(&self) -> &[u8] {
        self.part(self.reply)
    }

    /// The block of headers as it was sent; empty without any.
    pub(crate) fn headers(&self) -> &[u8] {
        self.part(self.headers)
    }

    /// The payload, not copied.
    pub(crate) fn payload(&self) -> Bytes {
        self.frame.slice(self.payload.0 as usize..self.payload.1 as usize)
    }

    /// The status that a server puts in the place of a message, such as 503 when nobody takes a request.
    pub(crate) fn status(&self) -> Option<u16> {
        let line = self.headers().strip_prefix(b"NATS/1.0 ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }

    fn part(&self, (from, to): (u32, u32)) -> &[u8] {
        &self.frame[from as usize..to as usize]
    }
}

impl Frame {
    /// Takes one frame from what was read; nothing while it is not complete. An error is not to be survived.
    pub(crate) fn read(buffer: &mut BytesMut) -> Result<Option<Self>, PortError> {
        let Some(end) = memchr(b'\n', &buffer[..buffer.len().min(MAX_LINE)]) else {
            if buffer.len() >= MAX_LINE {
                return Err(corrupt("a line without an end"));
            }
            return Ok(None);
        };
        let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
        if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            return Self::read_message(buffer, end);
        }
        let line = Bytes::copy_from_slice(line);
        let _ = buffer.split_to(end + 1);
        let text = std::str::from_utf8(&line).map_err(|_| corrupt("a line that is no text"))?;
        Ok(Some(match text {
            "PING" => Self::Ping,
            "PONG" => Self::Pong,
            "+OK" => Self::Ok,
            _ if text.starts_with("INFO ") => Self::Info(line.slice(5..)),
            _ if text.starts_with("-ERR") => Self::Refusal(text[4..].trim().trim_matches('\'').to_owned()),
            _ => return Err(corrupt("something that is no frame of NATS")),
        }))
    }

    fn read_message(buffer: &mut BytesMut, end: usize) -> Result<Option<Self>, PortError> {
        let bad = || corrupt("a message that cannot be read");
        let line = buffer[..end].trim_ascii_end();
        let has_headers = line.starts_with(b"H");
        let mut parts = [(0_u32, 0_u32); 6];
        let mut count = 0;
        let mut from = 0;
        for to in memchr_iter(b' ', line).chain([line.len()]) {
            if to > from {
                *parts.get_mut(count).ok_or_else(bad)? = (from as u32, to as u32);
                count += 1;
            }
            from = to + 1;
        }
        let lengths = if has_headers { 2 } else { 1 };
        let has_reply = match count.checked_sub(lengths) {
            Some(3) => false,
            Some(4) => true,
            _ => return Err(bad()),
        };
        let part = |(from, to): (u32, u32)| &line[from as usize..to as usize];
        let number = |word| read_number(part(word)).ok_or_else(bad);
        std::str::from_utf8(part(parts[1])).map_err(|_| bad())?;
        let sid = number(parts[2])?;
        let total = number(parts[count - 1])? as usize;
        let head = if has_headers { number(parts[count - 2])? as usize } else { 0 };
        if total > MAX_MESSAGE || head > total {
            return Err(bad());
        }
        let (subject, reply) = (parts[1], if has_reply { parts[3] } else { (0, 0) });
        let body = end + 1;
        let whole = body + total + 2;
        if buffer.len() < whole {
            buffer.reserve(whole - buffer.len());
            return Ok(None);
        }
        let frame = buffer.split_to(whole).freeze();
        if &frame[whole - 2..] != b"\r\n" {
            return Err(bad());
        }
        let headers = (body as u32, (body + head) as u32);
        let payload = ((body + head) as u32, (body + total) as u32);
        Ok(Some(Self::Message(Incoming { frame, sid, subject, reply, headers, payload })))
    }
}

fn corrupt(what: &str) -> PortError {
    PortError::new(Kind::Corrupt, format!("the server sent {what}: is it NATS?"))
}

/// Appends a publication; `headers` is a whole block, or empty.
pub(crate) fn put_publication(
    out: &mut BytesMut,
    subject: &[u8],
    reply: &[u8],
    headers: &[u8],
    payload: &[u8],
) {
    out.reserve(subject.len() + reply.len() + headers.len() + payload.len() + 48);
    out.extend_from_slice(if headers.is_empty() { b"PUB " } else { b"HPUB " });
    out.extend_from_slice(subject);
    out.extend_from_slice(b" ");
    if !reply.is_empty() {
        out.extend_from_slice(reply);
        out.extend_from_slice(b" ");
    }
    if !headers.is_empty() {
        put_number(out, headers.len() as u64);
        out.extend_from_slice(b" ");
    }
    put_number(out, (headers.len() + payload.len()) as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(headers);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits.
pub(crate) fn put_number(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A number of decimal digits.
pub(crate) fn read_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let sent = b"INFO {\"a\":1} \r\nPING\r\nMSG a.b 7 5\r\nhello\r\nHMSG c 8 _R.1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n-ERR 'no'\r\n";
        for step in 1..sent.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in sent.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(frame) = Frame::read(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            let [Frame::Info(_), Frame::Ping, Frame::Message(one), Frame::Message(two), Frame::Refusal(no)] =
                &seen[..]
            else {
                panic!("{seen:?}")
            };
            assert_eq!(
                (one.subject(), one.sid, one.reply(), &one.payload()[..]),
                ("a.b", 7, &b""[..], &b"hello"[..])
            );
            assert_eq!(
                (two.subject(), two.sid, two.reply(), &two.payload()[..]),
                ("c", 8, &b"_R.1"[..], &b"hi"[..])
            );
            assert_eq!((two.headers(), no.as_str()), (&b"NATS/1.0\r\n\r\n"[..], "no"));
        }
    }

    #[test]
    fn a_status_is_read_from_the_first_line() {
        let mut buffer = BytesMut::from(&b"HMSG c 8 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"[..]);
        let Some(Frame::Message(message)) = Frame::read(&mut buffer).unwrap() else { panic!("a message") };
        assert_eq!(message.status(), Some(503));
    }

    #[test]
    fn what_is_not_nats_is_told() {
        for bad in ["HTTP/1.1 400 Bad\r\n", "MSG a\r\n", "MSG a b c d e f g\r\n", "HMSG a 1 9 5\r\nhello\r\n"]
        {
            assert!(Frame::read(&mut BytesMut::from(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 7, 10, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            assert_eq!(read_number(&out), Some(number));
        }
        for bad in ["", "-1", "+1", "1 ", "a", "18446744073709551616"] {
            assert_eq!(read_number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn publications_are_written_with_their_lengths() {
        let mut out = BytesMut::new();
        put_publication(&mut out, b"a", b"", b"", b"xyz");
        put_publication(&mut out, b"b", b"r", b"NATS/1.0\r\nA: b\r\n\r\n", b"");
        assert_eq!(&out[..], b"PUB a 3\r\nxyz\r\nHPUB b r 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n");
    }
}
