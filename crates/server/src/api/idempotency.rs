//! The `Idempotency-Key` header.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use outboard_core::log::Idempotency;
use outboard_http::{Problem, problem::FieldError};
use ring::digest;

/// The header.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 255;

/// What the request's key means for its append. A key counts for one path.
pub(crate) fn read(
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    keep: Duration,
) -> Result<Option<Idempotency>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(invalid("is given twice; give it once"));
    }
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(invalid("must be 1 to 255 bytes long, such as a UUID"));
    }
    Ok(Some(Idempotency { key: hash(&[path.as_bytes(), b"\0", key]), body: hash(&[body]), keep }))
}

fn invalid(message: &str) -> Problem {
    let mut problem = Problem::malformed(format!("the header Idempotency-Key {message}"));
    problem.errors.push(FieldError::new("Idempotency-Key", message));
    problem
}

/// The first half of SHA-256: nobody can make two bodies that count as one.
fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&context.finish().as_ref()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_for_its_path() {
        let mut headers = HeaderMap::new();
        let keep = Duration::from_secs(1);
        assert_eq!(read(&headers, "/commands", b"a", keep).unwrap(), None);
        headers.insert(IDEMPOTENCY_KEY, "k".parse().unwrap());
        let first = read(&headers, "/commands", b"a", keep).unwrap().unwrap();
        let other_path = read(&headers, "/commands/batch", b"a", keep).unwrap().unwrap();
        let other_body = read(&headers, "/commands", b"b", keep).unwrap().unwrap();
        assert_ne!(first.key, other_path.key);
        assert_eq!((first.key, first.body == other_body.body), (other_body.key, false));
        headers.append(IDEMPOTENCY_KEY, "k".parse().unwrap());
        assert!(read(&headers, "/commands", b"a", keep).is_err());
        headers.insert(IDEMPOTENCY_KEY, "k".repeat(256).parse().unwrap());
        assert!(read(&headers, "/commands", b"a", keep).is_err());
        headers.insert(IDEMPOTENCY_KEY, "".parse().unwrap());
        assert!(read(&headers, "/commands", b"a", keep).is_err());
    }
}
