//! From a socket to a connection on which the server knows who we are.

use std::io;

use bytes::BytesMut;
use outboard_core::{Kind, PortError};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::frame::Frame;
use crate::jetstream::url::{Account, Target};

/// What a server says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServerInfo {
    /// Another one at each of its starts.
    #[serde(default)]
    pub(crate) server_id: String,
    #[serde(default)]
    pub(crate) version: String,
    /// The largest message, headers included.
    #[serde(default)]
    pub(crate) max_payload: usize,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    tls_available: bool,
    #[serde(default)]
    pub(crate) headers: bool,
    /// Whether it has JetStream at all; the account may still have none.
    #[serde(default)]
    pub(crate) jetstream: bool,
}

/// The two directions of a connection that is signed in, and what was read beyond the handshake.
pub(super) struct Opened {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) buffer: BytesMut,
    pub(super) info: ServerInfo,
}

/// Connects and signs in. `Denied` when the server refuses us or its certificate is not to be trusted.
pub(super) async fn open(target: &Target) -> Result<Opened, PortError> {
    let unreachable =
        |error| PortError::new(Kind::Unavailable, format!("{target} cannot be reached: {error}"));
    let mut stream = TcpStream::connect((&*target.host, target.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let mut buffer = BytesMut::new();
    let info = match receive(target, &mut stream, &mut buffer).await? {
        Frame::Info(info) => serde_json::from_slice::<ServerInfo>(&info).map_err(|error| {
            PortError::new(Kind::Unsupported, format!("{target} is no NATS server: {error}"))
        })?,
        _ => return Err(PortError::new(Kind::Unsupported, format!("{target} is no NATS server"))),
    };
    if !info.headers {
        let text =
            format!("{target} runs NATS {}, which knows no headers; 2.9 or later is needed", info.version);
        return Err(PortError::new(Kind::Unsupported, text));
    }
    if target.is_tls && !info.tls_required && !info.tls_available {
        let text = format!("{target} does not offer TLS; configure `tls` there, or write `nats://`");
        return Err(PortError::new(Kind::Denied, text));
    }
    if !target.is_tls && !info.tls_required {
        sign_in(target, &mut stream, &mut buffer).await?;
        let (reader, writer) = stream.into_split();
        return Ok(Opened { reader: Box::new(reader), writer: Box::new(writer), buffer, info });
    }
    let mut stream = target.peer().secure(stream).await?;
    sign_in(target, &mut stream, &mut buffer).await?;
    let (reader, writer) = tokio::io::split(stream);
    Ok(Opened { reader: Box::new(reader), writer: Box::new(writer), buffer, info })
}

async fn sign_in(
    target: &Target,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), PortError> {
    let mut connect = serde_json::json!({
        "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1, "echo": true,
        "name": "outboard", "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "tls_required": target.is_tls,
    });
    match &target.account {
        Account::Nobody => {}
        Account::User { user, password } => {
            (connect["user"], connect["pass"]) = ((&**user).into(), (&**password).into());
        }
        Account::Token(token) => connect["auth_token"] = (&**token).into(),
    }
    let words = format!("CONNECT {connect}\r\nPING\r\n");
    stream.write_all(words.as_bytes()).await.map_err(|error| broken(target, &error))?;
    loop {
        match receive(target, stream, buffer).await? {
            Frame::Pong => return Ok(()),
            Frame::Refusal(text) => return Err(refused(target, &text)),
            _ => {}
        }
    }
}

/// What a server's refusal means: of the account, or of anybody for now.
fn refused(target: &Target, text: &str) -> PortError {
    let is_ours = text.to_ascii_lowercase().contains("auth");
    let (kind, mend) = match (is_ours, &target.account) {
        (false, _) => (Kind::Unavailable, ""),
        (true, Account::Nobody) => (Kind::Denied, "; it wants a user and a password, or a token, in the URL"),
        (true, Account::User { .. }) => (Kind::Denied, "; check the user and the password"),
        (true, Account::Token(_)) => (Kind::Denied, "; check the token"),
    };
    PortError::new(kind, format!("{target} refuses the connection: {text}{mend}"))
}

async fn receive(
    target: &Target,
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Frame, PortError> {
    loop {
        if let Some(frame) = Frame::read(buffer)? {
            return Ok(frame);
        }
        match stream.read_buf(buffer).await {
            Ok(0) => return Err(lost(target, "it closed the connection")),
            Ok(_) => {}
            Err(error) => return Err(broken(target, &error)),
        }
    }
}

/// The server's word on our side of TLS comes with the first bytes that are read.
fn broken(target: &Target, error: &io::Error) -> PortError {
    target.peer().refusal(error).unwrap_or_else(|| lost(target, &error.to_string()))
}

fn lost(target: &Target, why: &str) -> PortError {
    PortError::new(Kind::Unavailable, format!("{target} went away while it was being opened: {why}"))
}
