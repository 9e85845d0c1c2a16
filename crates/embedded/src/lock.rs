//! One process per data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::Path,
};

use crate::error::OpenError;

/// The lock file's name in the data directory.
const LOCK: &str = "lock";

/// The held lock of a data directory. The system releases it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says who has it.
    pub(crate) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(LOCK);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy: the lock file may be empty still.
                let _ = file.read_to_string(&mut text);
                return Err(OpenError::Locked {
                    path: directory.to_owned(),
                    holder: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Whether a process has a data directory, and its id if it said; nothing is made or changed. A directory that does not
/// exist is nobody's.
///
/// The lock is shared for an instant to find out. Who opens the directory in that instant is refused, so a caller who
/// can ask the server itself does that first.
///
/// ```
/// let directory = std::env::temp_dir().join("never-made");
/// assert_eq!(outboard_embedded::holder(&directory).unwrap(), None);
/// ```
pub fn holder(directory: &Path) -> io::Result<Option<Option<u32>>> {
    let mut file = match File::open(directory.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Ok(Some(text.trim().parse().ok()))
        }
        Err(TryLockError::Error(source)) => Err(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_directory_is_seen_from_outside() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None, "there is no file yet");
        let lock = Lock::take(directory.path()).unwrap();
        assert_eq!(holder(directory.path()).unwrap(), Some(Some(std::process::id())));
        drop(lock);
        assert_eq!(holder(directory.path()).unwrap(), None);
        Lock::take(directory.path()).unwrap();
    }
}
