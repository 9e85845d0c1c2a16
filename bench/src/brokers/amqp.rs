//! Clients of RabbitMQ in other languages, each slice in a process of its own.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::alternate::Contender;
use crate::{machine::version_of, process::Process};

/// A language's client, installed.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Client, version and language.
    name: String,
    /// What is executed, before the URL.
    words: Vec<OsString>,
}

impl Program {
    /// Builds the one in Go.
    pub(crate) fn go(cache: &Path) -> Result<Self> {
        let version = version_of("go", "version").context("go is not installed")?;
        let version = version.split(' ').nth(2).unwrap_or("?").to_owned();
        let (sources, program) = (sources("go"), cache.join("amqp-go"));
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".").current_dir(&sources);
        succeed(&mut build)?;
        let client = pinned(&sources.join("go.mod"), "amqp091-go v")?;
        Ok(Self { name: format!("amqp091-go {client}, {version}"), words: vec![program.into()] })
    }

    /// Installs the one in Python into an environment of its own.
    pub(crate) fn python(cache: &Path) -> Result<Self> {
        let version = version_of("python3", "--version").context("python3 is not installed")?;
        let (sources, environment) = (sources("python"), cache.join("amqp-python"));
        let (requirements, python) = (sources.join("requirements.txt"), environment.join("bin/python"));
        install(&requirements, &environment, || {
            succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            succeed(Command::new(&python).args(pip).arg(&requirements))
        })?;
        let client = pinned(&requirements, "pika==")?;
        let words = vec![python.into(), sources.join("consume.py").into()];
        Ok(Self { name: format!("pika {client}, {version}"), words })
    }

    /// Installs the one in JavaScript.
    pub(crate) fn node(cache: &Path) -> Result<Self> {
        let version = version_of("node", "--version").context("node is not installed")?;
        let (sources, directory) = (sources("node"), cache.join("amqp-node"));
        fs::create_dir_all(&directory)?;
        // Node looks for packages beside the script.
        for file in ["package.json", "package-lock.json", "consume.mjs"] {
            fs::copy(sources.join(file), directory.join(file))?;
        }
        install(&sources.join("package-lock.json"), &directory, || {
            let npm = ["ci", "--silent", "--no-audit", "--no-fund"];
            succeed(Command::new("npm").args(npm).current_dir(&directory))
        })?;
        let client = pinned(&sources.join("package.json"), "\"amqplib\": \"")?;
        let words = vec!["node".into(), directory.join("consume.mjs").into()];
        Ok(Self { name: format!("amqplib {client}, node {version}"), words })
    }
}

/// One of them with one kind of work.
#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    program: Program,
    /// What it is to do, for programs that can do several things.
    verb: Option<&'static str>,
    url: String,
    /// Its arguments after the number of messages.
    numbers: Vec<usize>,
}

impl Client {
    pub(crate) fn new(
        program: &Program,
        how: &str,
        verb: Option<&'static str>,
        url: &str,
        numbers: &[usize],
    ) -> Self {
        let (program, url, numbers) = (program.clone(), url.to_owned(), numbers.to_vec());
        Self { name: format!("{}, {how}", program.name), program, verb, url, numbers }
    }
}

impl Contender for Client {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, queue: &str, messages: usize) -> Result<Duration> {
        let (program, arguments) = self.program.words.split_first().context("a program has a name")?;
        let mut command = Command::new(program);
        command.args(arguments).args(self.verb).args([&self.url, queue]).arg(messages.to_string());
        command.args(self.numbers.iter().map(usize::to_string));
        let mut process = Process::spawn(&self.name, &mut command)?;
        process.expect("ready")?;
        process.tell("go")?;
        let microseconds = process.line()?.parse().context("a slice's time is a number of microseconds")?;
        Ok(Duration::from_micros(microseconds))
    }
}

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(language)
}

/// Installs into a directory unless that was done for the same list of packages.
fn install(list: &Path, directory: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = directory.join("installed");
    let wanted = fs::read(list)?;
    if fs::read(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    Ok(fs::write(done, wanted)?)
}

/// The version that stands behind this text in a list of packages.
fn pinned(list: &Path, before: &str) -> Result<String> {
    let text = fs::read_to_string(list)?;
    let (_, rest) = text.split_once(before).with_context(|| format!("{} pins nothing", list.display()))?;
    Ok(rest.chars().take_while(|one| one.is_ascii_digit() || *one == '.').collect())
}

fn succeed(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", command.get_program().display(), said.trim());
    Ok(())
}
