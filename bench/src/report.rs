//! What was measured, as a table for people or as JSON lines, and whether the targets are met.

use std::io::{self, Write};

use serde::Serialize;

use crate::{machine::Machine, statistics::Samples};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Megabytes,
    Percent,
    Count,
}

/// What a figure should be. Absolute figures are printed beside what came out; only ratios are ever asserted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
    /// The median ratio to the peer.
    RatioAtLeast(f64),
}

/// The peer's side of a row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) figure: Samples,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) figure: Samples,
    pub(crate) peer: Option<Peer>,
    pub(crate) target: Target,
    /// How durable it is, and what else must be known to read the figure.
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, figure: impl Into<Samples>) -> Self {
        let (what, figure) = (what.into(), figure.into());
        Self { what, unit, figure, peer: None, target: Target::None, note: String::new() }
    }

    pub(crate) fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    pub(crate) fn against(self, name: impl Into<String>, figure: Samples) -> Self {
        Self { peer: Some(Peer { name: name.into(), figure }), ..self }
    }

    fn ratio(&self) -> Option<Samples> {
        self.peer.as_ref().map(|peer| self.figure.over(&peer.figure))
    }

    /// Whether the target is met, if there is one; a ratio is held against so much of its target.
    fn meets(&self, leniency: f64) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::AtLeast(least) => Some(self.figure.median() >= least),
            Target::AtMost(most) => Some(self.figure.median() <= most),
            Target::RatioAtLeast(least) => Some(self.ratio()?.median() >= least * leniency),
        }
    }

    /// Whether a smoke run must fail: a ratio is below half of what it should be.
    fn is_broken(&self) -> bool {
        matches!(self.target, Target::RatioAtLeast(_)) && self.meets(0.5) == Some(false)
    }
}

/// Prints rows as they come, and keeps them.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
    began: bool,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new(), began: false }
    }

    /// Says what it runs on.
    pub(crate) fn machine(&self, machine: &Machine) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", serde_json::to_string(machine)?);
        }
        for (name, value) in machine.lines() {
            writeln!(out, "{name:<12}{value}")?;
        }
        Ok(())
    }

    /// Adds a row and prints it.
    pub(crate) fn row(&mut self, row: Row) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            if !self.began {
                let (what, median, spread, target) = ("what", "median", "spread", "target");
                writeln!(out, "\n{what:<64}{median:>11}  {spread:<26}{target:<16}verdict")?;
            }
            write_row(&mut out, &row)?;
        }
        self.began = true;
        self.rows.push(row);
        Ok(())
    }

    /// Says why something is not measured. Loud, because a missing peer makes the table say less than it seems to.
    pub(crate) fn skipped(&self, what: &str, why: &str) -> io::Result<()> {
        if self.json {
            writeln!(io::stdout().lock(), "{}", serde_json::json!({ "skipped": what, "why": why }))
        } else {
            writeln!(io::stdout().lock(), "SKIPPED {what}: {why}")
        }
    }

    /// Whether a ratio is below half of its target.
    pub(crate) fn is_broken(&self) -> bool {
        self.rows.iter().any(Row::is_broken)
    }

    /// Says how many targets were met.
    pub(crate) fn verdict(&self) -> io::Result<()> {
        let verdicts: Vec<bool> = self.rows.iter().filter_map(|row| row.meets(1.0)).collect();
        let (met, all) = (verdicts.iter().filter(|met| **met).count(), verdicts.len());
        if self.json {
            return writeln!(io::stdout().lock(), "{}", serde_json::json!({ "targets": all, "met": met }));
        }
        writeln!(io::stdout().lock(), "\n{met} of {all} targets met")
    }
}

fn write_row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let verdict = match row.meets(1.0) {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    };
    let (target, has_ratio) = match row.target {
        Target::None => (String::new(), false),
        Target::AtLeast(least) => (format!(">= {}", shown(row.unit, least)), false),
        Target::AtMost(most) => (format!("<= {}", shown(row.unit, most)), false),
        Target::RatioAtLeast(least) => (format!("ratio >= {least:.2}"), true),
    };
    // The verdict stands beside the figure that it is about.
    let (own_target, own_verdict) = if has_ratio { ("", "") } else { (target.as_str(), verdict) };
    write_figure(out, &row.what, &row.figure, |value| shown(row.unit, value), own_target, own_verdict)?;
    if let (Some(peer), Some(ratio)) = (&row.peer, row.ratio()) {
        let name = format!("  {}", peer.name);
        write_figure(out, &name, &peer.figure, |value| shown(row.unit, value), "", "")?;
        let (target, verdict) = if has_ratio { (target.as_str(), verdict) } else { ("", "") };
        write_figure(out, "  ratio", &ratio, |value| format!("{value:.3}"), target, verdict)?;
    }
    if !row.note.is_empty() {
        writeln!(out, "    {}", row.note)?;
    }
    Ok(())
}

fn write_figure(
    out: &mut impl Write,
    what: &str,
    figure: &Samples,
    show: impl Fn(f64) -> String,
    target: &str,
    verdict: &str,
) -> io::Result<()> {
    let spread = match figure.0.len() {
        0 | 1 => String::new(),
        count => format!("{}..{} ({count})", show(figure.least()), show(figure.most())),
    };
    let median = show(figure.median());
    writeln!(out, "{}", format!("{what:<64}{median:>11}  {spread:<26}{target:<16}{verdict}").trim_end())
}

fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::PerSecond => format!("{}/s", rounded(value)),
        Unit::Microseconds => format!("{value:.0} us"),
        Unit::Milliseconds => format!("{value:.2} ms"),
        Unit::Megabytes => format!("{value:.1} MB"),
        Unit::Percent => format!("{value:.2} %"),
        Unit::Count => format!("{value:.0}"),
    }
}

/// Three significant digits are more than a shared machine can tell.
fn rounded(value: f64) -> String {
    match value {
        value if value >= 9_999_500.0 => format!("{:.1}M", value / 1e6),
        value if value >= 999_500.0 => format!("{:.2}M", value / 1e6),
        value if value >= 99_950.0 => format!("{:.0}k", value / 1e3),
        value if value >= 1_000.0 => format!("{:.1}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(own: f64, peer: f64) -> Row {
        Row::new("append", Unit::PerSecond, own).against("raw", peer.into()).target(Target::RatioAtLeast(0.9))
    }

    #[test]
    fn only_half_a_ratio_is_asserted() {
        assert_eq!(row(95.0, 100.0).meets(1.0), Some(true));
        assert_eq!(row(50.0, 100.0).meets(1.0), Some(false));
        assert!(!row(50.0, 100.0).is_broken());
        assert!(row(40.0, 100.0).is_broken());
        let absolute = Row::new("replay", Unit::PerSecond, 1.0).target(Target::AtLeast(1e6));
        assert_eq!(absolute.meets(1.0), Some(false));
        assert!(!absolute.is_broken());
    }

    #[test]
    fn figures_are_rounded_to_what_they_can_tell() {
        let shown: Vec<String> = [12_345_678.0, 1_234_567.0, 123_456.0, 12_345.0, 123.4].map(rounded).into();
        assert_eq!(shown, ["12.3M", "1.23M", "123k", "12.3k", "123"]);
    }
}
