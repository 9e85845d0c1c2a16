//! From a message to be published to what the broker gets.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outboard_core::{
    Clock, Kind, PortError,
    queue::{Destination, Outgoing},
    time::SystemClock,
};
use tokio::{sync::watch, time::timeout};

use super::{
    codec::{
        field::ShortString,
        method::{Method, flags},
        properties::Properties,
        table::{Table, Value},
    },
    connection::Connection,
    ladder::{Ladder, step},
    publisher::Publication,
    room::room,
};

/// The largest payload that is published.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;

/// The most bytes that a message's properties have besides its headers' names and values: the lengths of id and type, each at
/// most 255 bytes, the time, the mode, the flags and the length of the headers.
const BESIDE_HEADERS: usize = 2 * 256 + 8 + 1 + 2 + 4;

/// So many bytes a header has besides its name and its value: the length of each, and the value's type.
const BESIDE_HEADER: usize = 1 + 1 + 4;

/// How long looking for an exchange may take.
const WITHIN: Duration = Duration::from_secs(10);

/// So many exchanges are remembered. Beyond that, they are looked for again.
const REMEMBERED: usize = 4_096;

/// Exchanges that were there.
///
/// Publishing to one that is not there ends the publisher's channel, and what was not confirmed by then goes out again: one
/// bad name would double good messages. So it is looked for before, once.
#[derive(Debug)]
pub(crate) struct Exchanges {
    link: watch::Receiver<Option<Connection>>,
    known: Mutex<HashSet<Arc<str>>>,
}

impl Exchanges {
    pub(crate) fn new(link: watch::Receiver<Option<Connection>>) -> Self {
        Self { link, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was told that it is not there.
    pub(crate) fn forget(&self, exchange: &str) {
        self.known().remove(exchange);
    }

    /// `NotFound` when it is not there. Without a connection there is nothing to double: publishing says the rest.
    async fn check(&self, exchange: &Arc<str>) -> Result<(), PortError> {
        if exchange.is_empty() || self.known().contains(exchange) {
            return Ok(());
        }
        let Some(connection) = self.link.borrow().clone() else { return Ok(()) };
        let look = Method::ExchangeDeclare {
            reserved1: 0,
            exchange: short("an exchange", exchange.clone())?,
            kind: ShortString::new("direct").unwrap_or_default(),
            flags: flags::PASSIVE,
            arguments: Table::default(),
        };
        let looking = async {
            let channel = connection.channel().await?;
            channel.call(&look).await?;
            channel.close().await;
            Ok(())
        };
        let late = || PortError::new(Kind::Unavailable, "the broker does not answer");
        timeout(WITHIN, looking).await.unwrap_or_else(|_| Err(late()))?;
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(exchange.clone());
        Ok(())
    }
}

/// What the broker gets, and the message's id.
pub(crate) async fn publication(
    message: Outgoing,
    ladder: &Ladder,
    exchanges: &Exchanges,
) -> Result<(Arc<str>, Publication), PortError> {
    if message.payload.len() > MAX_PAYLOAD {
        let text =
            format!("a message has {} bytes; at most {MAX_PAYLOAD} can be published", message.payload.len());
        return Err(PortError::new(Kind::Invalid, text));
    }
    let id = message.id.clone().unwrap_or_else(|| format!("{:024x}", fastrand::u128(..) >> 32).into());
    let now = SystemClock.now();
    let properties = Properties {
        headers: headers(&message, room(&exchanges.link))?,
        message_id: Some(short("an id", id.clone())?),
        timestamp: u64::try_from(now.as_millis() / 1_000).ok(),
        kind: Some(short("a type", message.kind.clone())?),
        ..Properties::default()
    };
    let delay = message.run_at.map_or(Duration::ZERO, |due| due.since(now));
    let (exchange, key) = match message.to {
        Destination::Queue(queue) if delay.is_zero() => ("".into(), queue),
        Destination::Queue(queue) => ("".into(), ladder.waiting(&queue, step(delay)).await?),
        Destination::Exchange { exchange, key } if delay.is_zero() => {
            exchanges.check(&exchange).await?;
            (exchange, key)
        }
        Destination::Exchange { .. } => {
            let text = "a message to an exchange cannot wait for its time: publish it to a queue, or later";
            return Err(PortError::new(Kind::Unsupported, text));
        }
    };
    let (exchange, key) = (short("an exchange", exchange)?, short("a routing key", key)?);
    Ok((id, Publication { exchange, key, properties, body: message.payload }))
}

/// The headers, unless they and the other properties have more bytes than there is room for.
fn headers(message: &Outgoing, room: usize) -> Result<Option<Table>, PortError> {
    let room = room.saturating_sub(BESIDE_HEADERS);
    let mut bytes = 0;
    let mut headers = BTreeMap::new();
    for (name, value) in message.headers.iter() {
        bytes += BESIDE_HEADER + name.len() + value.len();
        if bytes > room {
            let text = format!(
                "the headers of a message have at most {room} bytes here, with {BESIDE_HEADER} for each: the broker takes \
                 them in one frame (`frame_max`); put what is large into the payload"
            );
            return Err(PortError::new(Kind::Invalid, text));
        }
        short("a header's name", name)?;
        headers.insert(name.to_owned(), Value::from(value));
    }
    Ok((!headers.is_empty()).then_some(Table(headers)))
}

fn short(what: &str, text: impl Into<Arc<str>>) -> Result<ShortString, PortError> {
    let too_long = || PortError::new(Kind::Invalid, format!("{what} has at most 255 bytes on RabbitMQ"));
    ShortString::new(text).ok_or_else(too_long)
}
