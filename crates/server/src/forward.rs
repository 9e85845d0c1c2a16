//! Forward workers from their configuration.

use crate::config::Secret;

/// The key that `secret` stands for.
pub fn signing_key(secret: &Secret) -> Result<Vec<u8>, &'static str> {
    let encoded = secret.expose().strip_prefix("whsec_").ok_or("does not begin with `whsec_`")?;
    Ok(encoded.as_bytes().to_vec())
}
