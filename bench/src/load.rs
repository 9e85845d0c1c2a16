//! HTTP load from many connections, as fast as answers come or at a fixed rate.

use std::{
    net::SocketAddr,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::http::Client;

/// What to send to whom.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Whole requests; each connection takes them in turn.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) connections: usize,
    /// The status that every answer must have.
    pub(crate) status: u16,
    pub(crate) duration: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) per_second: f64,
    /// From the intended time of each request to its answer, in microseconds.
    pub(crate) latencies: Vec<u64>,
}

impl Load {
    /// Each connection sends the next request when it has the answer to the last.
    pub(crate) fn as_fast_as_possible(&self) -> Result<Loaded> {
        self.run(None)
    }

    /// So many requests a second over all connections, each at its own time. A late answer delays the connection's
    /// next requests, and they are timed from when they should have been sent: waiting is never left out.
    pub(crate) fn at_rate(&self, per_second: f64) -> Result<Loaded> {
        self.run(Some(Duration::from_secs_f64(1.0 / per_second)))
    }

    fn run(&self, interval: Option<Duration>) -> Result<Loaded> {
        let ready = Barrier::new(self.connections + 1);
        thread::scope(|scope| {
            let connect = |_| Client::open(self.address);
            let clients: Vec<Client> = (0..self.connections).map(connect).collect::<Result<_>>()?;
            let start = |(index, client)| {
                let ready = &ready;
                scope.spawn(move || self.connection(client, index, interval, ready))
            };
            let threads: Vec<_> = clients.into_iter().enumerate().map(start).collect();
            ready.wait();
            let began = Instant::now();
            let mut loaded = Loaded::default();
            for thread in threads {
                loaded.latencies.extend(thread.join().expect("a connection's thread does not panic")?);
            }
            loaded.per_second = loaded.latencies.len() as f64 / began.elapsed().as_secs_f64();
            Ok(loaded)
        })
    }

    fn connection(
        &self,
        mut client: Client,
        index: usize,
        interval: Option<Duration>,
        ready: &Barrier,
    ) -> Result<Vec<u64>> {
        let mut latencies = Vec::new();
        ready.wait();
        let began = Instant::now();
        for number in 0_usize.. {
            let position = number * self.connections + index;
            let intended = match interval {
                None => Instant::now(),
                Some(interval) => began + interval.mul_f64(position as f64),
            };
            if intended.duration_since(began) >= self.duration {
                break;
            }
            thread::sleep(intended.saturating_duration_since(Instant::now()));
            let answer = client.send(&self.requests[position % self.requests.len()])?;
            let text = || String::from_utf8_lossy(answer.body).into_owned();
            ensure!(answer.status == self.status, "the answer was {}: {}", answer.status, text());
            latencies.push(intended.elapsed().as_micros() as u64);
        }
        Ok(latencies)
    }
}
