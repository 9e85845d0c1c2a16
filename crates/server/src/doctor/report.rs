//! What a look at something came to, and how it is shown.

use std::fmt;

use serde::Serialize;

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether nothing is a problem.
    pub ok: bool,
    /// In the order in which they are shown.
    pub groups: Vec<Group>,
}

/// What belongs together: the machine, or one backend.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// `machine`, or a backend's URL without its password.
    pub name: String,
    /// In the order in which they are shown.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at, the same in every run: `ports`, `queue orders`.
    pub name: String,
    /// What it came to.
    pub status: Status,
    /// What was found, a phrase without a full stop.
    pub text: String,
    /// What to do about it, unless the text says so already.
    pub mend: Option<String>,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// In order.
    Ok,
    /// It works, and will hurt one day.
    Warning,
    /// It does not work, or loses messages.
    Problem,
    /// It cannot be seen from here.
    Unknown,
}

impl Status {
    fn mark(self) -> char {
        match self {
            Self::Ok => '√',
            Self::Warning => '!',
            Self::Problem => '×',
            Self::Unknown => '-',
        }
    }

    /// The terminal's code for its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\u{1b}[32m",
            Self::Warning => "\u{1b}[33m",
            Self::Problem => "\u{1b}[1;31m",
            Self::Unknown => "\u{1b}[2m",
        }
    }
}

impl Check {
    /// All is well.
    pub(crate) fn ok(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, text: text.into(), mend: None }
    }

    /// It works, and will hurt one day. An empty mend stands in the text already.
    pub(crate) fn warning(name: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { status: Status::Warning, ..Self::ok(name, text).mended(mend) }
    }

    /// It does not work, or loses messages. An empty mend stands in the text already.
    pub(crate) fn problem(name: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { status: Status::Problem, ..Self::ok(name, text).mended(mend) }
    }

    /// It cannot be seen from here. The mend says where to look, or what to do in case.
    pub(crate) fn unknown(name: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { status: Status::Unknown, ..Self::ok(name, text).mended(mend) }
    }

    fn mended(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()).filter(|mend| !mend.is_empty()), ..self }
    }
}

impl Report {
    /// Of these groups.
    pub(crate) fn of(groups: Vec<Group>) -> Self {
        let mut report = Self { ok: true, groups };
        report.ok = report.count(Status::Problem) == 0;
        report
    }

    /// How many checks came to this.
    pub(crate) fn count(&self, status: Status) -> usize {
        self.groups.iter().flat_map(|group| &group.checks).filter(|check| check.status == status).count()
    }

    /// For people: a line for each check under its group's.
    pub(crate) fn lines(&self, coloured: bool) -> Lines<'_> {
        Lines { report: self, coloured }
    }
}

/// A report that is shown to people.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    report: &'a Report,
    coloured: bool,
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Group { name, checks }) in self.report.groups.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            let (bold, plain) = if self.coloured { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
            write!(f, "{bold}{name}{plain}")?;
            let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
            for Check { name, status, text, mend } in checks {
                let colour = if self.coloured { status.colour() } else { "" };
                write!(f, "\n  {colour}{}{plain} {name:width$}  {text}", status.mark())?;
                if let Some(mend) = mend {
                    write!(f, "; {mend}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let machine = vec![
            Check::ok("space", "9 GiB are free"),
            Check::warning("clock", "it says 1970", "set it"),
            Check::unknown("memory", "no limit can be seen", ""),
        ];
        let backend = vec![Check::problem("reach", "nothing listens", "start it")];
        Report::of(vec![
            Group { name: "machine".into(), checks: machine },
            Group { name: "redis://h:6379/0".into(), checks: backend },
        ])
    }

    #[test]
    fn a_check_is_a_line_with_its_mend() {
        let shown = "machine\n  √ space   9 GiB are free\n  ! clock   it says 1970; set it\n  \
                     - memory  no limit can be seen\n\nredis://h:6379/0\n  × reach  nothing listens; start it";
        assert_eq!(report().lines(false).to_string(), shown);
        assert!(report().lines(true).to_string().contains("\u{1b}[1;31m×\u{1b}[0m reach"));
    }

    #[test]
    fn only_a_problem_is_not_in_order() {
        let mut report = report();
        assert!(!report.ok);
        assert_eq!(report.count(Status::Problem), 1);
        report.groups.pop();
        assert!(Report::of(report.groups).ok, "warnings and what cannot be known are none");
    }
}
