//! Typed messages: a name, a description, a payload and its rules.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::validate::Invalid;
use outboard_core::{NewMessage, pattern::MAX_TYPE_BYTES};

/// A message with a registered type name and a typed payload. Derive it:
///
/// ```
/// use outboard::Command;
/// use serde::{Deserialize, Serialize};
///
/// /// Confirms an order.
/// #[derive(Command, Serialize, Deserialize)]
/// #[command(name = "orders/confirm")]
/// struct ConfirmOrder {
///     #[command(min_value = 1)]
///     order_id: u64,
/// }
///
/// assert_eq!(ConfirmOrder::NAME, "orders/confirm");
/// assert_eq!(ConfirmOrder::DESCRIPTION, "Confirms an order.");
/// assert_eq!(ConfirmOrder { order_id: 0 }.validate().unwrap_err().fields[0].code, "min_value");
/// ```
///
/// A name that is not of the form `feature/kebab-name` does not compile:
///
/// ```compile_fail
/// #[derive(outboard::Command, serde::Serialize, serde::Deserialize)]
/// #[command(name = "ConfirmOrder")]
/// struct ConfirmOrder { order_id: u64 }
/// ```
///
/// nor does a command without a name:
///
/// ```compile_fail
/// #[derive(outboard::Command, serde::Serialize, serde::Deserialize)]
/// struct ConfirmOrder { order_id: u64 }
/// ```
///
/// nor a rule that is not known:
///
/// ```compile_fail
/// #[derive(outboard::Command, serde::Serialize, serde::Deserialize)]
/// #[command(name = "orders/confirm")]
/// struct ConfirmOrder { #[command(minimum = 1)] order_id: u64 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "not a command",
    note = "add `#[derive(Command, Serialize, Deserialize)] #[command(name = \"feature/kebab-name\")]` to it"
)]
pub trait Command: Serialize + DeserializeOwned + Send + 'static {
    /// The type name, `feature/kebab-name`; what the log and the HTTP API know the command by.
    const NAME: &'static str;

    /// One sentence for people.
    const DESCRIPTION: &'static str;

    /// The rules that a payload must keep, whatever the application's state. All broken ones are told at once.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// A command's name and description, as the API lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CommandInfo {
    /// The type name.
    pub name: &'static str,
    /// One sentence for people.
    pub description: &'static str,
}

impl CommandInfo {
    /// What `C` is called.
    ///
    /// A name that is not of the form `feature/kebab-name` stops the build, also when the trait was implemented by
    /// hand.
    pub fn of<C: Command>() -> Self {
        const { assert!(is_command_name(C::NAME), "a command's name must have the form `feature/kebab-name`") };
        Self { name: C::NAME, description: C::DESCRIPTION }
    }
}

/// Whether `name` has the form `feature/kebab-name`: lower-case letters, digits and single `-`, each part beginning
/// with a letter.
///
/// ```
/// assert!(outboard::command::is_command_name("orders/confirm-all"));
/// assert!(!outboard::command::is_command_name("orders/ConfirmAll"));
/// ```
pub const fn is_command_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let (mut slashes, mut index) = (0, 0);
    let mut before = b'/';
    while index < bytes.len() {
        let byte = bytes[index];
        let fits = match byte {
            b'a'..=b'z' => true,
            b'0'..=b'9' => before != b'/',
            b'-' => before != b'/' && before != b'-',
            b'/' => before != b'/' && before != b'-',
            _ => false,
        };
        if !fits {
            return false;
        }
        if byte == b'/' {
            slashes += 1;
        }
        before = byte;
        index += 1;
    }
    slashes == 1 && before != b'/' && before != b'-' && bytes.len() <= MAX_TYPE_BYTES
}

/// Checks a command and makes it a message.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/confirm")]
/// # struct ConfirmOrder { order_id: u64 }
/// let message = outboard::command::message(&ConfirmOrder { order_id: 7 })?;
/// assert_eq!(&message.payload[..], br#"{"order_id":7}"#);
/// # Ok::<(), outboard::Invalid>(())
/// ```
pub fn message<C: Command>(command: &C) -> Result<NewMessage, Invalid> {
    message_of(command, C::NAME.into())
}

/// As [`message`], with the name's allocation shared.
pub(crate) fn message_of<C: Command>(command: &C, kind: Arc<str>) -> Result<NewMessage, Invalid> {
    command.validate()?;
    let payload = serde_json::to_vec(command).map_err(|error| {
        Invalid::field("", "not_serializable", format!("cannot be written as JSON: {error}"))
    })?;
    Ok(NewMessage::new(kind, Bytes::from(payload)))
}

/// Reads a payload. The error names the field: only a payload that fails is read a second time to find it.
pub(crate) fn decode<C: Command>(payload: &[u8]) -> Result<C, Invalid> {
    serde_json::from_slice(payload).map_err(|_| undecodable::<C>(payload))
}

#[cold]
fn undecodable<C: Command>(payload: &[u8]) -> Invalid {
    let mut reader = serde_json::Deserializer::from_slice(payload);
    let result: Result<C, _> = serde_path_to_error::deserialize(&mut reader);
    let (path, error) = match result {
        Err(error) => (error.path().to_string(), error.into_inner()),
        Ok(_) => match reader.end() {
            Err(error) => (String::new(), error),
            Ok(()) => return Invalid::field("", "invalid_json", "cannot be read"),
        },
    };
    let path = if path == "." { String::new() } else { path };
    let text = error.to_string();
    let join = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    if !error.is_data() {
        return Invalid::field(path, "invalid_json", format!("is not JSON: {text}"));
    }
    if let Some(name) = quoted_after(&text, "missing field ") {
        return Invalid::field(join(name), "required", "is required");
    }
    if let Some(name) = quoted_after(&text, "unknown field ") {
        // The path ends with the unknown field itself.
        let field = if path.ends_with(name) { path.clone() } else { join(name) };
        return Invalid::field(field, "unknown_field", "is not a field of this command");
    }
    let code = if text.starts_with("invalid type") { "invalid_type" } else { "invalid_value" };
    Invalid::field(path, code, format!("cannot be read: {text}"))
}

/// The name in backquotes that follows `words` at the start of a serde message.
fn quoted_after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.strip_prefix(words)?.strip_prefix('`')?.split('`').next()
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Line {
        amount: u32,
    }

    /// Places an order.
    /// And more.
    ///
    /// Details.
    #[derive(Debug, crate::Command, Serialize, Deserialize)]
    #[command(name = "orders/place", validate = whole_order)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct PlaceOrder {
        #[command(required, max_length = 3)]
        customer_name: String,
        #[command(required)]
        lines: Vec<Line>,
    }

    fn whole_order(order: &PlaceOrder, checks: &mut crate::Checks) {
        checks.ensure(
            order.lines.iter().all(|line| line.amount > 0),
            "lines",
            "min_value",
            "must be positive",
        );
    }

    #[test]
    fn the_derive_reads_doc_rules_and_serde_names() {
        assert_eq!(PlaceOrder::DESCRIPTION, "Places an order. And more.");
        let order = PlaceOrder { customer_name: "Anna".to_string(), lines: vec![Line { amount: 0 }] };
        let invalid = order.validate().expect_err("two rules are broken");
        let found: Vec<_> = invalid.fields.iter().map(|e| (e.field.as_str(), &*e.code)).collect();
        assert_eq!(found, [("customerName", "max_length"), ("lines", "min_value")]);
    }

    #[test]
    fn decoding_errors_name_the_field() {
        for (payload, field, code) in [
            (
                r#"{"customerName":"A","lines":[{"amount":1},{"amount":"x"}]}"#,
                "lines[1].amount",
                "invalid_type",
            ),
            (r#"{"customerName":"A","lines":[{"amount":1},{}]}"#, "lines[1].amount", "required"),
            (r#"{"customerName":"A","lines":[{"amount":-1}]}"#, "lines[0].amount", "invalid_value"),
            (r#"{"lines":[]}"#, "customerName", "required"),
            (r#"{"customerName":"A","lines":[],"extra":1}"#, "extra", "unknown_field"),
            (r#"{"customerName":"A","#, "", "invalid_json"),
            (r#"{"customerName":"A","lines":[]} x"#, "", "invalid_json"),
            ("7", "", "invalid_type"),
        ] {
            let invalid = decode::<PlaceOrder>(payload.as_bytes()).expect_err(payload);
            let error = &invalid.fields[0];
            let ok = error.code == code && (error.field == field || code == "invalid_json");
            assert!(ok, "{payload}: {error:?}");
        }
    }

    #[test]
    fn names_are_checked_in_constants() {
        for name in ["orders/confirm", "big-shop/v2-order", "a/b"] {
            assert!(is_command_name(name), "{name}");
        }
        for name in
            ["", "a", "a/", "/a", "a/b/c", "a/B", "a/b_c", "a/1", "a/b-", "a/-b", "a/b--c", "1/a", "a-/b"]
        {
            assert!(!is_command_name(name), "{name}");
        }
    }
}
