//! Signatures by which a receiver knows who sent a message: Standard Webhooks (standardwebhooks.com), version 1 with
//! a shared secret.
//!
//! What is signed is `id.timestamp.body`, with HMAC-SHA256; the signature travels as `v1,<base64>`. While a secret is
//! being replaced, a request carries one signature for each.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

/// The header with the message's id, the same for every attempt.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the time of the attempt, in seconds since the Unix epoch.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with the signatures, separated by spaces.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How far a timestamp may be from the receiver's clock.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// More signatures than this are not looked at, so that a request cannot buy much work.
const MOST_SIGNATURES: usize = 16;

/// A shared secret, written `whsec_<base64>` and at least 16 bytes long. Never printed.
///
/// ```
/// use outboard_http::Secret;
/// let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
/// assert_eq!(format!("{secret:?}"), "Secret(***)");
/// ```
#[derive(Clone)]
pub struct Secret(hmac::Key);

/// Why a text is not a secret. Does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("must begin with whsec_")]
    Prefix,
    /// What follows cannot be decoded.
    #[error("must be base64 after whsec_")]
    Base64,
    /// Too short to be safe.
    #[error("must hold at least 16 bytes; 24 to 64 are usual")]
    Short,
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let encoded = text.trim().strip_prefix("whsec_").ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        if bytes.len() < 16 {
            return Err(SecretError::Short);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The value of `webhook-signature` for a message: one signature for each secret.
///
/// `timestamp` is in seconds since the Unix epoch.
///
/// ```
/// use outboard_http::webhook::{sign, Secret};
/// let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
/// let value = sign(&[secret], "msg_1", 1_614_265_330, b"{}");
/// assert!(value.to_str().unwrap().starts_with("v1,"));
/// ```
pub fn sign(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> HeaderValue {
    let mut value = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str("v1,");
        STANDARD.encode_string(tag(secret, id, timestamp, body), &mut value);
    }
    HeaderValue::try_from(value).expect("base64 is visible ASCII")
}

fn tag(secret: &Secret, id: &str, timestamp: u64, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&secret.0);
    context.update(id.as_bytes());
    context.update(b".");
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    context.sign()
}

/// Why a request is not taken as genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// One of the three headers is missing or cannot be read.
    #[error("the headers webhook-id, webhook-timestamp and webhook-signature are required")]
    Headers,
    /// It was signed too long ago, or in the future.
    #[error("the webhook-timestamp is more than five minutes from this clock")]
    Timestamp,
    /// No signature fits any secret.
    #[error("no signature fits")]
    Signature,
}

/// Checks a request: one of its signatures fits one of the secrets, and it was signed within [`TOLERANCE`] of `now`
/// (seconds since the Unix epoch). Signatures are compared in constant time. Returns the message's id.
pub fn verify<'a>(
    secrets: &[Secret],
    headers: &'a HeaderMap,
    body: &[u8],
    now: u64,
) -> Result<&'a str, VerifyError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).ok_or(VerifyError::Headers);
    let (id, signatures) = (header(WEBHOOK_ID)?, header(WEBHOOK_SIGNATURE)?);
    let timestamp: u64 = header(WEBHOOK_TIMESTAMP)?.parse().map_err(|_| VerifyError::Headers)?;
    if now.abs_diff(timestamp) > TOLERANCE.as_secs() {
        return Err(VerifyError::Timestamp);
    }
    let signed = format!("{id}.{timestamp}.");
    let signed = [signed.as_bytes(), body].concat();
    let fits = signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .take(MOST_SIGNATURES)
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .any(|tag| secrets.iter().any(|secret| hmac::verify(&secret.0, &signed, &tag).is_ok()));
    if fits { Ok(id) } else { Err(VerifyError::Signature) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the Standard Webhooks specification and of its libraries' tests.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Secret {
        SECRET.parse().unwrap()
    }

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let pairs = [(WEBHOOK_ID, id), (WEBHOOK_TIMESTAMP, timestamp), (WEBHOOK_SIGNATURE, signature)];
        pairs.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect()
    }

    #[test]
    fn the_published_example_is_signed_and_verified() {
        assert_eq!(sign(&[secret()], ID, TIMESTAMP, BODY), SIGNATURE);
        let headers = headers(ID, "1614265330", SIGNATURE);
        assert_eq!(verify(&[secret()], &headers, BODY, TIMESTAMP), Ok(ID));
    }

    #[test]
    fn while_secrets_rotate_either_one_is_enough() {
        let new: Secret = "whsec_bmV3IHNlY3JldCBvZiBtb3JlIHRoYW4gMTYgYnl0ZXM=".parse().unwrap();
        let both = sign(&[new.clone(), secret()], ID, TIMESTAMP, BODY);
        assert_eq!(both.to_str().unwrap().split(' ').count(), 2);
        let both = headers(ID, "1614265330", both.to_str().unwrap());
        assert_eq!(verify(&[secret()], &both, BODY, TIMESTAMP), Ok(ID), "an old receiver");
        assert_eq!(verify(std::slice::from_ref(&new), &both, BODY, TIMESTAMP), Ok(ID), "a new receiver");
        let old = headers(ID, "1614265330", SIGNATURE);
        assert_eq!(verify(&[new.clone(), secret()], &old, BODY, TIMESTAMP), Ok(ID), "an old sender");
        assert_eq!(verify(&[new], &old, BODY, TIMESTAMP), Err(VerifyError::Signature));
    }

    #[test]
    fn anything_changed_is_refused() {
        let check = |headers: HeaderMap, body: &[u8], now| verify(&[secret()], &headers, body, now).map(drop);
        let good = || headers(ID, "1614265330", SIGNATURE);
        assert_eq!(check(good(), b"{}", TIMESTAMP), Err(VerifyError::Signature), "the body");
        let other_id = headers("msg_other", "1614265330", SIGNATURE);
        assert_eq!(check(other_id, BODY, TIMESTAMP), Err(VerifyError::Signature), "the id");
        let other_time = headers(ID, "1614265331", SIGNATURE);
        assert_eq!(check(other_time, BODY, TIMESTAMP), Err(VerifyError::Signature), "the timestamp");
        assert_eq!(check(good(), BODY, TIMESTAMP + 300), Ok(()), "five minutes later");
        assert_eq!(check(good(), BODY, TIMESTAMP + 301), Err(VerifyError::Timestamp), "too old");
        assert_eq!(check(good(), BODY, TIMESTAMP - 301), Err(VerifyError::Timestamp), "from the future");
        for signature in ["", "v1,", "v1,!!!", "v2,g0hM", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="] {
            let headers = headers(ID, "1614265330", signature);
            assert_eq!(check(headers, BODY, TIMESTAMP), Err(VerifyError::Signature), "{signature:?}");
        }
        let not_a_time = headers(ID, "now", SIGNATURE);
        assert_eq!(check(not_a_time, BODY, TIMESTAMP), Err(VerifyError::Headers));
        assert_eq!(check(HeaderMap::new(), BODY, TIMESTAMP), Err(VerifyError::Headers));
    }

    #[test]
    fn a_text_that_is_no_secret_is_refused_and_not_repeated() {
        for (text, error) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Prefix),
            ("whsec_not base64", SecretError::Base64),
            ("whsec_c2hvcnQ=", SecretError::Short),
            ("whsec_", SecretError::Short),
        ] {
            assert_eq!(text.parse::<Secret>().unwrap_err(), error, "{text}");
        }
        assert!(!format!("{:?}", secret()).contains("MfKQ"));
    }
}
