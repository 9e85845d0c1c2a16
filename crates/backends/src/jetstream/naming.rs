//! Names: of streams, durable consumers, subjects and headers, and ids that nobody else makes.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use outboard_core::{Kind, PortError};

/// Message headers that NATS or we give a meaning to.
pub(crate) const ID: &str = "Nats-Msg-Id";
pub(crate) const TYPE: &str = "Outboard-Type";
pub(crate) const DUE: &str = "Outboard-Due";

/// Headers of a dead letter.
pub(crate) const DEAD_ID: &str = "Outboard-Id";
pub(crate) const DEAD_REASON: &str = "Outboard-Reason";
pub(crate) const DEAD_ATTEMPTS: &str = "Outboard-Attempts";
pub(crate) const DEAD_WORKER: &str = "Outboard-Worker";
pub(crate) const DEAD_SUBJECT: &str = "Outboard-Subject";
pub(crate) const DEAD_SEQUENCE: &str = "Outboard-Sequence";
pub(crate) const DEAD_HISTORY: &str = "Outboard-History";

/// The stream of what is known of messages that failed, for every queue of an account.
pub(crate) const ATTEMPTS: &str = "outboard-attempts";

/// The longest name of a stream or durable consumer that is taken: servers put them into file names.
const MAX_NAME: usize = 200;

/// Checks a queue's name: it becomes a stream's name and a subject.
pub(crate) fn check_stream(name: &str) -> Result<(), PortError> {
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if name.is_empty() || name.len() > MAX_NAME || name.contains(is_bad) || name == ATTEMPTS {
        let text = format!(
            "{name:?} cannot be a stream's name; write 1 to {MAX_NAME} characters without spaces and `. * > / \\`"
        );
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(())
}

/// The durable consumer's name for a worker's: what is not allowed in one becomes `=` and its number in hex.
pub(crate) fn durable(worker: &str) -> Result<String, PortError> {
    let mut name = String::with_capacity(worker.len());
    for byte in worker.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            _ => name.push_str(&format!("={byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > MAX_NAME {
        let text = format!("the worker's name {worker:?} is empty or too long for a durable consumer's");
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(name)
}

/// The stream of a queue's dead letters.
pub(crate) fn dead_stream(stream: &str) -> String {
    format!("{stream}-dead")
}

/// Where the record of one message's attempts is kept.
pub(crate) fn attempts_subject(stream: &str, durable: &str, sequence: u64) -> String {
    format!("{ATTEMPTS}.{stream}.{durable}.{sequence}")
}

/// A text that nobody else makes.
pub(crate) fn unique() -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    static LAST: AtomicU64 = AtomicU64::new(0);
    let process = PROCESS.get_or_init(|| format!("{:032x}", fastrand::u128(..)));
    format!("{process}{:x}", LAST.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_stream_cannot_have_are_refused() {
        check_stream("orders-é_1").unwrap();
        for bad in ["", "a.b", "a b", "a*", ">", "a/b", "a\\b", ATTEMPTS, "\n"] {
            assert_eq!(check_stream(bad).unwrap_err().kind, Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn workers_with_different_names_have_different_consumers() {
        assert_eq!(durable("orders").unwrap(), "orders");
        assert_eq!(durable("a.b").unwrap(), "a=2Eb");
        assert_ne!(durable("a b").unwrap(), durable("a/b").unwrap());
        assert!(durable("").is_err());
    }

    #[test]
    fn unique_texts_differ() {
        assert_ne!(unique(), unique());
    }
}
