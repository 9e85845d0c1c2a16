//! Commands as clients send them: parsed once, strictly, the payload never turned into a tree.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use outboard_core::{NewMessage, Time, TypeSet, pattern::MAX_TYPE_BYTES};
use outboard_http::{
    Problem,
    json::{self, JsonError},
    problem::FieldError,
};
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The most headers of a command.
pub(crate) const MAX_HEADERS: usize = 64;
/// The longest header name, in bytes.
pub(crate) const MAX_HEADER_NAME_BYTES: usize = 128;
/// The longest header value, in bytes.
pub(crate) const MAX_HEADER_VALUE_BYTES: usize = 8 << 10;

/// What commands are checked against.
#[derive(Debug, Clone)]
pub(crate) struct CommandRules {
    /// The types that workers handle.
    pub types: TypeSet,
    /// How deep payloads may be nested.
    pub nesting: usize,
    /// The most commands in a batch.
    pub batch_commands: usize,
}

/// One command as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandBody<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    headers: Option<HeadersBody>,
    #[serde(default)]
    run_at: Option<String>,
}

impl CommandRules {
    /// The message of `POST /commands`.
    pub(crate) fn parse_one(&self, body: &[u8]) -> Result<NewMessage, Problem> {
        let text = self.check_text(body, 1, "")?;
        let command = parse(text, One).map_err(|error| explain(text, &error, One, ""))?;
        self.message(command, "")
    }

    /// The messages of a batch that is a JSON array.
    pub(crate) fn parse_array(&self, body: &[u8]) -> Result<Vec<NewMessage>, Problem> {
        let text = self.check_text(body, 2, "")?;
        let seed = Many { most: self.batch_commands };
        let commands = parse(text, seed).map_err(|error| explain(text, &error, seed, ""))?;
        let Some(commands) = commands else { return Err(self.too_many()) };
        let messages = commands.into_iter().enumerate();
        messages.map(|(index, command)| self.message(command, &format!("[{index}]."))).collect()
    }

    /// The messages of a batch that is a line of JSON for each command. Empty lines are passed over.
    pub(crate) fn parse_lines(&self, body: &[u8]) -> Result<Vec<NewMessage>, Problem> {
        let mut messages = Vec::new();
        for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            if messages.len() == self.batch_commands {
                return Err(self.too_many());
            }
            let place = format!("line {}: ", index + 1);
            let text = self.check_text(line, 1, &place)?;
            let command = parse(text, One).map_err(|error| explain(text, &error, One, &place))?;
            messages.push(self.message(command, &place)?);
        }
        Ok(messages)
    }

    fn check_text<'a>(&self, body: &'a [u8], around: usize, place: &str) -> Result<&'a str, Problem> {
        json::check(body, self.nesting + around).map_err(|error| match error {
            JsonError::Utf8 { .. } => Problem::malformed(format!("{place}the body {error}; send UTF-8")),
            JsonError::Depth { .. } => {
                let told = format!("is nested more than {} levels deep; flatten it", self.nesting);
                Problem::invalid_field(format!("{place}payload"), told)
            }
        })
    }

    fn message(&self, command: CommandBody<'_>, place: &str) -> Result<NewMessage, Problem> {
        let field = |name: &str| format!("{place}{name}");
        check_type_name(&command.kind).map_err(|told| Problem::invalid_field(field("type"), told))?;
        if !self.types.contains(&command.kind) {
            return Err(self.unknown_type(&field("type"), &command.kind));
        }
        let mut message =
            NewMessage::new(&*command.kind, Bytes::copy_from_slice(command.payload.get().as_bytes()));
        if let Some(HeadersBody(headers)) = command.headers {
            check_headers(&headers)
                .map_err(|error| Problem::invalid_field(field(&error.field), error.message))?;
            message.headers = headers.into();
        }
        let run_at = command.run_at.map(|text| parse_time(&text)).transpose();
        message.run_at = run_at.map_err(|told| Problem::invalid_field(field("run_at"), told))?;
        Ok(message)
    }

    fn unknown_type(&self, field: &str, kind: &str) -> Problem {
        const SHOWN: usize = 50;
        let patterns = self.types.patterns();
        let mut known: Vec<_> = patterns.iter().take(SHOWN).map(ToString::to_string).collect();
        if patterns.len() > SHOWN {
            known.push(format!("{} more", patterns.len() - SHOWN));
        }
        let told = format!("no worker handles `{kind}`; known are {}", known.join(", "));
        let mut problem = Problem::invalid_field(field, told.clone());
        problem.kind = "urn:outboard:problem:unknown-type".into();
        problem.detail = told;
        problem
    }

    fn too_many(&self) -> Problem {
        let most = self.batch_commands;
        let mut problem = Problem::too_large(0);
        problem.detail = format!(
            "the batch has more than {most} commands; send several batches, or raise `limits.batch_commands`"
        );
        problem
    }
}

/// Parses a whole text.
fn parse<'a, S: DeserializeSeed<'a>>(text: &'a str, seed: S) -> serde_json::Result<S::Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut parser)?;
    parser.end().map(|()| value)
}

/// Whether a text can be a message's type. The error is what it must be.
pub(crate) fn check_type_name(kind: &str) -> Result<(), String> {
    let refused = |c: char| c.is_whitespace() || c.is_control() || c == '*';
    if kind.is_empty() || kind.len() > MAX_TYPE_BYTES || kind.contains(refused) {
        return Err(format!(
            "must be a name such as orders/confirm: 1 to {MAX_TYPE_BYTES} bytes without spaces, control characters or *"
        ));
    }
    Ok(())
}

/// A time by RFC 3339. The error is what it must be.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(|time| Time::from_millis(time.as_millisecond())).map_err(|_| {
        format!(
            "must be a time by RFC 3339 with its offset, such as 2027-01-31T08:00:00Z, and not after {LAST_TIME}"
        )
    })
}

/// The calendar ends early, so that the year has four digits at every offset.
const LAST_TIME: &str = "9999-12-30T22:00:00Z";

/// Headers, each name once.
#[derive(Debug)]
struct HeadersBody(BTreeMap<String, String>);

/// Whether headers can travel with a command. The error's field is `headers` or `headers.NAME`.
pub(crate) fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if headers.len() > MAX_HEADERS {
        let told = format!("has {} entries; the limit is {MAX_HEADERS}", headers.len());
        return Err(FieldError::new("headers", told));
    }
    for (name, value) in headers {
        if name.is_empty() || name.len() > MAX_HEADER_NAME_BYTES {
            let told = format!("has a name that is empty or longer than {MAX_HEADER_NAME_BYTES} bytes");
            return Err(FieldError::new("headers", told));
        }
        if value.len() > MAX_HEADER_VALUE_BYTES {
            let told = format!("is longer than {MAX_HEADER_VALUE_BYTES} bytes");
            return Err(FieldError::new(format!("headers.{name}"), told));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for HeadersBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = HeadersBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<HeadersBody, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = entries.next_entry::<String, String>()? {
                    if map.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("`{name}` is given twice")));
                    }
                    map.insert(name, value);
                }
                Ok(HeadersBody(map))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Deserializes one command, from an object only: serde's derive would take an array of the four fields, too.
#[derive(Clone, Copy)]
struct One;

impl<'de> DeserializeSeed<'de> for One {
    type Value = CommandBody<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One {
    type Value = CommandBody<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with type and payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        CommandBody::deserialize(de::value::MapAccessDeserializer::new(entries))
    }
}

/// Deserializes an array of commands; `None` when there are more than allowed.
#[derive(Clone, Copy)]
struct Many {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Many {
    type Value = Option<Vec<CommandBody<'de>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Many {
    type Value = Option<Vec<CommandBody<'de>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut commands = Vec::new();
        while let Some(command) = items.next_element_seed(One)? {
            if commands.len() == self.most {
                // The rest is passed over without being kept, so that the answer can say what is wrong.
                while items.next_element::<de::IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            commands.push(command);
        }
        Ok(Some(commands))
    }
}

/// Says which field is wrong. Parses once more, with paths: only who sends mistakes pays for it.
fn explain<'a, S: DeserializeSeed<'a>>(
    text: &'a str,
    error: &serde_json::Error,
    seed: S,
    place: &str,
) -> Problem {
    if !error.is_data() {
        let full = error.to_string();
        // A line has been named already; the parser counts lines from there.
        let told = if place.is_empty() { full } else { full.replace(" at line 1 column ", " at column ") };
        return Problem::malformed(format!("{place}the body is not JSON: {told}"));
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    // The value is not needed, only how far the parser came.
    let _ = seed.deserialize(serde_path_to_error::Deserializer::new(&mut parser, &mut track));
    let path = track.path().to_string();
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full);
    // These three are about a field below the path.
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next());
    let field = match (path.as_str(), named) {
        (".", Some(name)) => name.to_owned(),
        (".", None) => "body".to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (path, _) => path.to_owned(),
    };
    let told = match named {
        Some(_) if message.starts_with("missing") => "is missing".to_owned(),
        Some(_) if message.starts_with("duplicate") => "is given twice; give it once".to_owned(),
        Some(_) => "is not known; known are type, payload, headers, run_at".to_owned(),
        None => format!("is wrong: {message}"),
    };
    let mut problem = Problem::invalid(vec![FieldError::new(format!("{place}{field}"), told)]);
    problem.title = "The command is not valid".into();
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> CommandRules {
        let types = ["orders/*", "a/b"].iter().map(|text| text.parse().unwrap()).collect();
        CommandRules { types, nesting: 4, batch_commands: 3 }
    }

    #[test]
    fn the_payload_is_kept_as_it_was_written() {
        let body = br#"{"type":"orders/x","payload": {"b" : 1.50, "a":"\u00e9"} ,"headers":{"t":"7"},"run_at":"1970-01-01T00:00:01Z"}"#;
        let message = rules().parse_one(body).unwrap();
        assert_eq!(message.payload, r#"{"b" : 1.50, "a":"\u00e9"}"#);
        assert_eq!(message.headers.get("t"), Some("7"));
        assert_eq!(message.run_at, Some(Time::from_millis(1_000)));
        let escaped = rules().parse_one(br#"{"type":"a\/b","payload":null}"#).unwrap();
        assert_eq!(&*escaped.kind, "a/b");
    }

    #[test]
    fn every_mistake_names_its_field() {
        let long = format!(r#"{{"type":"orders/{}","payload":1}}"#, "x".repeat(200));
        let many: String = (0..65).map(|n| format!(r#""{n}":"","#)).collect();
        let many = format!(r#"{{"type":"a/b","payload":1,"headers":{{{}}}}}"#, many.trim_end_matches(','));
        let cases: Vec<(&str, u16, &str)> = vec![
            ("", 400, ""),
            ("{", 400, ""),
            ("nul", 400, ""),
            (r#"{"type":"a/b","payload":1}x"#, 400, ""),
            (r#"{"type":"a/b","payload":01}"#, 400, ""),
            ("[]", 422, "body"),
            (r#"["a/b",1,null,null]"#, 422, "body"),
            ("7", 422, "body"),
            (r#"{"payload":1}"#, 422, "type"),
            (r#"{"type":"a/b"}"#, 422, "payload"),
            (r#"{"type":7,"payload":1}"#, 422, "type"),
            (r#"{"type":"","payload":1}"#, 422, "type"),
            (r#"{"type":"orders/a b","payload":1}"#, 422, "type"),
            (r#"{"type":"orders/*","payload":1}"#, 422, "type"),
            (r#"{"type":"c/d","payload":1}"#, 422, "type"),
            (&long, 422, "type"),
            (r#"{"type":"a/b","payload":1,"payloat":1}"#, 422, "payloat"),
            (r#"{"type":"a/b","type":"a/b","payload":1}"#, 422, "type"),
            (r#"{"type":"a/b","payload":1,"headers":[]}"#, 422, "headers"),
            (r#"{"type":"a/b","payload":1,"headers":{"a":1}}"#, 422, "headers.a"),
            (r#"{"type":"a/b","payload":1,"headers":{"a":"1","a":"2"}}"#, 422, "headers"),
            (r#"{"type":"a/b","payload":1,"headers":{"":"1"}}"#, 422, "headers"),
            (&many, 422, "headers"),
            (r#"{"type":"a/b","payload":1,"run_at":1}"#, 422, "run_at"),
            (r#"{"type":"a/b","payload":1,"run_at":"tomorrow"}"#, 422, "run_at"),
            (r#"{"type":"a/b","payload":1,"run_at":"2027-01-31T08:00:00"}"#, 422, "run_at"),
            (r#"{"type":"a/b","payload":[[[[[1]]]]]}"#, 422, "payload"),
        ];
        for (body, status, field) in cases {
            let problem = rules().parse_one(body.as_bytes()).expect_err(body);
            assert_eq!(problem.status, status, "{body}: {problem:?}");
            let found = problem.errors.first().map_or("", |error| &error.field);
            assert_eq!(found, field, "{body}: {problem:?}");
            assert!(!problem.detail.is_empty(), "{body}");
        }
        assert!(rules().parse_one(br#"{"type":"a/b","payload":[[[[1]]]]}"#).is_ok());
        assert_eq!(rules().parse_one(b"{\"type\":\"a/b\",\"payload\":\"\xff\"}").unwrap_err().status, 400);
        let unknown = rules().parse_one(br#"{"type":"c/d","payload":1}"#).unwrap_err();
        assert!(unknown.detail.contains("a/b, orders/*"), "{}", unknown.detail);
    }

    #[test]
    fn the_last_time_is_told_and_taken() {
        assert!(parse_time(LAST_TIME).is_ok());
        for text in ["9999-12-30T22:00:01Z", "9999-12-31T23:59:59Z", "tomorrow"] {
            let told = parse_time(text).unwrap_err();
            assert!(told.contains("not after 9999-12-30T22:00:00Z") && told.contains("RFC 3339"), "{told}");
        }
    }

    #[test]
    fn a_batch_is_an_array_or_lines_and_says_which_command_is_wrong() {
        let one = r#"{"type":"a/b","payload":1}"#;
        assert_eq!(rules().parse_array(format!("[{one},{one}]").as_bytes()).unwrap().len(), 2);
        assert_eq!(rules().parse_lines(format!("{one}\r\n\n{one}\n").as_bytes()).unwrap().len(), 2);
        let field = |problem: Problem| problem.errors[0].field.clone();
        let array = |text: String| rules().parse_array(text.as_bytes()).unwrap_err();
        let lines = |text: String| rules().parse_lines(text.as_bytes()).unwrap_err();
        assert_eq!(field(array(format!("[{one},{{\"type\":\"a/b\"}}]"))), "[1].payload");
        assert_eq!(field(array(format!("[{one},{{\"type\":\"c/d\",\"payload\":1}}]"))), "[1].type");
        assert_eq!(field(array(format!("[{one},7]"))), "[1]");
        assert_eq!(field(array(one.to_owned())), "body");
        assert_eq!(field(lines(format!("{one}\n{{\"type\":\"a/b\"}}"))), "line 2: payload");
        let detail = lines(format!("{one}\n{{\"type\":\"a/b\",x}}")).detail;
        assert!(detail.starts_with("line 2: ") && detail.ends_with(" at column 15"), "{detail}");
        let four = [one; 4];
        assert_eq!(array(format!("[{}]", four.join(","))).status, 413);
        assert_eq!(lines(four.join("\n")).status, 413);
        assert_eq!(array(format!("[{one}]]")).status, 400);
    }
}
