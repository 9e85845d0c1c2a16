//! Durable jobs end to end: handed in, synced, handled, marked done. Us and the peers, in turn.

use anyhow::Result;

use crate::{
    own::Own,
    peers::{self, Peer, Producers},
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::Samples,
};

/// How many jobs the first, unmeasured run takes, from which the others' size follows.
const WARM_UP: usize = 2_000;

/// Somebody who is measured, and what came of it.
pub(crate) struct Contender {
    system: Box<dyn Peer>,
    jobs: usize,
    per_second: Samples,
}

/// How much faster than the best peer beside us we are to be.
const TIMES_THE_BEST: f64 = 5.0;

/// Measures us and the peers.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let own = Box::new(Own::start(settings.directory("jobs")?, settings.concurrency)?);
    let mut contenders = vec![Contender::new(own)];
    if !settings.is_alone {
        contenders.extend(peers(settings, report)?);
    }
    for (producers, least) in [(Producers::Batching, 200_000.0), (Producers::Awaiting, 50_000.0)] {
        measure(&mut contenders, producers, settings)?;
        let (own, peers) = contenders.split_first().expect("we are the first");
        report.row(own.row(producers).target(Target::AtLeast(least)))?;
        for peer in peers {
            report.row(peer.row(producers))?;
        }
        let best =
            peers.iter().max_by(|one, other| one.per_second.median().total_cmp(&other.per_second.median()));
        if let Some(best) = best {
            let row = own.row(producers).against(best.system.name(), best.per_second.clone());
            report.row(row.target(Target::RatioAtLeast(TIMES_THE_BEST)).note("against the best peer"))?;
        }
    }
    Ok(())
}

/// Measures the peers alone.
pub(crate) fn run_peers(settings: &Settings, report: &mut Report) -> Result<()> {
    let mut contenders = peers(settings, report)?;
    for producers in [Producers::Batching, Producers::Awaiting] {
        measure(&mut contenders, producers, settings)?;
        for contender in &contenders {
            report.row(contender.row(producers))?;
        }
    }
    Ok(())
}

/// Every peer that is installed; says loudly which are not.
fn peers(settings: &Settings, report: &Report) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for found in peers::all(settings.data.path(), &settings.cache()?) {
        match found {
            Ok(system) => contenders.push(Contender::new(system)),
            Err((name, why)) => report.skipped(name, &why)?,
        }
    }
    Ok(contenders)
}

/// One slice of each in turn, so that what disturbs the machine disturbs all.
pub(crate) fn measure(contenders: &mut [Contender], producers: Producers, settings: &Settings) -> Result<()> {
    for contender in &mut *contenders {
        let warm_up = contender.system.run(producers, WARM_UP)?;
        let jobs = WARM_UP as f64 * settings.slice.as_secs_f64() / warm_up.as_secs_f64();
        // What was slow only because it was cold runs a little longer than asked.
        contender.jobs = (jobs as usize).max(WARM_UP);
        contender.per_second = Samples::default();
    }
    for _ in 0..settings.slices {
        for contender in &mut *contenders {
            let took = contender.system.run(producers, contender.jobs)?;
            contender.per_second.push(contender.jobs as f64 / took.as_secs_f64());
        }
    }
    Ok(())
}

impl Contender {
    pub(crate) fn new(system: Box<dyn Peer>) -> Self {
        Self { system, jobs: 0, per_second: Samples::default() }
    }

    /// What came of it beside what came of another one.
    pub(crate) fn beside(&self, peer: &Self, producers: Producers) -> Row {
        let row = self.row(producers).against(peer.system.name(), peer.per_second.clone());
        row.note(peer.system.durability())
    }

    pub(crate) fn row(&self, producers: Producers) -> Row {
        let how = match producers {
            Producers::Batching => "jobs, batches of 100",
            Producers::Awaiting => "jobs, 64 await each",
        };
        let what = format!("{how}: {}", self.system.name());
        Row::new(what, Unit::PerSecond, self.per_second.clone()).note(self.system.durability())
    }
}
