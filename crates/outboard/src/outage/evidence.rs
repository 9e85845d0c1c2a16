//! Whether an outage was one, or a few bad messages that nothing good ran beside.

/// What a message that is tried as a probe did before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Past {
    /// It never failed.
    Clean,
    /// It failed in this outage, or among the failures that opened it.
    FailedHere,
    /// It failed some other time; or there is no message, since the target is asked.
    #[default]
    Other,
}

/// What speaks for the target having been sick, and not the messages bad.
///
/// Bad messages fail also while the target is well, so the failures that open an outage may be theirs. It takes more: so
/// many others that never failed before did so as probes; or one that failed in the outage was done in the end; or the
/// target was asked and said so. Its silence is no such word: it may be slow, or busy with a bad message.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Of the probe that is under way, or was the last.
    probed: Past,
    /// How many messages failed for the first time as probes.
    clean_failed: u32,
    /// A message that had failed was taken in the end.
    was_taken: bool,
    /// The target said that it is sick.
    said_so: bool,
}

impl Evidence {
    pub(super) fn probe_begins(&mut self, past: Past) {
        self.probed = past;
    }

    pub(super) fn probe_failed(&mut self) {
        self.clean_failed += u32::from(self.probed == Past::Clean);
    }

    /// The target took the message: its failures were not its own.
    pub(super) fn probe_succeeded(&mut self) {
        self.was_taken |= self.probed == Past::FailedHere;
    }

    pub(super) fn target_said_so(&mut self) {
        self.said_so = true;
    }

    /// Whether the messages are free of blame; `distinct` of them are as many as could be bad by chance.
    pub(super) fn clears_messages(&self, distinct: u32) -> bool {
        self.was_taken || self.said_so || self.clean_failed >= distinct.max(1)
    }
}
