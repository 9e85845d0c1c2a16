//! Field tables: arguments and headers.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};

use super::{
    Malformed,
    field::{Field, ShortString, need},
};

/// Tables and arrays within each other, at most so deep: what nests deeper is no sensible header.
const MAX_DEPTH: usize = 16;

/// Names with values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table(pub BTreeMap<String, Value>);

/// One value of a table, in the types that RabbitMQ knows.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Void,
    /// `t`
    Bool(bool),
    /// `b`, `B`, `s`, `u`, `I`, `i`: a whole number; written with 32 bits if it fits.
    Int(i64),
    /// `l`: a whole number with 64 bits, whatever its size. Other clients tell the two apart.
    Long(i64),
    /// `f`, `d`
    Float(f64),
    /// `D`: digits after the point, and the number without it.
    Decimal(u8, i32),
    /// `S`: text, as a rule.
    Text(Bytes),
    /// `x`
    Binary(Bytes),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `A`
    Array(Vec<Value>),
    /// `F`
    Table(Table),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        if i32::try_from(number).is_ok() { Self::Int(number) } else { Self::Long(number) }
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl Table {
    /// A table of these entries.
    pub fn of<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Self(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(super) fn write_entries(&self, to: &mut impl BufMut) {
        for (name, value) in &self.0 {
            // A name that is too long is a mistake of who made the table, and is refused before.
            let name = ShortString::new(name.as_str()).unwrap_or_default();
            name.write(to);
            value.write(to);
        }
    }

    pub(super) fn read_entries(mut from: Bytes, depth: usize) -> Result<Self, Malformed> {
        let mut entries = BTreeMap::new();
        while from.has_remaining() {
            let name = ShortString::read(&mut from)?;
            entries.insert(name.as_str().to_owned(), Value::read(&mut from, depth)?);
        }
        Ok(Self(entries))
    }
}

impl Value {
    /// The whole number that it is.
    pub(crate) fn whole(&self) -> Option<i64> {
        match self {
            Self::Int(number) | Self::Long(number) => Some(*number),
            _ => None,
        }
    }

    fn write(&self, to: &mut impl BufMut) {
        match self {
            Self::Void => to.put_u8(b'V'),
            Self::Bool(truth) => {
                to.put_u8(b't');
                to.put_u8((*truth).into());
            }
            Self::Int(number) => match i32::try_from(*number) {
                // RabbitMQ compares the arguments of a queue by type as well: `I` is what other clients send.
                Ok(small) => {
                    to.put_u8(b'I');
                    to.put_i32(small);
                }
                Err(_) => Self::Long(*number).write(to),
            },
            Self::Long(number) => {
                to.put_u8(b'l');
                to.put_i64(*number);
            }
            Self::Float(number) => {
                to.put_u8(b'd');
                to.put_f64(*number);
            }
            Self::Decimal(scale, number) => {
                to.put_u8(b'D');
                to.put_u8(*scale);
                to.put_i32(*number);
            }
            Self::Text(text) => {
                to.put_u8(b'S');
                text.write(to);
            }
            Self::Binary(bytes) => {
                to.put_u8(b'x');
                bytes.write(to);
            }
            Self::Timestamp(seconds) => {
                to.put_u8(b'T');
                to.put_u64(*seconds);
            }
            Self::Array(values) => {
                to.put_u8(b'A');
                let mut inner = Vec::new();
                values.iter().for_each(|value| value.write(&mut inner));
                Bytes::from(inner).write(to);
            }
            Self::Table(table) => {
                to.put_u8(b'F');
                table.write(to);
            }
        }
    }

    fn read(from: &mut Bytes, depth: usize) -> Result<Self, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed("a table is nested too deeply"));
        }
        let kind = u8::read(from)?;
        Ok(match kind {
            b'V' => Self::Void,
            b't' => Self::Bool(u8::read(from)? != 0),
            b'b' => Self::Int(u8::read(from)?.cast_signed().into()),
            b'B' => Self::Int(u8::read(from)?.into()),
            b's' => Self::Int(u16::read(from)?.cast_signed().into()),
            b'u' => Self::Int(u16::read(from)?.into()),
            b'I' => Self::Int(u32::read(from)?.cast_signed().into()),
            b'i' => Self::Int(u32::read(from)?.into()),
            b'l' => Self::Long(u64::read(from)?.cast_signed()),
            b'f' => {
                need(from, 4)?;
                Self::Float(from.get_f32().into())
            }
            b'd' => {
                need(from, 8)?;
                Self::Float(from.get_f64())
            }
            b'D' => Self::Decimal(u8::read(from)?, u32::read(from)?.cast_signed()),
            b'S' => Self::Text(Bytes::read(from)?),
            b'x' => Self::Binary(Bytes::read(from)?),
            b'T' => Self::Timestamp(u64::read(from)?),
            b'A' => {
                let mut inner = Bytes::read(from)?;
                let mut values = Vec::new();
                while inner.has_remaining() {
                    values.push(Self::read(&mut inner, depth + 1)?);
                }
                Self::Array(values)
            }
            b'F' => Self::Table(Table::read_entries(Bytes::read(from)?, depth + 1)?),
            _ => return Err(Malformed("a table has a value of an unknown type")),
        })
    }
}
