//! JetStream's own requests (`$JS.API.…`): JSON in, JSON out, and what its errors mean to us.

use std::time::Duration;

use outboard_core::{Kind, PortError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use super::protocol::{connection::Connection, frame::Incoming};

/// How long JetStream may take to answer a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Error numbers of JetStream's API.
const STREAM_NOT_FOUND: u64 = 10_059;
const CONSUMER_NOT_FOUND: u64 = 10_014;
const MESSAGE_NOT_FOUND: u64 = 10_037;

/// A stream as the server tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: Value,
    pub(crate) created: String,
    pub(crate) state: StreamState,
}

/// What is in a stream.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) last_seq: u64,
    #[serde(default)]
    pub(crate) first_seq: u64,
    #[serde(default)]
    pub(crate) consumer_count: u64,
    #[serde(default)]
    pub(crate) subjects: Option<std::collections::HashMap<String, u64>>,
}

/// A durable consumer as the server tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) name: String,
    pub(crate) created: String,
    pub(crate) config: Value,
    pub(crate) delivered: Delivered,
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) num_pending: u64,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) stream_seq: u64,
}

#[derive(Deserialize)]
struct ConsumerPage {
    consumers: Option<Vec<ConsumerInfo>>,
}

#[derive(Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    description: String,
}

/// Asks and reads the answer. `NotFound` for what is not there.
pub(crate) async fn call<T: DeserializeOwned>(
    connection: &Connection,
    subject: &str,
    body: &Value,
) -> Result<T, PortError> {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let reply = connection.request(subject, "", &payload)?;
    let incoming = match reply.by(Instant::now() + ANSWER_WITHIN).await {
        Ok(incoming) => incoming,
        // Nothing of ours depends on whether it happened: each of these is asked again.
        Err(error) => {
            let lost = || PortError::new(Kind::Unavailable, error.message.clone());
            return Err(connection.forbidden(subject).unwrap_or_else(lost));
        }
    };
    if incoming.status() == Some(503) {
        return Err(not_enabled(connection));
    }
    read(&incoming)
}

fn not_enabled(connection: &Connection) -> PortError {
    if connection.info().jetstream {
        return PortError::new(Kind::Unavailable, "JetStream does not answer yet");
    }
    let mend = "add `jetstream {}` to the server's configuration";
    PortError::new(Kind::Unsupported, format!("JetStream is not enabled on this NATS server; {mend}"))
}

/// Reads an answer that is JSON, the server's error included.
pub(crate) fn read<T: DeserializeOwned>(incoming: &Incoming) -> Result<T, PortError> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<ApiError>,
    }
    let payload = incoming.payload();
    let strange =
        |error| PortError::new(Kind::Corrupt, format!("JetStream answered what cannot be read: {error}"));
    // Most answers are none, and the second reading is cheap beside the request.
    if let Failed { error: Some(error) } = serde_json::from_slice(&payload).map_err(strange)? {
        return Err(error.meaning());
    }
    serde_json::from_slice(&payload).map_err(strange)
}

impl ApiError {
    pub(super) fn meaning(&self) -> PortError {
        let Self { code, err_code, description } = self;
        let is_full = description.contains("maximum messages") || description.contains("maximum bytes");
        let (kind, mend) = match *err_code {
            STREAM_NOT_FOUND | CONSUMER_NOT_FOUND | MESSAGE_NOT_FOUND => (Kind::NotFound, ""),
            10_023 | 10_028 | 10_047 => {
                (Kind::Full, "; raise `max_file_store` in the server's configuration, or free space there")
            }
            10_002 => (Kind::Full, "; raise the account's limits, or delete what is not needed"),
            10_026 | 10_027 => (Kind::Full, "; raise the limit, or delete what is not needed"),
            10_077 if is_full => (Kind::Full, "; consume the stream, or raise its limit"),
            10_054 => (Kind::Invalid, "; raise the stream's `max_msg_size`, or send less"),
            10_035 | 10_039 | 10_076 => {
                (Kind::Unsupported, "; enable JetStream for this account in the server's configuration")
            }
            10_058 | 10_065 | 10_105 | 10_148 => {
                (Kind::Mismatch, "; choose another name, or delete the other one")
            }
            _ if *code == 404 => (Kind::NotFound, ""),
            _ if *code == 503 => (Kind::Unavailable, ""),
            _ if *code == 400 => (Kind::Invalid, ""),
            _ => (Kind::Unavailable, ""),
        };
        PortError::new(kind, format!("JetStream says: {description} ({err_code}){mend}"))
    }
}

pub(crate) async fn stream_info(connection: &Connection, name: &str) -> Result<StreamInfo, PortError> {
    call(connection, &format!("$JS.API.STREAM.INFO.{name}"), &Value::Null).await
}

pub(crate) async fn create_stream(
    connection: &Connection,
    name: &str,
    config: &Value,
) -> Result<StreamInfo, PortError> {
    call(connection, &format!("$JS.API.STREAM.CREATE.{name}"), config).await
}

pub(crate) async fn consumer_info(
    connection: &Connection,
    stream: &str,
    durable: &str,
) -> Result<ConsumerInfo, PortError> {
    call(connection, &format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"), &Value::Null).await
}

/// Durable and other consumers of a stream; the first page of them, which is 256 on every server.
pub(crate) async fn consumers(connection: &Connection, stream: &str) -> Result<Vec<ConsumerInfo>, PortError> {
    let page: ConsumerPage =
        call(connection, &format!("$JS.API.CONSUMER.LIST.{stream}"), &Value::Null).await?;
    Ok(page.consumers.unwrap_or_default())
}
