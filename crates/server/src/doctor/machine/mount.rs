//! Which file system a directory is on, as Linux tells it.

use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Such as `ext4`.
    pub kind: String,
    /// Its own options, such as `rw,nobarrier`.
    options: String,
}

/// File systems in memory.
const VOLATILE: &[&str] = &["tmpfs", "ramfs"];

/// File systems on other machines.
const NETWORK: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"];

/// Options with which an fsync does not reach the disk.
const UNSYNCED: &[&str] = &["volatile", "nobarrier", "barrier=0"];

impl Mount {
    /// Where a directory is; `None` where that cannot be told.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let directory = directory.canonicalize().ok()?;
        find(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &directory)
    }

    /// Whether everything on it is gone with the power.
    pub(super) fn is_volatile(&self) -> bool {
        VOLATILE.contains(&self.kind.as_str())
    }

    /// Whether it is on another machine.
    pub(super) fn is_network(&self) -> bool {
        NETWORK.contains(&self.kind.as_str())
    }

    /// The option because of which an fsync does not reach the disk, if there is one.
    pub(super) fn unsynced(&self) -> Option<&str> {
        self.options.split(',').find(|option| UNSYNCED.contains(option))
    }
}

/// The mount whose point is the longest way to the directory; of two at one point, the later one lies on top.
fn find(table: &str, directory: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4).map(unescape) else { continue };
        let mut after = after.split(' ');
        let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else { continue };
        let depth = point.components().count();
        if directory.starts_with(&point) && best.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            best = Some((depth, Mount { kind: kind.to_owned(), options: options.to_owned() }));
        }
    }
    best.map(|(_, mount)| mount)
}

/// The table writes spaces and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (written, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(written, character);
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,nobarrier
30 22 0:27 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=9k
31 22 0:28 / /srv/two\\040words rw - nfs4 host:/x rw,vers=4.2
32 22 0:29 / /var/lib rw - overlay overlay rw,lowerdir=a,volatile
nonsense";

    #[test]
    fn the_deepest_mount_counts() {
        let kind = |path: &str| find(TABLE, Path::new(path)).unwrap();
        assert_eq!(kind("/srv/data").kind, "ext4");
        assert_eq!(kind("/srv/data").unsynced(), Some("nobarrier"));
        assert!(kind("/dev/shm/data").is_volatile());
        assert_eq!(kind("/dev/shmx").kind, "ext4", "a part of a name is not a directory");
        assert!(kind("/srv/two words/data").is_network());
        assert_eq!(kind("/var/lib/outboard").unsynced(), Some("volatile"));
    }
}
