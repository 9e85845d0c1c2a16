//! The released program to a fast receiver in another process.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    order::{KIND, Order},
    receiver::Receiver,
    report::{Report, Row, Target, Unit},
    server::{Server, command},
    settings::Settings,
    statistics::Samples,
};

/// How many commands one batch has.
const BATCH: usize = 2_000;

/// How many messages the first, unmeasured run has.
const WARM_UP: usize = 2_000;

/// How often the receiver is asked for its count.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub(crate) fn run(settings: &mut Settings, report: &mut Report) -> Result<()> {
    let mut receiver = Receiver::start()?;
    let url = receiver.url();
    let server = Server::start(&settings.outboard()?, &settings.directory("forward")?, Some(&url))?;
    let warm_up = forward(&server, &mut receiver, WARM_UP)?;
    let messages = (warm_up * settings.slice.as_secs_f64()) as usize / BATCH * BATCH + BATCH;
    let mut per_second = Samples::default();
    for _ in 0..settings.slices {
        per_second.push(forward(&server, &mut receiver, messages)?);
    }
    let row = Row::new("forward to a fast receiver", Unit::PerSecond, per_second)
        .target(Target::AtLeast(10_000.0))
        .note("accepted in batches of 2,000, POSTed one by one, answered 200; client, server and receiver share the cores");
    Ok(report.row(row)?)
}

/// Hands in so many messages; messages a second from the first hand-in to the last answer of the receiver.
fn forward(server: &Server, receiver: &mut Receiver, messages: usize) -> Result<f64> {
    let before = receiver.count()?;
    let bodies: Vec<String> = (0..BATCH as u64).map(|id| command(KIND, &Order::new(id).json())).collect();
    let body = format!("[{}]", bodies.join(","));
    let began = Instant::now();
    let mut client = server.client()?;
    for _ in 0..messages / BATCH {
        let answer = client.post("/commands/batch", body.as_bytes())?;
        let text = || String::from_utf8_lossy(answer.body).into_owned();
        ensure!(answer.status == 202, "the answer was {}: {}", answer.status, text());
    }
    let wanted = before + messages as u64;
    while receiver.count()? < wanted {
        thread::sleep(LOOK_AGAIN);
    }
    let rate = messages as f64 / began.elapsed().as_secs_f64();
    ensure!(receiver.count()? == wanted, "the receiver got more than was sent");
    Ok(rate)
}
