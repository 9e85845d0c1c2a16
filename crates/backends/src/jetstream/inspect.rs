//! What can be learned of a server without changing anything.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use outboard_core::{Kind, PortError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{self, ConsumerInfo},
    naming,
    protocol::connection::Connection,
    topology::{ack_wait, joined},
    url::Target,
};

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

/// What a durable consumer that is there was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// Its name: the worker's, or that of the one which a work queue has already.
    pub name: String,
    /// How long it waits for an acknowledgement or a sign of life, before it delivers a message again.
    pub ack_wait: Duration,
    /// At most so many messages are delivered and not acknowledged, those that wait for a retry included; `None` is no
    /// limit.
    pub max_ack_pending: Option<u64>,
    /// After so many deliveries a message is not delivered any more; `None` is no limit.
    pub max_deliver: Option<u64>,
    /// Delivered and not acknowledged now.
    pub ack_pending: u64,
}

/// What is known of a consumer: `None` where the stream has none yet, because its worker makes it. `NotFound` where there is
/// no stream yet, `Conflict` where none can be made, because another stream has its subjects.
pub type Asked = Result<Option<ConsumerFacts>, PortError>;

/// So many consumers are asked for at once.
const AT_ONCE: usize = 16;

/// What the durable consumers of these streams and workers were told, in this order. Connects, asks, and goes. Errors: as
/// [`inspect`]'s; what is wrong with one of them stands in its own place.
pub async fn inspect_consumers(url: &str, asked: &[(&str, &str)]) -> Result<Vec<Asked>, PortError> {
    let target: Target = url.parse()?;
    let connection = Connection::open(&target, WITHIN, WITHIN).await?;
    let asking: Vec<_> =
        asked.iter().map(|(stream, worker)| consumer_facts(&connection, stream, worker)).collect();
    let found = stream::iter(asking).buffered(AT_ONCE).collect().await;
    connection.close();
    Ok(found)
}

async fn consumer_facts(connection: &Connection, stream: &str, worker: &str) -> Asked {
    naming::check_stream(stream)?;
    let found = match api::consumer_info(connection, stream, &naming::durable(worker)?).await {
        Ok(found) => Some(found),
        Err(error) if error.kind == Kind::NotFound => match api::stream_info(connection, stream).await {
            Ok(stream_is) if stream_is.config["retention"] == "workqueue" => {
                joined(api::consumers(connection, stream).await?)
            }
            Ok(_) => None,
            Err(error) if error.kind == Kind::NotFound => return Err(without(connection, stream).await?),
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    Ok(found.map(ConsumerFacts::from))
}

/// What to say of a stream that is not there.
async fn without(connection: &Connection, stream: &str) -> Result<PortError, PortError> {
    #[derive(Deserialize)]
    struct Names {
        streams: Option<Vec<String>>,
    }
    for subject in [stream.to_owned(), format!("{stream}.>")] {
        let asked = json!({ "subject": subject });
        let found: Names = api::call(connection, "$JS.API.STREAM.NAMES", &asked).await?;
        if let Some(other) = found.streams.iter().flatten().next() {
            let text = format!(
                "there is no stream {stream}, and none can be made: its subjects, `{stream}` and `{stream}.>`, overlap with \
                 those of the stream {other}"
            );
            return Ok(PortError::new(Kind::Conflict, text));
        }
    }
    Ok(PortError::new(Kind::NotFound, format!("there is no stream {stream}")))
}

impl From<ConsumerInfo> for ConsumerFacts {
    fn from(info: ConsumerInfo) -> Self {
        let limit = |name: &str| info.config[name].as_u64().filter(|&limit| limit > 0);
        Self {
            ack_wait: ack_wait(&info),
            max_ack_pending: limit("max_ack_pending"),
            max_deliver: limit("max_deliver"),
            ack_pending: info.num_ack_pending,
            name: info.name,
        }
    }
}
