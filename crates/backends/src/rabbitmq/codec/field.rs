//! The elementary data types of AMQP 0-9-1 (section 4.2.5 of the specification), as RabbitMQ reads and writes them.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::{Malformed, table::Table};

/// Something that has a form on the wire.
pub(crate) trait Field: Sized {
    /// Appends it.
    fn write(&self, to: &mut impl BufMut);

    /// Takes it from the front.
    fn read(from: &mut Bytes) -> Result<Self, Malformed>;
}

/// Fails when fewer bytes are left.
pub(crate) fn need(from: &Bytes, bytes: usize) -> Result<(), Malformed> {
    if from.remaining() < bytes { Err(Malformed("a field is cut off")) } else { Ok(()) }
}

macro_rules! integers {
    ($($type:ty, $put:ident, $get:ident;)*) => {
        $(impl Field for $type {
            fn write(&self, to: &mut impl BufMut) {
                to.$put(*self);
            }

            fn read(from: &mut Bytes) -> Result<Self, Malformed> {
                need(from, size_of::<Self>())?;
                Ok(from.$get())
            }
        })*
    };
}

integers! {
    u8, put_u8, get_u8;
    u16, put_u16, get_u16;
    u32, put_u32, get_u32;
    u64, put_u64, get_u64;
}

/// A short string: at most 255 bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct ShortString(Arc<str>);

impl ShortString {
    /// Nothing when it is longer than 255 bytes.
    pub(crate) fn new(text: impl Into<Arc<str>>) -> Option<Self> {
        let text = text.into();
        (text.len() <= usize::from(u8::MAX)).then_some(Self(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Field for ShortString {
    fn write(&self, to: &mut impl BufMut) {
        to.put_u8(u8::try_from(self.0.len()).expect("a short string is checked when it is made"));
        to.put_slice(self.0.as_bytes());
    }

    fn read(from: &mut Bytes) -> Result<Self, Malformed> {
        let length = usize::from(u8::read(from)?);
        need(from, length)?;
        let bytes = from.split_to(length);
        // RabbitMQ passes through what a client wrote, which need not be UTF-8.
        Ok(Self(String::from_utf8_lossy(&bytes).into()))
    }
}

/// A short string that nobody asks for: skipped when it is read, empty when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Skipped;

impl Field for Skipped {
    fn write(&self, to: &mut impl BufMut) {
        to.put_u8(0);
    }

    fn read(from: &mut Bytes) -> Result<Self, Malformed> {
        let length = usize::from(u8::read(from)?);
        need(from, length)?;
        from.advance(length);
        Ok(Self)
    }
}

/// A long string: any bytes.
impl Field for Bytes {
    fn write(&self, to: &mut impl BufMut) {
        to.put_u32(u32::try_from(self.len()).expect("what is written fits a frame"));
        to.put_slice(self);
    }

    fn read(from: &mut Bytes) -> Result<Self, Malformed> {
        let length = u32::read(from)? as usize;
        need(from, length)?;
        Ok(from.split_to(length))
    }
}

impl Field for Table {
    fn write(&self, to: &mut impl BufMut) {
        let mut inner = Vec::new();
        self.write_entries(&mut inner);
        Bytes::from(inner).write(to);
    }

    fn read(from: &mut Bytes) -> Result<Self, Malformed> {
        Self::read_entries(Bytes::read(from)?, 0)
    }
}
