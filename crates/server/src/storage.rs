//! Opening a data directory, with errors that name it and the mend.

use std::{io::ErrorKind, path::Path};

use outboard_embedded::{Embedded, OpenError, Options};

/// Opens a data directory, which is made if it does not exist. The error is a line for people.
pub(crate) async fn open(directory: &Path) -> Result<Embedded, String> {
    Embedded::open(directory, Options::default()).await.map_err(|error| explain(directory, &error))
}

/// Why a directory cannot be used, and what to do about it.
pub(crate) fn explain(directory: &Path, error: &OpenError) -> String {
    let directory = directory.display();
    match error {
        OpenError::Io { path, source } => {
            let mend = match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "let the user that runs Outboard write there"
                }
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => "it is a file, not a directory",
                ErrorKind::StorageFull => "free some space",
                _ => "make it usable",
            };
            let path = path.display();
            format!(
                "the data directory {directory}: {path}: {source}; {mend}, or name another with --data-dir"
            )
        }
        OpenError::Sqlite(_) => format!(
            "the data directory {directory}: its database outboard.db cannot be used: {error}; \
             restore the directory from a backup, or name another with --data-dir"
        ),
        OpenError::Locked { .. } => format!("{error}; stop it, or name another directory with --data-dir"),
        // It names path and mend itself.
        OpenError::Format { .. } => error.to_string(),
        _ => format!("the data directory {directory}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_is_named_with_the_mend() {
        let directory = Path::new("shop-data");
        let denied =
            OpenError::Io { path: "shop-data/lock".into(), source: ErrorKind::PermissionDenied.into() };
        for (error, parts) in [
            (denied, ["shop-data/lock: permission denied", "write there", "--data-dir"]),
            (OpenError::Corrupt("two tips".into()), ["shop-data", "two tips", "backup"]),
        ] {
            let told = explain(directory, &error);
            for part in parts {
                assert!(told.contains(part), "{told:?} lacks {part:?}");
            }
        }
    }
}
