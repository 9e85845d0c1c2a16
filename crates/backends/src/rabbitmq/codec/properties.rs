//! The properties of a message, which its content header carries.

use bytes::{BufMut, Bytes};

use super::{
    Malformed,
    field::{Field, ShortString},
    table::Table,
};

macro_rules! properties {
    ($($(#[$doc:meta])* $bit:literal $field:ident: $type:ty,)*) => {
        /// Properties of a message; what is `None` is not sent.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub(crate) struct Properties { $($(#[$doc])* pub(crate) $field: Option<$type>,)* }

        impl Properties {
            pub(crate) fn write(&self, to: &mut impl BufMut) {
                let mut flags = 0_u16;
                $(if self.$field.is_some() { flags |= 1 << $bit; })*
                to.put_u16(flags);
                $(if let Some(value) = &self.$field { value.write(to); })*
            }

            /// Reads properties that fill these bytes.
            pub(crate) fn read(mut from: Bytes) -> Result<Self, Malformed> {
                let from = &mut from;
                let flags = u16::read(from)?;
                if flags & 1 != 0 {
                    return Err(Malformed("a content header has more properties than the protocol knows"));
                }
                let properties =
                    Self { $($field: if flags & (1 << $bit) == 0 { None } else { Some(<$type>::read(from)?) },)* };
                if from.is_empty() { Ok(properties) } else { Err(Malformed("properties have bytes left over")) }
            }
        }
    };
}

properties! {
    15 content_type: ShortString,
    14 content_encoding: ShortString,
    13 headers: Table,
    /// 2 is persistent.
    12 delivery_mode: u8,
    11 priority: u8,
    10 correlation_id: ShortString,
    9 reply_to: ShortString,
    /// Milliseconds, as text.
    8 expiration: ShortString,
    7 message_id: ShortString,
    /// Seconds since 1970.
    6 timestamp: u64,
    5 kind: ShortString,
    4 user_id: ShortString,
    3 app_id: ShortString,
    2 cluster_id: ShortString,
}
