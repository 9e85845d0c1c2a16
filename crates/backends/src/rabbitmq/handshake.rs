//! From a socket to a connection that both sides agree on.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    codec::{
        field::ShortString,
        frame::{Frame, PROTOCOL_HEADER, put_method},
        method::Method,
        table::{Table, Value},
    },
    connection::closed_by_broker,
    url::Target,
};

/// How often each side gives a sign of life, at the longest; after twice this without one the connection is lost.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The largest frame that is sent or taken; RabbitMQ offers as much.
pub(crate) const FRAME_MAX: u32 = 128 << 10;

/// At most this many channels on a connection; RabbitMQ offers as many.
const CHANNEL_MAX: u16 = 2_047;

/// How a record of TLS begins that refuses what we said.
const TLS_ALERT: u8 = 0x15;

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agreed {
    pub(crate) channel_max: u16,
    /// Bytes of a frame, its head and end included.
    pub(crate) frame_max: usize,
    pub(crate) heartbeat: Duration,
}

/// What a connection reads from. Boxed: one call through a pointer for up to 64 KiB costs nothing.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// What a connection writes to.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection that both sides agree on.
pub(super) struct Opened {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// What was read beyond the handshake.
    pub(super) buffer: BytesMut,
    pub(super) agreed: Agreed,
    pub(super) server: Server,
}

/// What a broker says of itself: facts to go by, where a version would be a guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// `RabbitMQ`, as a rule.
    pub(crate) product: Arc<str>,
    /// Such as `3.13.7`; empty when it does not say.
    pub(crate) version: Arc<str>,
    /// By name, whether it can: `connection.blocked`, `consumer_cancel_notify` …
    capabilities: BTreeMap<String, bool>,
}

impl Server {
    fn of(properties: &Table) -> Self {
        let text = |name: &str| match properties.0.get(name) {
            Some(Value::Text(text)) => String::from_utf8_lossy(text).into(),
            _ => "".into(),
        };
        let capabilities = match properties.0.get("capabilities") {
            Some(Value::Table(table)) => table.0.clone(),
            _ => BTreeMap::new(),
        };
        let capabilities = capabilities.into_iter().map(|(name, can)| (name, can == Value::Bool(true)));
        Self { product: text("product"), version: text("version"), capabilities: capabilities.collect() }
    }

    /// Whether it has said that it can do this.
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.get(capability).copied().unwrap_or(false)
    }
}

/// What Outboard cannot do without, whatever the broker's version is.
const NEEDED: [&str; 3] = ["publisher_confirms", "basic.nack", "consumer_cancel_notify"];

/// A connection that is being made.
struct Opening<'a, S> {
    target: &'a Target,
    stream: S,
    buffer: BytesMut,
}

/// Connects and signs in.
pub(super) async fn open(target: &Target, heartbeat: Duration) -> Result<Opened, PortError> {
    let unreachable =
        |error| PortError::new(Kind::Unavailable, format!("{target} cannot be reached: {error}"));
    let stream = TcpStream::connect((&*target.host, target.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let buffer = BytesMut::new();
    match target.peer() {
        None => {
            let mut opening = Opening { target, stream, buffer };
            let (agreed, server) = opening.shake_hands(heartbeat).await?;
            let (reader, writer) = opening.stream.into_split();
            let (reader, writer): (Reader, Writer) = (Box::new(reader), Box::new(writer));
            Ok(Opened { reader, writer, buffer: opening.buffer, agreed, server })
        }
        Some(peer) => {
            let stream = peer.secure(stream).await?;
            let mut opening = Opening { target, stream, buffer };
            let (agreed, server) = opening.shake_hands(heartbeat).await?;
            let (reader, writer) = tokio::io::split(opening.stream);
            let (reader, writer): (Reader, Writer) = (Box::new(reader), Box::new(writer));
            Ok(Opened { reader, writer, buffer: opening.buffer, agreed, server })
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Opening<'_, S> {
    async fn shake_hands(&mut self, heartbeat: Duration) -> Result<(Agreed, Server), PortError> {
        self.send(&PROTOCOL_HEADER).await?;
        let Method::ConnectionStart { mechanisms, properties, .. } = self.receive().await? else {
            return Err(self.unexpected("Start"));
        };
        let server = Server::of(&properties);
        self.check(&server)?;
        if !mechanisms.split(|&byte| byte == b' ').any(|mechanism| mechanism == b"PLAIN") {
            let text = format!("{} does not take a user and a password (PLAIN)", self.target);
            return Err(PortError::new(Kind::Unsupported, text));
        }
        self.send_method(&start_ok(self.target)).await?;
        let Method::ConnectionTune { channel_max, frame_max, heartbeat: theirs } = self.receive().await?
        else {
            return Err(self.unexpected("Tune"));
        };
        let (agreed, tune_ok) = agree(channel_max, frame_max, theirs, heartbeat);
        self.send_method(&tune_ok).await?;
        let too_long = || PortError::new(Kind::Invalid, "a vhost's name has at most 255 bytes");
        let vhost = ShortString::new(self.target.vhost.clone()).ok_or_else(too_long)?;
        self.send_method(&Method::ConnectionOpen { vhost, reserved1: ShortString::default(), flags: 0 })
            .await?;
        let Method::ConnectionOpenOk { .. } = self.receive().await? else {
            return Err(self.unexpected("Open-Ok"));
        };
        Ok((agreed, server))
    }

    fn check(&self, server: &Server) -> Result<(), PortError> {
        let Some(missing) = NEEDED.iter().find(|needed| !server.can(needed)) else { return Ok(()) };
        let Server { product, version, .. } = server;
        let text = format!(
            "{} is {product} {version} and does not offer {missing}, which Outboard needs: use RabbitMQ",
            self.target
        );
        Err(PortError::new(Kind::Unsupported, text))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PortError> {
        self.stream.write_all(bytes).await.map_err(|error| self.lost(&error))
    }

    async fn send_method(&mut self, method: &Method) -> Result<(), PortError> {
        let mut frame = BytesMut::new();
        put_method(&mut frame, 0, method);
        self.send(&frame).await
    }

    /// The next method; a refusal is an error.
    async fn receive(&mut self) -> Result<Method, PortError> {
        loop {
            if self.buffer.first() == Some(&TLS_ALERT) {
                let text = format!("{} speaks TLS on this port: begin the URL with `amqps://`", self.target);
                return Err(PortError::new(Kind::Unsupported, text));
            }
            let corrupt = |error| PortError::new(Kind::Unsupported, format!("{}: {error}", self.target));
            match Frame::read(&mut self.buffer, FRAME_MAX as usize).map_err(corrupt)? {
                Some(Frame::Method(0, Method::ConnectionClose { code, text, .. })) => {
                    return Err(refused(self.target, code, text.as_str()));
                }
                Some(Frame::Method(0, method)) => return Ok(method),
                Some(Frame::Heartbeat) => {}
                Some(_) => return Err(self.unexpected("a method")),
                None => {
                    let read = self.stream.read_buf(&mut self.buffer).await;
                    if read.map_err(|error| self.lost(&error))? == 0 {
                        return Err(self.lost(&io::Error::other("it closed the connection")));
                    }
                }
            }
        }
    }

    fn lost(&self, error: &io::Error) -> PortError {
        // The broker's word on our side of TLS comes with the first bytes that are read.
        self.target.peer().and_then(|peer| peer.refusal(error)).unwrap_or_else(|| {
            let text = format!("{} went away while it was being opened: {error}", self.target);
            PortError::new(Kind::Unavailable, text)
        })
    }

    fn unexpected(&self, expected: &str) -> PortError {
        let text = format!("{} answered something else than {expected}: is it RabbitMQ?", self.target);
        PortError::new(Kind::Unsupported, text)
    }
}

/// The broker's refusal during the handshake, with the mend.
fn refused(target: &Target, code: u16, text: &str) -> PortError {
    let Target { user, vhost, .. } = target;
    let error = closed_by_broker(code, text);
    let why = match code {
        403 => {
            let local =
                if &**user == "guest" { "; `guest` may connect from the broker's machine only" } else { "" };
            format!(
                "the user `{user}` or the password is wrong: mend the URL, or try `rabbitmqctl authenticate_user \
                 {user}`{local}"
            )
        }
        530 if text.contains("not found") => {
            format!(
                "there is no vhost `{vhost}`: mend the URL, or make it with `rabbitmqctl add_vhost {vhost}`"
            )
        }
        530 if text.contains("refused for user") && !text.contains("limit") => format!(
            "the user `{user}` may not use the vhost `{vhost}`: allow it with `rabbitmqctl set_permissions -p {vhost} \
             {user} \".*\" \".*\" \".*\"`"
        ),
        _ => format!("it refuses the connection to the vhost `{vhost}`: {error}"),
    };
    PortError::new(error.kind, format!("{target}: {why}"))
}

fn start_ok(target: &Target) -> Method {
    let yes = || Value::Bool(true);
    let capabilities = Table::of([
        // Without this, a wrong password looks like a connection that breaks.
        ("authentication_failure_close", yes()),
        ("basic.nack", yes()),
        ("connection.blocked", yes()),
        ("consumer_cancel_notify", yes()),
        ("publisher_confirms", yes()),
    ]);
    let properties = Table::of([
        ("product", "Outboard".into()),
        ("platform", "Rust".into()),
        ("connection_name", (&*target.name).into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("capabilities", Value::Table(capabilities)),
    ]);
    let response = Bytes::from(format!("\0{}\0{}", target.user, target.password));
    let short = |text: &str| ShortString::new(text).unwrap_or_default();
    Method::ConnectionStartOk { properties, mechanism: short("PLAIN"), response, locale: short("en_US") }
}

/// The smaller of what both want; 0 is no limit.
fn agree(channel_max: u16, frame_max: u32, heartbeat: u16, ours: Duration) -> (Agreed, Method) {
    let channel_max = if channel_max == 0 { CHANNEL_MAX } else { channel_max.min(CHANNEL_MAX) };
    let frame_max = if frame_max == 0 { FRAME_MAX } else { frame_max.clamp(4_096, FRAME_MAX) };
    let ours = u16::try_from(ours.as_secs()).unwrap_or(u16::MAX).max(1);
    let heartbeat = if heartbeat == 0 { ours } else { heartbeat.min(ours) };
    let agreed = Agreed {
        channel_max,
        frame_max: frame_max as usize,
        heartbeat: Duration::from_secs(heartbeat.into()),
    };
    (agreed, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat })
}
