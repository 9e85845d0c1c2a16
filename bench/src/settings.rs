//! How long and how often things are measured, and where.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// The settings of one run. Its data goes away with it.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How long one slice lasts.
    pub(crate) slice: Duration,
    /// How often everything is measured, one after the other in turn.
    pub(crate) slices: usize,
    /// Small numbers, and half the ratios are asserted.
    pub(crate) is_smoke: bool,
    /// How much is filled in before a start is measured, against ten million messages.
    pub(crate) fill: f64,
    /// Whether the peers are left out.
    pub(crate) is_alone: bool,
    /// How many attempts our worker runs at once.
    pub(crate) concurrency: u32,
    /// Where all the data of this run is.
    pub(crate) data: tempfile::TempDir,
    /// The program to measure; built when it is first asked for.
    pub(crate) program: Option<PathBuf>,
}

impl Settings {
    /// A directory below the data of this run.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.data.path().join(name);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Where packages of peers are kept between runs.
    pub(crate) fn cache(&self) -> Result<PathBuf> {
        Ok(target()?.join("bench-peers"))
    }

    /// The program `outboard`, built now if need be, so that a stale one is never measured.
    pub(crate) fn outboard(&mut self) -> Result<PathBuf> {
        if self.program.is_none() {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let arguments = ["build", "--quiet", "--release", "--package", "outboard-server"];
            let built = Command::new("cargo").args(arguments).current_dir(root).status();
            ensure!(built.context("cargo is not installed")?.success(), "outboard-server does not build");
            self.program = Some(target()?.join("release/outboard"));
        }
        Ok(self.program.clone().expect("it was set above"))
    }
}

/// A directory for one run's data, by default below `target`, on the disk that the build is on.
pub(crate) fn data(parent: Option<PathBuf>) -> Result<tempfile::TempDir> {
    let parent = parent.map_or_else(|| Ok(target()?.join("bench-data")), anyhow::Ok)?;
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("run-").tempdir_in(parent)?)
}

/// Cargo's target directory, which this program was built into.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program is not in a target directory")?;
    Ok(target.to_owned())
}
