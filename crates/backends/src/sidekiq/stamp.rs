//! Times as Sidekiq and ActiveJob write them.

use outboard_core::Time;

/// Seconds with a fraction: an integer would be taken for milliseconds by Sidekiq 8, and this is understood by all.
pub(super) fn seconds(time: Time) -> String {
    let millis = time.as_millis().max(0);
    format!("{}.{:03}", millis / 1_000, millis % 1_000)
}

/// ISO-8601 in UTC with nine decimals.
pub(super) fn iso(time: Time) -> String {
    let timestamp =
        jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{timestamp:.9}")
}

/// The day in UTC, by which Sidekiq counts.
pub(super) fn day(time: Time) -> String {
    iso(time)[..10].to_owned()
}

/// Reads a time of a job: seconds, or milliseconds where the number is too large for seconds (Sidekiq 8).
pub(super) fn read(number: f64) -> Option<Time> {
    /// Seconds of the year 5138, milliseconds of 1973.
    const MILLIS_FROM: f64 = 1e11;
    if !number.is_finite() || number <= 0.0 {
        return None;
    }
    let millis = if number >= MILLIS_FROM { number } else { number * 1_000.0 };
    // A cast of what is too large ends at the largest.
    Some(Time::from_millis(millis.round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_sidekiq_does() {
        let time = Time::from_millis(1_795_247_308_330);
        assert_eq!(seconds(time), "1795247308.330");
        assert_eq!(iso(time), "2026-11-21T07:48:28.330000000Z");
        assert_eq!(day(time), "2026-11-21");
        assert_eq!(read(1_795_247_308.33), Some(time));
        assert_eq!(read(1_795_247_308_330.0), Some(time));
        assert_eq!((read(0.0), read(f64::NAN), read(-7.0)), (None, None, None));
    }
}
