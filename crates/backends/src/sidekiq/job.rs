//! A job as Sidekiq writes it: how ours are made, what is read from others, and what a failure leaves in it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use outboard_core::{
    Headers, Kind, Message, PortError, Position, Time,
    queue::{Destination, Identify, Outgoing, QueueName},
};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    object::{Object, quoted},
    stamp,
    url::{Jobs, checked_name},
};

/// The class by which every version of Sidekiq finds ActiveJob's adapter.
const WRAPPER: &str = "ActiveJob::QueueAdapters::SidekiqAdapter::JobWrapper";

/// The most bytes of arguments.
pub(super) const MAX_PAYLOAD: usize = 4 << 20;

/// Headers of ours; Sidekiq keeps fields that it does not know.
const HEADERS: &str = "outboard_headers";

/// The id that a publisher gave, where it is none of Sidekiq's form.
const ID: &str = "outboard_id";

/// What failed attempts said, oldest first.
const HISTORY: &str = "outboard_history";

/// Somebody has had it in hand, and may have done what it asks for.
const RETURNED: &str = "outboard_returned";

/// So many of them are kept.
const HISTORY_KEPT: usize = 10;

/// So many characters of what an attempt said are kept, as Sidekiq does.
const REASON_CHARACTERS: usize = 10_000;

/// A job that is ready to be pushed.
#[derive(Debug)]
pub(super) struct New {
    pub(super) queue: QueueName,
    pub(super) json: String,
    pub(super) run_at: Option<Time>,
    /// The id as its publisher knows it.
    pub(super) id: Arc<str>,
}

/// Writes a message as a job.
///
/// Errors: `Unsupported` for an exchange, `Invalid` for a queue's name, a payload that is too large or no text.
pub(super) fn compose(message: Outgoing, jobs: Jobs, now: Time) -> Result<New, PortError> {
    let queue = match &message.to {
        Destination::Queue(name) => checked_name(name)?,
        Destination::Exchange { .. } => {
            return Err(PortError::new(
                Kind::NotFound,
                "Sidekiq has queues, and no exchanges: publish to a queue",
            ));
        }
    };
    let arguments = arguments(&message.payload)?;
    let id = message.id.unwrap_or_else(|| random_jid().into());
    let jid = if is_jid(&id) {
        id.to_string()
    } else {
        format!("{:032x}", xxh3_128(id.as_bytes()))[..24].to_owned()
    };
    let (queue_json, kind) = (quoted(&queue), quoted(&message.kind));
    let mut json = String::with_capacity(arguments.len() + 600);
    json.push_str("{\"retry\":true,\"queue\":");
    json.push_str(&queue_json);
    match jobs {
        Jobs::Active => {
            let fields = format!(
                ",\"class\":\"{WRAPPER}\",\"wrapped\":{kind},\"args\":[{{\"job_class\":{kind},\"job_id\":\"{}\",\"provider_job_id\":null,\"queue_name\":{queue_json},\"priority\":null,\"arguments\":",
                uuid(&jid)
            );
            json.push_str(&fields);
            json.push_str(&arguments);
            let fields = format!(
                ",\"executions\":0,\"exception_executions\":{{}},\"locale\":\"en\",\"timezone\":\"UTC\",\"enqueued_at\":\"{}\",\"scheduled_at\":null}}]",
                stamp::iso(now)
            );
            json.push_str(&fields);
        }
        Jobs::Plain => {
            json.push_str(&format!(",\"class\":{kind},\"args\":"));
            json.push_str(&arguments);
        }
    }
    json.push_str(&format!(",\"jid\":\"{jid}\",\"created_at\":{}", stamp::seconds(now)));
    if *jid != *id {
        json.push_str(&format!(",\"{ID}\":{}", quoted(&id)));
    }
    if !message.headers.is_empty() {
        let headers = serde_json::to_string(&message.headers).expect("texts can be written as JSON");
        json.push_str(&format!(",\"{HEADERS}\":{headers}"));
    }
    let run_at = message.run_at.filter(|&run_at| run_at > now);
    if run_at.is_none() {
        json.push_str(&format!(",\"enqueued_at\":{}", stamp::seconds(now)));
    }
    json.push('}');
    Ok(New { queue, json, run_at, id })
}

/// The payload as an array of arguments.
fn arguments(payload: &[u8]) -> Result<String, PortError> {
    if payload.len() > MAX_PAYLOAD {
        let text = format!("the payload has {} bytes; a job takes {MAX_PAYLOAD}", payload.len());
        return Err(PortError::new(Kind::Invalid, text));
    }
    if payload.is_empty() {
        return Ok("[]".to_owned());
    }
    if let Ok(raw) = serde_json::from_slice::<&RawValue>(payload) {
        let raw = raw.get();
        return Ok(if raw.starts_with('[') { raw.to_owned() } else { format!("[{raw}]") });
    }
    match std::str::from_utf8(payload) {
        Ok(text) => Ok(format!("[{}]", quoted(text))),
        Err(_) => {
            Err(PortError::new(Kind::Invalid, "the payload is neither JSON nor UTF-8: a job cannot hold it"))
        }
    }
}

/// A job's id as Sidekiq makes them: 24 hex digits.
fn random_jid() -> String {
    format!("{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..))
}

fn is_jid(id: &str) -> bool {
    id.len() == 24 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of the same job for ActiveJob, the same each time it is published.
fn uuid(jid: &str) -> String {
    let hex = format!("{:032x}", xxh3_128(jid.as_bytes()));
    // Version 4, variant 1: that it is no random one, nobody can see.
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// A job from a queue.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// As it was in the queue.
    pub(super) raw: Bytes,
    pub(super) message: Arc<Message>,
    pub(super) attempt: u32,
    pub(super) is_identified: bool,
    /// Whether somebody gave it back who may have done what it asks for.
    pub(super) is_returned: bool,
    /// How often it may be tried again after attempts that failed, if it says so itself.
    retries: Option<u32>,
    /// Whether it says that it is not to be kept when it is given up.
    pub(super) is_dropped_when_dead: bool,
}

impl Job {
    /// Reads a job. An error says why nobody can run it.
    pub(super) fn parse(
        raw: Bytes,
        queue: &str,
        untyped: &Arc<str>,
        identify: Identify,
        now: Time,
    ) -> Result<Self, String> {
        let object = Object::parse(&raw).map_err(|error| format!("the job is no JSON object: {error}"))?;
        let class = object.read::<String>("class");
        let wrapped = object.read::<String>("wrapped");
        let active = wrapped.is_some().then(|| object.get("args").and_then(Active::parse)).flatten();
        let kind = wrapped.or(class).map_or_else(|| untyped.clone(), Into::into);
        let arguments = active.as_ref().and_then(|active| active.arguments).map(RawValue::get);
        let payload = arguments.or_else(|| object.get("args")).map_or_else(
            || Bytes::from_static(b"[]"),
            // A part of the job itself, or of a copy where an escaped field's name made one.
            |arguments| slice(&raw, arguments),
        );
        let job_id = active.as_ref().and_then(|active| active.job_id.clone());
        let given =
            object.read::<String>(ID).or_else(|| object.read("jid")).or(job_id).filter(|id| !id.is_empty());
        let content = || format!("{:032x}", xxh3_128(&[queue.as_bytes(), b"\n", &raw].concat()));
        let (name, is_identified) = match (given, identify) {
            (Some(id), _) => (id, true),
            (None, Identify::ByContent) => (content(), true),
            (None, Identify::ByPublisher) => (random_jid(), false),
        };
        let time = |name| object.read::<f64>(name).and_then(stamp::read);
        let message = Message {
            id: Position::START,
            name: Some(name.into()),
            kind,
            payload,
            headers: object.read::<Headers>(HEADERS).unwrap_or_default(),
            timestamp: time("created_at").or_else(|| time("enqueued_at")).unwrap_or(now),
            run_at: None,
        };
        let attempt = attempts(&object).saturating_add(1);
        Ok(Self {
            message: Arc::new(message),
            attempt,
            is_identified,
            is_returned: object.get(RETURNED).is_some(),
            retries: retries(&object),
            is_dropped_when_dead: object.read::<bool>("dead") == Some(false),
            raw: raw.clone(),
        })
    }

    /// Why it is given up when this attempt has failed, if its own `retry` allows no other one.
    pub(super) fn given_up(&self, reason: &str) -> Option<Arc<str>> {
        let retries = self.retries.filter(|&retries| self.attempt > retries)?;
        let times = if self.attempt == 1 { "1 attempt".into() } else { format!("{} attempts", self.attempt) };
        let again = if retries == 0 { "no retry".into() } else { format!("{retries} at most") };
        Some(
            format!("given up after {times}, by the job's `retry` ({again}); the last one said: {reason}")
                .into(),
        )
    }

    /// The job after a failed attempt, for Sidekiq's sets of retries and of dead ones.
    pub(super) fn failed(&self, queue: &str, reason: &str, now: Time) -> String {
        let Ok(mut object) = Object::parse(&self.raw) else {
            return String::from_utf8_lossy(&self.raw).into_owned();
        };
        let reason = shortened(reason);
        let mut history = object.read::<Vec<String>>(HISTORY).unwrap_or_default();
        history.push(reason.to_owned());
        let surplus = history.len().saturating_sub(HISTORY_KEPT);
        history.drain(..surplus);
        object.set_text("queue", queue);
        object.set_text("error_message", reason);
        object.set_text("error_class", "Outboard::Failed");
        match object.read::<i64>("retry_count") {
            Some(count) => {
                object.set("retry_count", count.saturating_add(1).to_string());
                object.set("retried_at", stamp::seconds(now));
            }
            None => {
                object.set("retry_count", "0");
                object.set("failed_at", stamp::seconds(now));
            }
        }
        object.set(HISTORY, serde_json::to_string(&history).expect("texts can be written as JSON"));
        self.with_id(object)
    }

    /// The job as it waits for its time in Sidekiq's set of scheduled ones.
    pub(super) fn snoozed(&self, queue: &str) -> String {
        let Ok(mut object) = Object::parse(&self.raw) else {
            return String::from_utf8_lossy(&self.raw).into_owned();
        };
        object.set_text("queue", queue);
        self.with_id(object)
    }

    /// The job as it goes back to its queue after somebody has had it.
    pub(super) fn returned(&self) -> Vec<u8> {
        match Object::parse(&self.raw) {
            Ok(mut object) => {
                object.set(RETURNED, "true");
                object.into_json().into_bytes()
            }
            Err(_) => self.raw.to_vec(),
        }
    }

    /// A set holds the same job only once, so that one without an id needs one: two may be alike in all else.
    fn with_id<'a>(&'a self, mut object: Object<'a>) -> String {
        if object.get("jid").is_none_or(|jid| jid == "null") {
            let name = self.message.name.as_deref().unwrap_or_default();
            object.set_text("jid", name);
        }
        object.into_json()
    }
}

/// A due job as it is pushed to its queue, and that queue's name.
pub(super) fn due(raw: &[u8], now: Time) -> Option<(String, String)> {
    let mut object = Object::parse(raw).ok()?;
    let queue = object.read::<String>("queue")?;
    object.set("enqueued_at", stamp::seconds(now));
    Some((queue, object.into_json()))
}

/// A job that was given up.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) queue: Option<String>,
    pub(super) reason: String,
    pub(super) attempts: u32,
    pub(super) history: Vec<Arc<str>>,
}

impl Dead {
    /// Reads what Sidekiq and we write into a dead job.
    pub(super) fn parse(raw: &[u8]) -> Self {
        let Ok(object) = Object::parse(raw) else {
            let reason = "the job is no JSON object".to_owned();
            return Self { queue: None, reason, attempts: 0, history: Vec::new() };
        };
        let history: Vec<String> = object.read(HISTORY).unwrap_or_default();
        Self {
            queue: object.read("queue"),
            reason: object.read("error_message").unwrap_or_default(),
            attempts: attempts(&object),
            history: history.into_iter().map(Into::into).collect(),
        }
    }
}

/// The queue that a job names.
pub(super) fn queue_of(raw: &[u8]) -> Option<String> {
    Object::parse(raw).ok()?.read("queue")
}

/// When a job was put into its queue.
pub(super) fn enqueued_at(raw: &[u8]) -> Option<Time> {
    let object = Object::parse(raw).ok()?;
    object.read::<f64>("enqueued_at").and_then(stamp::read)
}

/// Attempts that failed. Sidekiq's count is 0 after the first one, and less by one when somebody presses its button.
fn attempts(object: &Object<'_>) -> u32 {
    let count = object.read::<i64>("retry_count").map_or(0, |count| count.saturating_add(1));
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

/// How many retries a job allows itself; `None` where it says only that there are some, or nothing: others decide.
fn retries(object: &Object<'_>) -> Option<u32> {
    match object.read::<bool>("retry") {
        Some(is_retried) => (!is_retried).then_some(0),
        None => object.read::<i64>("retry").map(|most| u32::try_from(most.max(0)).unwrap_or(u32::MAX)),
    }
}

/// What ActiveJob puts into the only argument of its wrapper.
struct Active<'a> {
    arguments: Option<&'a RawValue>,
    job_id: Option<String>,
}

impl<'a> Active<'a> {
    fn parse(args: &'a str) -> Option<Self> {
        let [only] = serde_json::from_str::<Vec<&RawValue>>(args).ok()?[..] else { return None };
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(only.get()).ok()?;
        let job_id = fields.get("job_id").and_then(|id| serde_json::from_str(id.get()).ok());
        Some(Self { arguments: fields.get("arguments").copied(), job_id })
    }
}

/// A part of the job, without a copy where it is one.
fn slice(raw: &Bytes, part: &str) -> Bytes {
    let (start, outer) = (part.as_ptr() as usize, raw.as_ptr() as usize);
    if start >= outer && start + part.len() <= outer + raw.len() {
        raw.slice(start - outer..start - outer + part.len())
    } else {
        Bytes::copy_from_slice(part.as_bytes())
    }
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(REASON_CHARACTERS).map_or(text, |(at, _)| &text[..at])
}
