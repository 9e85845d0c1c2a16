//! What one seed stands for.

use std::time::Duration;

use outboard::core::fault::Point;

/// How a message's handler behaves, by the message's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Conduct {
    /// Done at once.
    Fine,
    /// Done after a while.
    Slow,
    /// Fails twice, then is done.
    Flaky,
    /// Panics once, then is done.
    Panics,
    /// Hangs once, then is done.
    Hangs,
    /// Cannot be handled.
    Hopeless,
    /// Fails every time until its attempts are used up.
    Stubborn,
    /// Asks for a later time once.
    Snoozes,
    /// Adds to a durable key under a guard and appends a message.
    Counts,
}

impl Conduct {
    pub(crate) const ALL: [Self; 9] = [
        Self::Fine,
        Self::Slow,
        Self::Flaky,
        Self::Panics,
        Self::Hangs,
        Self::Hopeless,
        Self::Stubborn,
        Self::Snoozes,
        Self::Counts,
    ];

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Fine => "sim/fine",
            Self::Slow => "sim/slow",
            Self::Flaky => "sim/flaky",
            Self::Panics => "sim/panics",
            Self::Hangs => "sim/hangs",
            Self::Hopeless => "sim/hopeless",
            Self::Stubborn => "sim/stubborn",
            Self::Snoozes => "sim/snoozes",
            Self::Counts => "sim/counts",
        }
    }

    pub(crate) fn of(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|conduct| conduct.kind() == kind)
    }

    /// Whether it ends as a dead letter.
    pub(crate) fn dies(self) -> bool {
        matches!(self, Self::Hopeless | Self::Stubborn)
    }
}

/// How one life of the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At a named point.
    CrashAt(Point, u64),
    /// At some time.
    CrashAfter(Duration),
    /// Drained, with a deadline.
    Drain(Duration, Duration),
}

/// Everything that happens under one seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// What the client appends, in batches, with the delay of each message.
    pub(crate) batches: Vec<Vec<(Conduct, Option<Duration>)>>,
    /// One for each life of the process but the last, which runs to the end.
    pub(crate) endings: Vec<Ending>,
    pub(crate) concurrency: u32,
    /// From when, and for how long, the target is sick.
    pub(crate) sick: Vec<(Duration, Duration)>,
    /// At most so many refusals of one message are counted as attempts.
    pub(crate) refusals: u32,
}

/// Counted attempts before a message is given up.
pub(crate) const ATTEMPTS: u32 = 12;
/// The handlers' timeout.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest wait between two counted attempts (half of the first backoff).
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(100);

impl Plan {
    /// How long the target of [`Plan::outage`] is sick.
    pub(crate) const SICK: Duration = Duration::from_secs(600);

    pub(crate) fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let batches = (0..random.usize(8..30))
            .map(|_| {
                (0..random.usize(1..6))
                    .map(|_| (some_conduct(&mut random), some_delay(&mut random)))
                    .collect()
            })
            .collect();
        let endings: Vec<_> = (0..random.usize(1..5)).map(|_| some_ending(&mut random)).collect();
        let start = Duration::from_millis(random.u64(0..4_000));
        let length = Duration::from_millis(random.u64(1_000..90_000));
        let sick: Vec<_> = random.bool().then_some((start, length)).into_iter().collect();
        // Nine refusals do not open an outage; the outage of each life charges one as a probe.
        let refusals = if sick.is_empty() { 0 } else { 10 + endings.len() as u32 };
        Self { seed, batches, endings, concurrency: random.u32(1..9), sick, refusals }
    }

    /// A target that is sick for ten minutes while good messages wait.
    pub(crate) fn outage() -> Self {
        let batches = vec![vec![(Conduct::Fine, None); 20]; 4];
        let sick = vec![(Duration::ZERO, Self::SICK)];
        // Whatever failed as a probe is charged one attempt, and nothing else is.
        Self { seed: 7, batches, endings: Vec::new(), concurrency: 8, sick, refusals: 1 }
    }

    /// A target that comes back for moments only, eight times.
    pub(crate) fn flapping() -> Self {
        let sick =
            (0..8).map(|round| (Duration::from_millis(round * 21_500), Duration::from_secs(20))).collect();
        let batches = vec![vec![(Conduct::Slow, None); 20]];
        // Each outage may charge a message once, for its failure as a probe.
        Self { seed: 8, batches, endings: Vec::new(), concurrency: 2, sick, refusals: 8 }
    }

    /// A plan with a crash at this point, in a life that begins with suspects.
    pub(crate) fn crashing_at(point: Point, nth: u64) -> Self {
        let seed = 1_000 + point as u64 * 100 + nth;
        let first = Ending::CrashAfter(Duration::from_millis(700));
        Self {
            endings: vec![first, Ending::CrashAt(point, nth)],
            sick: Vec::new(),
            refusals: 0,
            ..Self::of(seed)
        }
    }
}

fn some_conduct(random: &mut fastrand::Rng) -> Conduct {
    if random.u8(0..10) < 4 {
        return if random.bool() { Conduct::Fine } else { Conduct::Counts };
    }
    Conduct::ALL[random.usize(0..Conduct::ALL.len())]
}

fn some_delay(random: &mut fastrand::Rng) -> Option<Duration> {
    (random.u8(0..8) == 0).then(|| Duration::from_millis(random.u64(0..20_000)))
}

fn some_ending(random: &mut fastrand::Rng) -> Ending {
    match random.u8(0..10) {
        0..6 => Ending::CrashAt(Point::ALL[random.usize(0..Point::ALL.len())], random.u64(1..25)),
        6..8 => Ending::CrashAfter(Duration::from_millis(random.u64(1..15_000))),
        _ => {
            let after = Duration::from_millis(random.u64(1..5_000));
            Ending::Drain(after, Duration::from_millis(random.u64(0..1_000)))
        }
    }
}
