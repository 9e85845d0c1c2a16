//! `<data-dir>/address`: how other processes, our own commands included, find the API.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILE: &str = "address";

/// A published address.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
}

/// Writes the address, whole or not at all. To be called when the address answers.
pub(crate) fn publish(directory: &Path, url: &str) -> Result<Published, String> {
    let (path, draft) = (directory.join(FILE), directory.join("address.new"));
    let written = fs::write(&draft, format!("{url}\n")).and_then(|()| fs::rename(&draft, &path));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(Published { path })
}

impl Published {
    /// Takes it back: nothing answers there any more.
    pub(crate) fn withdraw(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the address");
        }
    }
}

/// The address of the server that runs on a directory, if one has published it.
pub(crate) fn find(directory: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(directory.join(FILE)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_found_until_it_is_withdrawn() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(find(directory.path()).unwrap(), None);
        let published = publish(directory.path(), "http://127.0.0.1:1").unwrap();
        assert_eq!(find(directory.path()).unwrap().as_deref(), Some("http://127.0.0.1:1"));
        published.withdraw();
        assert_eq!(find(directory.path()).unwrap(), None);
    }
}
