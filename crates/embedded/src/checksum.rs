//! The chained checksum of a message's row.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What the first row's checksum is chained to.
pub const BEFORE_FIRST: u64 = 0x6f75_7462_6f61_7264;

/// The fields that a checksum covers, as they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// The position.
    pub id: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The type.
    pub kind: &'a [u8],
    /// The headers as JSON, if there are any.
    pub headers: Option<&'a [u8]>,
    /// The payload.
    pub payload: &'a [u8],
    /// Milliseconds since the Unix epoch, if it waits.
    pub run_at: Option<i64>,
}

/// The checksum of a row whose predecessor's checksum is `previous` ([`BEFORE_FIRST`] for the first row).
///
/// XXH3 over the fixed fields and all lengths, then over each variable field, each seeded with the hash
/// before it.
pub fn checksum(previous: u64, fields: &Fields<'_>) -> u64 {
    let numbers: [u64; 6] = [
        fields.id.cast_unsigned(),
        fields.timestamp.cast_unsigned(),
        // No real time has this value: it stands for "at once".
        fields.run_at.unwrap_or(i64::MIN).cast_unsigned(),
        fields.kind.len() as u64,
        fields.headers.map_or(u64::MAX, |headers| headers.len() as u64),
        fields.payload.len() as u64,
    ];
    let mut fixed = [0; 48];
    for (bytes, number) in fixed.chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    let hash = xxh3_64_with_seed(&fixed, previous);
    let hash = xxh3_64_with_seed(fields.kind, hash);
    let hash = fields.headers.map_or(hash, |headers| xxh3_64_with_seed(headers, hash));
    xxh3_64_with_seed(fields.payload, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields<'static> =
        Fields { id: 7, timestamp: 1_000, kind: b"a/b", headers: None, payload: b"{}", run_at: None };

    #[test]
    fn every_field_and_the_predecessor_count() {
        let same = checksum(1, &FIELDS);
        assert_eq!(same, checksum(1, &FIELDS));
        let others = [
            checksum(2, &FIELDS),
            checksum(1, &Fields { id: 8, ..FIELDS }),
            checksum(1, &Fields { timestamp: 1_001, ..FIELDS }),
            checksum(1, &Fields { kind: b"a/c", ..FIELDS }),
            checksum(1, &Fields { headers: Some(b""), ..FIELDS }),
            checksum(1, &Fields { payload: b"[]", ..FIELDS }),
            checksum(1, &Fields { run_at: Some(0), ..FIELDS }),
            checksum(1, &Fields { kind: b"a/b{", payload: b"}", ..FIELDS }),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(same, *other, "case {index}");
        }
    }
}
