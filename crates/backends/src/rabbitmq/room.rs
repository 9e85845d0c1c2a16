//! How many bytes of properties fit the broker's frame.
//!
//! They cannot be cut in two, and the broker ends the connection of everybody on it for a frame that is too large.

use tokio::sync::watch;

use super::{codec::frame::FRAME_OVERHEAD, connection::Connection, handshake::FRAME_MAX};

/// What a header's frame holds besides the properties: itself, and the class, weight and length of the message.
const BESIDE: usize = FRAME_OVERHEAD + 12;

/// Left for what the broker writes into the headers on the way back (`x-death` and its kin): some names of queues and
/// exchanges, of at most 255 bytes each.
const FOR_THE_BROKER: usize = 2 << 10;

/// So many bytes of properties fit the frame that was agreed on; the usual one without a connection.
pub(crate) fn room(link: &watch::Receiver<Option<Connection>>) -> usize {
    let frame_max = link.borrow().as_ref().map_or(FRAME_MAX as usize, Connection::frame_max);
    frame_max.saturating_sub(BESIDE + FOR_THE_BROKER)
}
