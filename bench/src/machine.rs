//! What the figures were measured on.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::Command,
    time::Instant,
};

use serde::Serialize;

use crate::statistics::percentile;

/// How often fdatasync is timed.
const SYNCS: usize = 500;

/// The machine, and the versions of what runs on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    /// One 4 KiB write and fdatasync.
    fdatasync_p50_us: u64,
    fdatasync_p99_us: u64,
    outboard: &'static str,
    sqlite: &'static str,
    /// The one-minute load before the run: figures taken on a busy machine say less.
    load: String,
}

impl Machine {
    /// Looks at the machine; `directory` is where the data will be written.
    pub(crate) fn look(directory: &Path) -> io::Result<Self> {
        let mut syncs = time_syncs(directory)?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: processor(),
            kernel: read_word("/proc/sys/kernel/osrelease"),
            fdatasync_p50_us: percentile(&mut syncs, 0.5),
            fdatasync_p99_us: percentile(&mut syncs, 0.99),
            outboard: env!("CARGO_PKG_VERSION"),
            sqlite: rusqlite::version(),
            load: read_word("/proc/loadavg"),
        })
    }

    /// Names and values for people.
    pub(crate) fn lines(&self) -> [(&'static str, String); 6] {
        [
            ("cores", format!("{} x {}", self.cores, self.processor)),
            ("kernel", self.kernel.clone()),
            (
                "fdatasync",
                format!("p50 {} us, p99 {} us (4 KiB)", self.fdatasync_p50_us, self.fdatasync_p99_us),
            ),
            ("outboard", self.outboard.to_owned()),
            ("sqlite", self.sqlite.to_owned()),
            ("load", format!("{} (one minute, before the run)", self.load)),
        ]
    }
}

/// What a program says about its version, in one line.
pub(crate) fn version_of(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

fn read_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}

fn time_syncs(directory: &Path) -> io::Result<Vec<u64>> {
    let path = directory.join("sync-probe");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[7; 4_096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed().as_micros() as u64);
    }
    fs::remove_file(path)?;
    Ok(times)
}
