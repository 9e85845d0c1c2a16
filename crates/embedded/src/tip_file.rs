//! A lower bound of the durable tip beside the database, which tells a lost tail.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use outboard_core::Position;

use crate::error::OpenError;

/// Its name in the data directory.
const TIP: &str = "tip";

/// Position and checksum of the last durable row, as text of a fixed length.
#[derive(Debug)]
pub(crate) struct TipFile {
    file: File,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    pub(crate) checksum: u64,
}

impl TipFile {
    /// Opens it for writing.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(TIP);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        Ok(Self { file: file.map_err(|source| OpenError::Io { path, source })? })
    }

    /// Writes it, without a sync: after a power loss it may say less than the log holds, never more.
    pub(crate) fn write(&self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(format!("{:020} {:016x}\n", mark.position.0, mark.checksum).as_bytes(), 0)
    }

    /// What it says; nothing when it is missing or a power loss left it half written.
    pub(crate) fn read(directory: &Path) -> Result<Option<Mark>, OpenError> {
        let path = directory.join(TIP);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Mark> {
    let (position, checksum) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let is_whole = position.len() == 20 && checksum.len() == 16;
    is_whole.then_some(())?;
    Some(Mark {
        position: Position(position.parse().ok()?),
        checksum: u64::from_str_radix(checksum, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_from_a_torn_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(TipFile::read(directory.path()).unwrap(), None);
        let file = TipFile::open(directory.path()).unwrap();
        let mark = Mark { position: Position(12), checksum: 0xabc };
        file.write(Mark { position: Position(7), checksum: 1 }).unwrap();
        file.write(mark).unwrap();
        assert_eq!(TipFile::read(directory.path()).unwrap(), Some(mark));
        std::fs::write(directory.path().join(TIP), "0000000000").unwrap();
        assert_eq!(TipFile::read(directory.path()).unwrap(), None);
    }
}
