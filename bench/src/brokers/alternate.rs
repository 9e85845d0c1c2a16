//! Slices of several contenders on one broker, in turn.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::Samples,
};

/// How many messages the first, unmeasured slice of each has, from which the others' number follows.
const WARM_UP: usize = 2_000;

/// Somebody who does one slice of the work.
pub(crate) trait Contender {
    /// Name and version, and how it works.
    fn name(&self) -> &str;

    /// Does it for so many messages on a queue of this name; how long it took, by its own clock.
    fn run(&mut self, queue: &str, messages: usize) -> Result<Duration>;
}

/// What is done before and after each slice, outside of the measured time.
pub(crate) trait Ground {
    /// Makes a new queue for a slice, filled with so many messages if it is to be consumed; its name.
    fn prepare(&mut self, messages: usize) -> Result<String>;

    /// Fails unless the slice did all of its work.
    fn inspect(&mut self, queue: &str, messages: usize) -> Result<()>;
}

/// We are the first of these; each of the others is a peer with what our ratio to it should be.
pub(crate) struct Contest {
    /// What they do, in a few words.
    pub(crate) what: String,
    /// What must be known to read the figures.
    pub(crate) note: String,
    /// We.
    pub(crate) own: Box<dyn Contender>,
    /// Everybody else.
    pub(crate) peers: Vec<(Box<dyn Contender>, Target)>,
}

impl Contest {
    /// One slice of each in turn, all of them with the same messages; a row for each peer.
    pub(crate) fn run(
        mut self,
        ground: &mut dyn Ground,
        settings: &Settings,
        report: &mut Report,
    ) -> Result<()> {
        let mut contenders: Vec<&mut Box<dyn Contender>> = vec![&mut self.own];
        contenders.extend(self.peers.iter_mut().map(|(peer, _)| peer));
        let mut figures = vec![Samples::default(); contenders.len()];
        let mut messages = 0;
        for (index, contender) in contenders.iter_mut().enumerate() {
            let per_second = slice(ground, &mut ***contender, WARM_UP)?;
            if index == 0 {
                messages = ((per_second * settings.slice.as_secs_f64()) as usize).max(WARM_UP);
            }
        }
        for _ in 0..settings.slices {
            for (contender, figure) in contenders.iter_mut().zip(&mut figures) {
                figure.push(slice(ground, &mut ***contender, messages)?);
            }
        }
        let (own, peers) = figures.split_first().context("we are the first")?;
        let what = format!("{}: {}", self.what, self.own.name());
        if peers.is_empty() {
            report.row(Row::new(&what, Unit::PerSecond, own.clone()).note(&self.note))?;
        }
        for ((peer, target), figure) in self.peers.iter().zip(peers) {
            let row = Row::new(&what, Unit::PerSecond, own.clone()).against(peer.name(), figure.clone());
            report.row(row.target(*target).note(&self.note))?;
        }
        Ok(())
    }
}

/// One slice of one; messages per second.
fn slice(ground: &mut dyn Ground, contender: &mut dyn Contender, messages: usize) -> Result<f64> {
    let queue = ground.prepare(messages)?;
    let took = contender.run(&queue, messages).with_context(|| contender.name().to_owned())?;
    ground.inspect(&queue, messages).with_context(|| contender.name().to_owned())?;
    Ok(messages as f64 / took.as_secs_f64())
}
