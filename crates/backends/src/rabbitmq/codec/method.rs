//! The methods of AMQP 0-9-1 that Outboard speaks, with RabbitMQ's extensions.

use bytes::{BufMut, Bytes};

use super::{
    Malformed,
    field::{Field, ShortString, Skipped},
    table::Table,
};

macro_rules! methods {
    ($(($class:literal, $id:literal) $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        /// One method, as it stands in a method frame. Bits are packed into `flags`, lowest first.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum Method { $($name { $($field: $type),* },)* }

        impl Method {
            /// Appends class, number and arguments.
            pub(crate) fn write(&self, to: &mut impl BufMut) {
                match self {
                    $(Self::$name { $($field),* } => {
                        to.put_u16($class);
                        to.put_u16($id);
                        $($field.write(to);)*
                    })*
                }
            }

            /// Takes a method that fills these bytes.
            pub(crate) fn read(from: &mut Bytes) -> Result<Self, Malformed> {
                match (u16::read(from)?, u16::read(from)?) {
                    $(($class, $id) => Ok(Self::$name { $($field: <$type>::read(from)?),* }),)*
                    _ => Err(Malformed("a method that this client does not know")),
                }
            }

            /// Its name, as it is printed.
            pub(crate) fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)* }
            }
        }
    };
}

methods! {
    (10, 10) ConnectionStart { major: u8, minor: u8, properties: Table, mechanisms: Bytes, locales: Bytes }
    (10, 11) ConnectionStartOk { properties: Table, mechanism: ShortString, response: Bytes, locale: ShortString }
    (10, 30) ConnectionTune { channel_max: u16, frame_max: u32, heartbeat: u16 }
    (10, 31) ConnectionTuneOk { channel_max: u16, frame_max: u32, heartbeat: u16 }
    (10, 40) ConnectionOpen { vhost: ShortString, reserved1: ShortString, flags: u8 }
    (10, 41) ConnectionOpenOk { reserved1: ShortString }
    (10, 50) ConnectionClose { code: u16, text: ShortString, class: u16, method: u16 }
    (10, 51) ConnectionCloseOk {}
    (10, 60) ConnectionBlocked { reason: ShortString }
    (10, 61) ConnectionUnblocked {}
    (20, 10) ChannelOpen { reserved1: ShortString }
    (20, 11) ChannelOpenOk { reserved1: Bytes }
    (20, 20) ChannelFlow { flags: u8 }
    (20, 21) ChannelFlowOk { flags: u8 }
    (20, 40) ChannelClose { code: u16, text: ShortString, class: u16, method: u16 }
    (20, 41) ChannelCloseOk {}
    (40, 10) ExchangeDeclare { reserved1: u16, exchange: ShortString, kind: ShortString, flags: u8, arguments: Table }
    (40, 11) ExchangeDeclareOk {}
    (40, 20) ExchangeDelete { reserved1: u16, exchange: ShortString, flags: u8 }
    (40, 21) ExchangeDeleteOk {}
    (50, 10) QueueDeclare { reserved1: u16, queue: ShortString, flags: u8, arguments: Table }
    (50, 11) QueueDeclareOk { queue: ShortString, messages: u32, consumers: u32 }
    (50, 20) QueueBind { reserved1: u16, queue: ShortString, exchange: ShortString, key: ShortString, flags: u8, arguments: Table }
    (50, 21) QueueBindOk {}
    (50, 30) QueuePurge { reserved1: u16, queue: ShortString, flags: u8 }
    (50, 31) QueuePurgeOk { messages: u32 }
    (50, 40) QueueDelete { reserved1: u16, queue: ShortString, flags: u8 }
    (50, 41) QueueDeleteOk { messages: u32 }
    (50, 50) QueueUnbind { reserved1: u16, queue: ShortString, exchange: ShortString, key: ShortString, arguments: Table }
    (50, 51) QueueUnbindOk {}
    (60, 10) BasicQos { size: u32, count: u16, flags: u8 }
    (60, 11) BasicQosOk {}
    (60, 20) BasicConsume { reserved1: u16, queue: ShortString, tag: ShortString, flags: u8, arguments: Table }
    (60, 21) BasicConsumeOk { tag: ShortString }
    (60, 30) BasicCancel { tag: ShortString, flags: u8 }
    (60, 31) BasicCancelOk { tag: ShortString }
    (60, 40) BasicPublish { reserved1: u16, exchange: ShortString, key: ShortString, flags: u8 }
    (60, 50) BasicReturn { code: u16, text: ShortString, exchange: ShortString, key: ShortString }
    (60, 60) BasicDeliver { tag: Skipped, delivery: u64, flags: u8, exchange: Skipped, key: Skipped }
    (60, 70) BasicGet { reserved1: u16, queue: ShortString, flags: u8 }
    (60, 71) BasicGetOk { delivery: u64, flags: u8, exchange: Skipped, key: Skipped, messages: u32 }
    (60, 72) BasicGetEmpty { reserved1: ShortString }
    (60, 80) BasicAck { delivery: u64, flags: u8 }
    (60, 90) BasicReject { delivery: u64, flags: u8 }
    (60, 120) BasicNack { delivery: u64, flags: u8 }
    (85, 10) ConfirmSelect { flags: u8 }
    (85, 11) ConfirmSelectOk {}
}

/// What the bits of `flags` mean, by method.
pub(crate) mod flags {
    /// `QueueDeclare`, `ExchangeDeclare`.
    pub(crate) const PASSIVE: u8 = 1;
    /// `QueueDeclare`, `ExchangeDeclare`.
    pub(crate) const DURABLE: u8 = 1 << 1;
    /// `BasicPublish`: return it when no queue takes it.
    pub(crate) const MANDATORY: u8 = 1;
    /// `BasicAck`, `BasicNack`: with all that came before.
    pub(crate) const MULTIPLE: u8 = 1;
    /// `BasicNack`: back into the queue.
    pub(crate) const NACK_REQUEUE: u8 = 1 << 1;
    /// `BasicDeliver`: it was delivered before.
    pub(crate) const REDELIVERED: u8 = 1;
}
