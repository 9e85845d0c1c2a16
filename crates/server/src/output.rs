//! Everything that the commands say to people or scripts; the only place that writes to stdout and stderr.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde::Serialize;

/// The exit code for wrong usage and wrong configuration (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;

/// The exit code for everything that failed while running.
pub(crate) const FAILURE: u8 = 1;

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    /// The user asked for something that cannot be.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: USAGE, message: message.to_string() }
    }

    /// It failed while running.
    pub(crate) fn failure(message: impl Display) -> Self {
        Self { code: FAILURE, message: message.to_string() }
    }

    /// The same with a remark on what was done before.
    pub(crate) fn after(mut self, remark: impl Display) -> Self {
        self.message = format!("{} ({remark})", self.message);
        self
    }
}

impl From<crate::config::ConfigError> for Exit {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Self::failure(format_args!("{error:#}"))
    }
}

/// Writes where a command was told to: human text, or JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether JSON was asked for.
    pub json: bool,
}

impl Output {
    /// One line for people; nothing with `--json`.
    pub(crate) fn line(self, text: impl Display) -> io::Result<()> {
        if self.json { Ok(()) } else { write_line(text) }
    }

    /// One JSON line with `--json`, else a line for people.
    pub(crate) fn record<T: Serialize>(self, record: &T, text: impl Display) -> io::Result<()> {
        if self.json { write_line(serde_json::to_string(record)?) } else { write_line(text) }
    }
}

/// A line on stdout. A reader that went away ends the command quietly, as `head` expects.
fn write_line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
}

/// Whether a failed write means only that nobody reads any more.
fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        if is_closed_pipe(&error) { Self { code: 0, message: String::new() } } else { Self::failure(error) }
    }
}

/// A line on stderr, for people who watch a terminal.
pub(crate) fn notice(text: impl Display) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether people watch stderr.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether what goes to stdout may have colours.
pub(crate) fn has_colours() -> bool {
    io::stdout().is_terminal() && !crate::config::env::no_color()
}

/// Ends a command: says what went wrong, gives the code.
pub(crate) fn finish(result: Result<(), Exit>) -> ExitCode {
    let Err(exit) = result else { return ExitCode::SUCCESS };
    if exit.code != 0 {
        let red = is_watched() && !crate::config::env::no_color();
        let (on, off) = if red { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        notice(format_args!("{on}error:{off} {}", exit.message));
    }
    ExitCode::from(exit.code)
}
