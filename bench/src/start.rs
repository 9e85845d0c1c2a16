//! Starts on a large data directory, clean and after `kill -9` under load, and what the program takes up.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outboard_embedded::{Options, format::DATABASE};
use rusqlite::{Connection, config::DbConfig};

use crate::{
    http::request,
    load::Load,
    order::Order,
    process::measured,
    report::{Report, Row, Target, Unit},
    server::{ECHO, Server, command},
    settings::Settings,
    statistics::Samples,
};

/// How much a full directory holds. A tenth of the messages come first, to see what grows with the log.
const MESSAGES: f64 = 10e6;
const PARKED: f64 = 100e3;
const KEYS: f64 = 1e6;

/// How often it is started, clean and after a kill.
const STARTS: usize = 5;

/// How long the load before a kill lasts, before the memory is looked at, and how long the idle program is watched.
const KILL_AFTER: Duration = Duration::from_secs(2);
const LOAD: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(10);

/// Between the end of the load and the time from which the program is to be idle.
const SETTLE: Duration = Duration::from_secs(2);

/// How often the metrics are asked for the first consumption.
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// How long the write-ahead log may take to fill while a reader holds it up.
const FULL_AFTER: Duration = Duration::from_secs(30);

const MEGABYTE: f64 = (1 << 20) as f64;

/// The program and the data directory that it is started on.
struct Starts {
    program: PathBuf,
    directory: PathBuf,
    /// For a smoke run everything takes this much shorter.
    scale: f64,
}

pub(crate) fn run(settings: &mut Settings, report: &mut Report) -> Result<()> {
    let scale = if settings.is_smoke { 0.05 } else { 1.0 };
    let (program, directory) = (settings.outboard()?, settings.directory("start")?);
    let starts = Starts { program, directory, scale };
    let counted = |full: f64| (full * settings.fill) as u64;
    let (few, all) = (counted(MESSAGES / 10.0), counted(MESSAGES));
    starts.fill(few, counted(PARKED), counted(KEYS))?;
    let before = starts.rows_read()?;
    starts.fill(all - few, 0, 0)?;
    let after = starts.rows_read()?;
    let held = format!("{all} messages, {} parked, {} idempotency keys", counted(PARKED), counted(KEYS));
    let rows = Row::new("rows read at start", Unit::Count, after);
    let ratio = format!("with {all} messages; {before} with {few}");
    report.row(rows.target(Target::AtMost(before)).note(ratio))?;
    starts.clean(report, &held)?;
    starts.killed(report)?;
    starts.memory_and_idleness(report)
}

impl Starts {
    fn fill(&self, messages: u64, parked: u64, keys: u64) -> Result<()> {
        let mut command = measured(&self.program);
        command.args(["--json", "bench", "fill", "--data-dir"]).arg(&self.directory);
        for (flag, count) in [("--messages", messages), ("--parked", parked), ("--keys", keys)] {
            command.args([flag, &count.to_string()]);
        }
        let output = command.output().context("cannot start outboard bench fill")?;
        let text = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "outboard bench fill: {}", text());
        Ok(())
    }

    fn start(&self) -> Result<Server> {
        Server::start(&self.program, &self.directory, None)
    }

    fn rows_read(&self) -> Result<f64> {
        let mut server = self.start()?;
        let rows = server.metric("outboard_log_rows_read_at_open")?;
        server.process.terminate()?;
        Ok(rows)
    }

    fn clean(&self, report: &mut Report, held: &str) -> Result<()> {
        let mut ready = Samples::default();
        for _ in 0..STARTS {
            let mut server = self.start()?;
            ready.push(milliseconds(server.ready_after));
            server.process.terminate()?;
        }
        let row = Row::new("exec to ready, clean", Unit::Milliseconds, ready).target(Target::AtMost(50.0));
        Ok(report.row(row.note(held))?)
    }

    fn killed(&self, report: &mut Report) -> Result<()> {
        let (mut ready, mut consuming) = (Samples::default(), Samples::default());
        let mut wal_megabytes = Samples::default();
        for _ in 0..STARTS {
            let mut server = self.start()?;
            let load = load(&server, LOAD);
            thread::scope(|scope| {
                // Its connections break when the server is killed: that is no error here.
                let loading = scope.spawn(|| load.as_fast_as_possible().is_err());
                thread::sleep(KILL_AFTER.mul_f64(self.scale));
                let reader = SlowReader::begin(&self.directory)?;
                let full = wait_for_full(&self.directory);
                server.process.kill()?;
                reader.end()?;
                ensure!(loading.join().expect("the load does not panic"), "the load ended before the kill");
                full
            })?;
            wal_megabytes.push(wal_megabytes_in(&self.directory)?);
            let mut server = self.start()?;
            ready.push(milliseconds(server.ready_after));
            consuming.push(milliseconds(first_consumption(&server)?));
            server.process.terminate()?;
        }
        let note = format!(
            "killed with -9 under load from 32 connections; the WAL, held up by a reader, had {:.0} MB",
            wal_megabytes.median()
        );
        let row =
            Row::new("exec to ready, after a kill", Unit::Milliseconds, ready).target(Target::AtMost(500.0));
        report.row(row.note(note))?;
        let row = Row::new("exec to the first message handled, after a kill", Unit::Milliseconds, consuming);
        Ok(report.row(row.target(Target::AtMost(500.0)))?)
    }

    fn memory_and_idleness(&self, report: &mut Report) -> Result<()> {
        let mut server = self.start()?;
        let fresh = server.process.resident_megabytes()?;
        let seconds = LOAD.mul_f64(self.scale);
        let loaded = load(&server, seconds).as_fast_as_possible()?;
        let resident = server.process.resident_megabytes()?;
        let note = format!(
            "{fresh:.1} MB at start; {:.0} s of POST /commands from 32 connections, {:.0}/s",
            seconds.as_secs_f64(),
            loaded.per_second
        );
        let row =
            Row::new("resident memory after load", Unit::Megabytes, resident).target(Target::AtMost(30.0));
        report.row(row.note(note))?;
        thread::sleep(SETTLE.mul_f64(self.scale));
        let (idle, before) = (IDLE.mul_f64(self.scale), server.process.processor_seconds()?);
        thread::sleep(idle);
        let used = server.process.processor_seconds()? - before;
        let percent = used / idle.as_secs_f64() * 100.0;
        let row = Row::new("processor when idle", Unit::Percent, percent).target(Target::AtMost(0.5));
        report.row(row.note("of one core; the kernel counts in steps of 10 ms"))?;
        server.process.terminate()
    }
}

/// From the server's execution until its worker has handled something.
fn first_consumption(server: &Server) -> Result<Duration> {
    let body = command(ECHO, &Order::new(0).json());
    let mut client = server.client()?;
    let status = client.post("/commands", body.as_bytes())?.status;
    ensure!(status == 202, "the answer was {status}");
    while server.metric("outboard_worker_handled_total")? == 0.0 {
        thread::sleep(LOOK_AGAIN);
    }
    Ok(server.age())
}

fn load(server: &Server, duration: Duration) -> Load {
    let body = |id| command(ECHO, &Order::new(id).json());
    Load {
        address: server.address,
        requests: (0..256).map(|id| request("POST", "/commands", body(id).as_bytes())).collect(),
        connections: 32,
        status: 202,
        duration,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Another program that reads the database and does not come to an end: the write-ahead log cannot begin again
/// meanwhile, and fills.
struct SlowReader(Connection);

impl SlowReader {
    fn begin(directory: &Path) -> Result<Self> {
        let connection = Connection::open(directory.join(DATABASE))?;
        // The write-ahead log is to be left as the kill left it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("BEGIN; SELECT 1 FROM messages LIMIT 1")?;
        Ok(Self(connection))
    }

    /// After the kill, so that nothing shrinks the write-ahead log before, and so that the next start finds
    /// nobody who has its index in memory.
    fn end(self) -> Result<()> {
        self.0.close().map_err(|(_, error)| error.into())
    }
}

/// Waits until the write-ahead log has the size to which Outboard limits it.
fn wait_for_full(directory: &Path) -> Result<()> {
    let (began, full) = (Instant::now(), Options::default().wal_bytes as f64 / MEGABYTE);
    loop {
        let megabytes = wal_megabytes_in(directory)?;
        if megabytes >= full {
            return Ok(());
        }
        ensure!(began.elapsed() < FULL_AFTER, "the write-ahead log has {megabytes:.1} MB only");
        thread::sleep(LOOK_AGAIN);
    }
}

fn wal_megabytes_in(directory: &Path) -> Result<f64> {
    let path = directory.join(format!("{DATABASE}-wal"));
    Ok(std::fs::metadata(path).context("there is no write-ahead log")?.len() as f64 / MEGABYTE)
}
