//! What can be learned of a server without changing anything.

use std::time::Duration;

use outboard_core::PortError;
use serde::Deserialize;
use serde_json::Value;

use super::{api, protocol::connection::Connection, url::Target};

/// How long a server may take for everything.
const WITHIN: Duration = Duration::from_secs(5);

/// What a server is and allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The server's version, such as `2.9.10`.
    pub version: String,
    /// The largest message, headers included, in bytes.
    pub max_payload: usize,
    /// JetStream for this account, or why there is none.
    pub jetstream: Result<Account, String>,
    /// How often files are synced, if that can be learned. The protocol does not tell: a server that was not told
    /// otherwise (`sync_interval`) syncs every two minutes, and what it acknowledged since is lost with the power.
    pub sync_interval: Option<Duration>,
}

/// An account's share of JetStream. Limits of `None` are the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Bytes on disk now.
    pub storage: u64,
    /// Bytes on disk at most.
    pub max_storage: Option<u64>,
    /// Streams now.
    pub streams: u64,
    /// Streams at most.
    pub max_streams: Option<u64>,
    /// Durable and other consumers now.
    pub consumers: u64,
}

/// Connects, asks, and goes.
///
/// Errors: `Unavailable` when the server cannot be reached, `Denied` when it refuses us or its certificate is not to be
/// trusted, `Invalid` for a URL that is none, `Unsupported` for something that is no NATS server.
pub async fn inspect(url: &str) -> Result<Facts, PortError> {
    #[derive(Deserialize)]
    struct Told {
        storage: u64,
        streams: u64,
        consumers: u64,
        limits: Limits,
    }
    #[derive(Deserialize)]
    struct Limits {
        max_storage: i64,
        max_streams: i64,
    }
    let target: Target = url.parse()?;
    let connection = Connection::open(&target, WITHIN, WITHIN).await?;
    let told = api::call::<Told>(&connection, "$JS.API.INFO", &Value::Null).await;
    let limit = |limit: i64| u64::try_from(limit).ok().filter(|&limit| limit > 0);
    let jetstream = told.map_err(|error| error.to_string()).map(|told| Account {
        storage: told.storage,
        max_storage: limit(told.limits.max_storage),
        streams: told.streams,
        max_streams: limit(told.limits.max_streams),
        consumers: told.consumers,
    });
    let info = connection.info().clone();
    connection.close();
    Ok(Facts { version: info.version, max_payload: info.max_payload, jetstream, sync_interval: None })
}
