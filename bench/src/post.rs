//! `POST /commands` to the released program, from 32 keep-alive connections.

use anyhow::Result;

use crate::{
    http::request,
    load::Load,
    order::Order,
    report::{Report, Row, Target, Unit},
    server::{ECHO, Server, command},
    settings::Settings,
    statistics::{Samples, percentile},
};

/// How many connections there are.
const CONNECTIONS: usize = 32;

/// How many it must take a second.
const RATE: f64 = 20_000.0;

pub(crate) fn run(settings: &mut Settings, report: &mut Report) -> Result<()> {
    let server = Server::start(&settings.outboard()?, &settings.directory("post")?, None)?;
    let body = |id| command(ECHO, &Order::new(id).json());
    let load = Load {
        address: server.address,
        requests: (0..256).map(|id| request("POST", "/commands", body(id).as_bytes())).collect(),
        connections: CONNECTIONS,
        status: 202,
        duration: settings.slice,
    };
    // Warms up.
    load.as_fast_as_possible()?;
    let mut per_second = Samples::default();
    for _ in 0..settings.slices {
        per_second.push(load.as_fast_as_possible()?.per_second);
    }
    let half = per_second.median() / 2.0;
    let row = Row::new("POST /commands, 32 connections", Unit::PerSecond, per_second)
        .target(Target::AtLeast(RATE))
        .note(
            "202 after the fsync; the echo worker handles them meanwhile; client and server share the cores",
        );
    report.row(row)?;
    // Half of what it must do, and half of what it can do.
    for rate in [RATE / 2.0, half] {
        let (mut middle, mut late) = (Samples::default(), Samples::default());
        for _ in 0..settings.slices {
            let mut latencies = load.at_rate(rate)?.latencies;
            middle.push(percentile(&mut latencies, 0.5) as f64 / 1e3);
            late.push(percentile(&mut latencies, 0.99) as f64 / 1e3);
        }
        report.row(Row::new(format!("POST /commands at {rate:.0}/s, p50"), Unit::Milliseconds, middle))?;
        let row = Row::new(format!("POST /commands at {rate:.0}/s, p99"), Unit::Milliseconds, late)
            .target(Target::AtMost(5.0))
            .note("open loop, timed from when each request should have been sent");
        report.row(row)?;
    }
    Ok(())
}
