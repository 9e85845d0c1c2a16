//! The names of keys: Sidekiq's own, and ours beside them.

/// The names of all queues.
pub(super) const QUEUES: &str = "queues";

/// Failed jobs that wait for their next attempt.
pub(super) const RETRY: &str = "retry";

/// Jobs that wait for their time.
pub(super) const SCHEDULE: &str = "schedule";

/// Jobs that were given up.
pub(super) const DEAD: &str = "dead";

/// The list of a queue: pushed at the left, consumed from the right.
pub(super) fn queue(name: &str) -> String {
    format!("queue:{name}")
}

/// Who has jobs of a queue in hand.
pub(super) fn holders(queue: &str) -> String {
    format!("outboard:holders:{queue}")
}

/// Jobs in the hand of one holder, by number.
pub(super) fn claims(queue: &str, holder: &str) -> String {
    format!("outboard:claims:{queue}:{holder}")
}

/// What came while a holder waited for it.
pub(super) fn arrivals(queue: &str, holder: &str) -> String {
    format!("outboard:arrivals:{queue}:{holder}")
}

/// There while a holder lives; `gone` when it has let go of what it has.
pub(super) fn alive(queue: &str, holder: &str) -> String {
    format!("outboard:alive:{queue}:{holder}")
}
