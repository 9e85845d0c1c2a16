//! Whether the wall clock makes sense: due times, idempotency keys and signatures go by it.

use std::time::{Duration, Instant, SystemTime};

use crate::doctor::report::Check;

/// 2026-01-01, in seconds since 1970: this program did not exist before.
const EARLIEST: u64 = 1_767_225_600;

/// 2100-01-01, in seconds since 1970.
const LATEST: u64 = 4_102_444_800;

/// The clocks may run so far apart while they are watched: more than any that is slowly set right.
const APART: Duration = Duration::from_millis(50);

/// The wall clock and the one that nobody sets, read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    wall: SystemTime,
    steady: Instant,
}

impl Clocks {
    /// As they are now.
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// What they say when they are read again.
    pub(super) fn judge(self, later: Self) -> Check {
        let name = "clock";
        let mend = "set it, and keep it by NTP (`timedatectl set-ntp true`)";
        let since_1970 = later.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if !(EARLIEST..LATEST).contains(&since_1970) {
            let seconds = i64::try_from(since_1970).unwrap_or(i64::MAX);
            let shown = jiff::Timestamp::from_second(seconds);
            let shown = shown.map_or_else(|_| format!("{since_1970} s after 1970"), |time| time.to_string());
            return Check::problem(name, format!("it says {shown}, which cannot be"), mend);
        }
        let steady = later.steady.saturating_duration_since(self.steady);
        let apart = match later.wall.duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(steady),
            Err(backwards) => backwards.duration() + steady,
        };
        if apart > APART {
            let text = format!("it was set by {apart:.1?} within {steady:.1?}");
            return Check::warning(name, text, "let one service keep it, and by small steps");
        }
        Check::ok(name, "its time is plausible, and nobody sets it just now")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn a_clock_that_is_wrong_or_being_set_is_told() {
        let now = Clocks::now();
        let after =
            |wall: Duration, steady: Duration| Clocks { wall: now.wall + wall, steady: now.steady + steady };
        let second = Duration::from_secs(1);
        assert_eq!(now.judge(after(second, second)).status, Status::Ok);
        assert_eq!(now.judge(after(2 * second, second)).status, Status::Warning);
        let back = Clocks { wall: now.wall - second, steady: now.steady };
        assert_eq!(now.judge(back).status, Status::Warning);
        let unset = Clocks { wall: SystemTime::UNIX_EPOCH + second, steady: now.steady };
        let check = unset.judge(unset);
        assert_eq!(check.status, Status::Problem);
        assert!(check.text.contains("1970-01-01"), "{check:?}");
    }
}
