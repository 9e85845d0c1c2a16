//! The disk under the data directory: how fast it syncs, and how much is free.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::mount::Mount;
use crate::doctor::report::Check;

/// How many writes are synced, if there is time.
const WRITES: usize = 300;

/// What each of them writes.
const BLOCK: [u8; 4_096] = [0x5a; 4_096];

/// No more writes after this.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// A median above this is felt: every append waits for one.
const SLOW: Duration = Duration::from_millis(20);

/// A second of waiting in a hundred appends is felt, too.
const SLOW_P99: Duration = Duration::from_millis(200);

/// No disk is as fast as this: it is a call into the system that does nothing.
const TOO_FAST: Duration = Duration::from_micros(5);

/// Below this a warning is due, though appends are still taken.
const LITTLE_BYTES: u64 = 1 << 30;

/// How long some syncs took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Syncs {
    count: usize,
    median: Duration,
    p99: Duration,
}

/// Where the data directory is, or will be: the next directory above it that exists.
pub(super) fn place(data_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let existing = absolute.ancestors().find(|path| path.is_dir());
    existing.map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// Writes and syncs in the directory's file system. Blocks for some seconds at most, unless the disk hangs.
pub(super) fn sync(place: &Path) -> Check {
    match measure(place) {
        Ok(syncs) => judge_syncs(syncs, Mount::of(place).as_ref()),
        Err(error) => Check::problem(
            "disk sync",
            format!("{} cannot be written to: {error}", place.display()),
            "let the user that runs Outboard write there, or name another directory as `data_dir`",
        ),
    }
}

fn measure(place: &Path) -> io::Result<Syncs> {
    let mut scratch = Scratch::new(place)?;
    let (began, mut times) = (Instant::now(), Vec::with_capacity(WRITES));
    while times.len() < WRITES && (times.len() < 3 || began.elapsed() < SYNC_TIME) {
        scratch.file.write_all(&BLOCK)?;
        let begun = Instant::now();
        scratch.file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let count = times.len();
    Ok(Syncs { count, median: times[count / 2], p99: times[(count * 99 / 100).min(count - 1)] })
}

/// A file that is gone afterwards.
#[derive(Debug)]
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    /// One name for all: what a killed run leaves behind, the next one removes. The file keeps its name while it is used,
    /// because some file systems do not sync what has none.
    fn new(place: &Path) -> io::Result<Self> {
        let path = place.join("outboard-doctor.tmp");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { file: OpenOptions::new().write(true).create_new(true).open(&path)?, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Another run may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

fn judge_syncs(syncs: Syncs, mount: Option<&Mount>) -> Check {
    let name = "disk sync";
    let Syncs { count, median, p99 } = syncs;
    let kind = mount.map(|mount| format!(", {}", mount.kind)).unwrap_or_default();
    let text = format!("4 KiB are synced in {median:.1?}, 99 % in {p99:.1?} ({count} times{kind})");
    let elsewhere = "name a directory on a disk as `data_dir`";
    if mount.is_some_and(Mount::is_volatile) {
        let text = format!("{text}: this is memory, fsync does nothing here, and all is gone with the power");
        return Check::warning(name, text, elsewhere);
    }
    if let Some(option) = mount.and_then(Mount::unsynced) {
        let text = format!("{text}: mounted with `{option}`, fsync does not reach the disk here");
        return Check::warning(name, text, format!("mount it without `{option}`"));
    }
    if mount.is_some_and(Mount::is_network) {
        let text = format!(
            "{text}: a file system of another machine, whose locks and syncs are not to be relied on"
        );
        return Check::warning(name, text, elsewhere);
    }
    if median < TOO_FAST {
        let text = format!("{text}: no disk is so fast, fsync seems to do nothing here");
        return Check::warning(name, text, elsewhere);
    }
    if median > SLOW || p99 > SLOW_P99 {
        let text = format!("{text}: slow, and every command waits for one");
        return Check::warning(name, text, "see what else writes to this disk, or name a faster one");
    }
    Check::ok(name, text)
}

/// How much is free, against what appends need.
pub(super) fn space(place: &Path) -> Check {
    let name = "disk space";
    match rustix::fs::statvfs(place) {
        Ok(disk) => judge_space(
            disk.f_bavail.saturating_mul(disk.f_frsize),
            outboard_embedded::Options::default().reserve_bytes,
        ),
        Err(error) => Check::unknown(name, format!("the file system does not say: {error}"), ""),
    }
}

fn judge_space(free: u64, reserve: u64) -> Check {
    let name = "disk space";
    let (free_mib, reserve_mib) = (free >> 20, reserve >> 20);
    if free < reserve {
        let text = format!("{free_mib} MiB are free, and commands are refused below {reserve_mib} MiB");
        return Check::problem(name, text, "free some space");
    }
    if free < LITTLE_BYTES {
        let text = format!("{free_mib} MiB are free; commands are refused below {reserve_mib} MiB");
        return Check::warning(name, text, "free some space, messages are never removed");
    }
    let free_gib = free as f64 / f64::from(1 << 30);
    Check::ok(name, format!("{free_gib:.1} GiB are free; commands are refused below {reserve_mib} MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    fn micros(median: u64, p99: u64) -> Syncs {
        Syncs { count: 300, median: Duration::from_micros(median), p99: Duration::from_micros(p99) }
    }

    #[test]
    fn a_disk_is_neither_slow_nor_too_fast() {
        for (syncs, status, words) in [
            (micros(900, 3_000), Status::Ok, "4 KiB are synced in 900.0µs, 99 % in 3.0ms (300 times)"),
            (micros(21_000, 30_000), Status::Warning, "slow"),
            (micros(1_000, 201_000), Status::Warning, "slow"),
            (micros(1, 2), Status::Warning, "fsync seems to do nothing"),
        ] {
            let check = judge_syncs(syncs, None);
            assert_eq!(check.status, status, "{check:?}");
            assert!(check.text.contains(words), "{check:?}");
        }
    }

    #[test]
    fn little_space_is_told_before_commands_are_refused() {
        let status = |free: u64| judge_space(free, 64 << 20).status;
        assert_eq!(status((64 << 20) - 1), Status::Problem);
        assert_eq!(status(64 << 20), Status::Warning);
        assert_eq!(status(1 << 30), Status::Ok);
    }

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        // A killed run left this.
        fs::write(directory.path().join("outboard-doctor.tmp"), "x").unwrap();
        let syncs = measure(directory.path()).unwrap();
        assert!(syncs.count >= 3 && syncs.median <= syncs.p99, "{syncs:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(place(&directory.path().join("a/b")), directory.path());
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_a_problem() {
        let check = sync(Path::new("/proc"));
        assert_eq!(check.status, Status::Problem);
        assert!(check.text.starts_with("/proc cannot be written to: "), "{check:?}");
    }
}
