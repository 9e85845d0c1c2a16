//! Queues, exchanges and bindings: made when they are missing, found as they are when they are there.

pub(crate) mod inspect;

use std::{collections::BTreeMap, sync::Arc};

use outboard_core::{
    Kind, PortError,
    queue::{Argument, Binding, Declared, QueueKind, QueueSpec, Routing},
};

use super::{
    channel::Owned,
    codec::{
        field::ShortString,
        method::{Method, flags},
        table::{Table, Value},
    },
    connection::Connection,
};

/// What is in a queue, as the broker tells without being asked for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Messages that wait to be delivered.
    pub(crate) ready: u32,
    pub(crate) consumers: u32,
}

/// Makes a queue and what leads to it, or finds that it is there. With `create: false` nothing is made, and nothing
/// bound.
///
/// `NotFound` without the queue; `Denied` when the account may not do it; `Conflict` when another connection has the
/// queue for itself; `Invalid` for arguments that the broker does not take; else what became of the connection.
pub(crate) async fn ensure(connection: &Connection, spec: &QueueSpec) -> Result<Declared, PortError> {
    let mut steps = Steps::new(connection);
    let declared = steps.ensure(spec).await;
    steps.end().await;
    declared
}

/// Makes a durable queue with these arguments, or finds that it is there. Errors as of [`ensure`].
pub(crate) async fn ensure_plain(
    connection: &Connection,
    name: &str,
    arguments: Table,
) -> Result<Declared, PortError> {
    let mut steps = Steps::new(connection);
    let declared = steps.queue(name, arguments).await;
    steps.end().await;
    declared
}

/// Looks at a queue, and makes nothing. `NotFound` without it.
pub(crate) async fn look(connection: &Connection, name: &str) -> Result<Found, PortError> {
    let mut steps = Steps::new(connection);
    let found = steps.look(name).await;
    steps.end().await;
    found
}

/// Calls that may fail, each failure on a channel of its own: it closes the channel. Who waits for none of them any longer
/// drops this, and the channel is closed, too.
struct Steps<'a> {
    connection: &'a Connection,
    channel: Option<Owned>,
}

impl<'a> Steps<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self { connection, channel: None }
    }

    async fn call(&mut self, method: &Method) -> Result<Method, PortError> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.connection.channel().await?,
        };
        let answer = channel.call(method).await?;
        self.channel = Some(channel);
        Ok(answer)
    }

    async fn end(self) {
        if let Some(channel) = self.channel {
            // What cannot be closed is closed already.
            let _ = channel.close().await;
        }
    }

    async fn ensure(&mut self, spec: &QueueSpec) -> Result<Declared, PortError> {
        let arguments = queue_arguments(spec)?;
        if !spec.create {
            return match self.look(&spec.name).await {
                Ok(_) => Ok(Declared::Same),
                Err(error) if error.kind == Kind::NotFound => Err(PortError::new(
                    Kind::NotFound,
                    format!("{error}; declare it, or let Outboard do so with `create: true`"),
                )),
                Err(error) => Err(error),
            };
        }
        let mut differences = Vec::new();
        for binding in &spec.bindings {
            if let Declared::Differs(what) = self.exchange(binding).await? {
                differences.push(what);
            }
        }
        if let Declared::Differs(what) = self.queue(&spec.name, arguments).await? {
            differences.push(what);
        }
        for binding in &spec.bindings {
            self.bind(&spec.name, binding).await?;
        }
        if differences.is_empty() {
            Ok(Declared::Same)
        } else {
            Ok(Declared::Differs(differences.join("; ").into()))
        }
    }

    async fn queue(&mut self, name: &str, arguments: Table) -> Result<Declared, PortError> {
        let queue = short("a queue", name)?;
        let declare = Method::QueueDeclare { reserved1: 0, queue, flags: flags::DURABLE, arguments };
        let Err(error) = self.call(&declare).await else { return Ok(Declared::Same) };
        if error.kind == Kind::Mismatch && self.look(name).await.is_ok() {
            return Ok(Declared::Differs(difference(&format!("the queue `{name}`"), &error).into()));
        }
        Err(explain(&format!("the queue `{name}`"), error))
    }

    async fn look(&mut self, name: &str) -> Result<Found, PortError> {
        let (queue, arguments) = (short("a queue", name)?, Table::default());
        let declare = Method::QueueDeclare { reserved1: 0, queue, flags: flags::PASSIVE, arguments };
        match self.call(&declare).await {
            Ok(Method::QueueDeclareOk { messages, consumers, .. }) => {
                Ok(Found { ready: messages, consumers })
            }
            Ok(other) => {
                Err(PortError::new(Kind::Corrupt, format!("{} answers a declaration", other.name())))
            }
            Err(error) => Err(explain(&format!("the queue `{name}`"), error)),
        }
    }

    async fn exchange(&mut self, binding: &Binding) -> Result<Declared, PortError> {
        let name = &*binding.exchange;
        if is_given(name) {
            return Ok(Declared::Same);
        }
        let kind = match binding.routing {
            Routing::Direct => "direct",
            Routing::Topic => "topic",
            Routing::Fanout => "fanout",
        };
        let (exchange, kind) = (short("an exchange", name)?, short("an exchange's kind", kind)?);
        let declare = |flags, arguments| {
            let (exchange, kind) = (exchange.clone(), kind.clone());
            Method::ExchangeDeclare { reserved1: 0, exchange, kind, flags, arguments }
        };
        let what = format!("the exchange `{name}`");
        let arguments = table(&binding.arguments)?;
        let Err(error) = self.call(&declare(flags::DURABLE, arguments)).await else {
            return Ok(Declared::Same);
        };
        if error.kind == Kind::Mismatch && self.call(&declare(flags::PASSIVE, Table::default())).await.is_ok()
        {
            return Ok(Declared::Differs(difference(&what, &error).into()));
        }
        Err(explain(&what, error))
    }

    async fn bind(&mut self, queue: &str, binding: &Binding) -> Result<(), PortError> {
        if binding.exchange.is_empty() {
            // Every queue is bound to this one by its name, and no other way is possible.
            return Ok(());
        }
        let bind = Method::QueueBind {
            reserved1: 0,
            queue: short("a queue", queue)?,
            exchange: short("an exchange", &binding.exchange)?,
            key: short("a routing key", &binding.key)?,
            flags: 0,
            arguments: Table::default(),
        };
        let what = format!("the binding of the queue `{queue}` to the exchange `{}`", binding.exchange);
        self.call(&bind).await.map(drop).map_err(|error| explain(&what, error))
    }
}

/// Whether an exchange is there in every vhost, and is not to be declared.
fn is_given(exchange: &str) -> bool {
    exchange.is_empty() || exchange.starts_with("amq.")
}

fn short(what: &str, text: &str) -> Result<ShortString, PortError> {
    let too_long = || PortError::new(Kind::Invalid, format!("{what} has at most 255 bytes: `{text}`"));
    ShortString::new(text).ok_or_else(too_long)
}

fn queue_arguments(spec: &QueueSpec) -> Result<Table, PortError> {
    if spec.name.is_empty() {
        return Err(PortError::new(Kind::Invalid, "a queue needs a name"));
    }
    let mut arguments = table(&spec.arguments)?;
    let kind = match spec.kind {
        QueueKind::Usual => return Ok(arguments),
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
    };
    let named = arguments.0.insert("x-queue-type".to_owned(), kind.into());
    if named.is_some_and(|named| named != kind.into()) {
        let text = format!(
            "the queue `{}` is said to be of the kind {kind}, and of another in x-queue-type",
            spec.name
        );
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(arguments)
}

/// Arguments as the broker takes them.
pub(crate) fn table(arguments: &BTreeMap<Arc<str>, Argument>) -> Result<Table, PortError> {
    let mut table = Table::default();
    for (name, value) in arguments {
        short("an argument's name", name)?;
        let value = match value {
            Argument::Text(text) => (&**text).into(),
            Argument::Number(number) => Value::Int(*number),
            Argument::Flag(flag) => Value::Bool(*flag),
        };
        table.0.insert(name.to_string(), value);
    }
    Ok(table)
}

/// What differs, from a text such as `… inequivalent arg 'x' for queue 'q' in vhost '/': received 'a' but current is 'b'`.
fn difference(what: &str, error: &PortError) -> String {
    let told = || {
        let (_, rest) = error.message.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (_, values) = rest.split_once(": received ")?;
        let (wanted, current) = values.split_once(" but current is ")?;
        let plain = |value: &str| match value.split_once("the value '") {
            Some((_, value)) => value.split('\'').next().unwrap_or(value).to_owned(),
            None => value.trim_matches('\'').to_owned(),
        };
        let (wanted, current) = (plain(wanted), plain(current));
        Some(format!("{what} has {argument} = {current} and not {wanted}; it is used as it is"))
    };
    told().unwrap_or_else(|| format!("{what} is used as it is: {error}"))
}

/// Whether what differs is that this queue is replicated. The broker names one difference only: of a queue that differs
/// in another argument, too, it may not be known.
pub(crate) fn is_found_quorum(name: &str, what: &str) -> bool {
    what.contains(&format!("the queue `{name}` has x-queue-type = quorum and"))
}

/// The broker's refusal with what is to be done about it.
fn explain(what: &str, error: PortError) -> PortError {
    let (kind, text) = match error.kind {
        Kind::NotFound => (Kind::NotFound, format!("{what} is not there")),
        Kind::Denied => {
            let mend = "allow it with `rabbitmqctl set_permissions`, or have somebody make it who may";
            (Kind::Denied, format!("the account may not do this with {what}: {mend} ({error})"))
        }
        Kind::Conflict => {
            let mend = "it is exclusive; use another name, or end that connection";
            (Kind::Conflict, format!("another connection has {what} for itself: {mend}"))
        }
        Kind::Mismatch => (Kind::Invalid, format!("RabbitMQ does not take the arguments of {what}: {error}")),
        _ => return error,
    };
    PortError::new(kind, text)
}
