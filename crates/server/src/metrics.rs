//! Every metric: names, labels and where the numbers come from.
//!
//! The house counts in atomics of its own, histograms included, and this file writes them down when somebody asks, in
//! the text format of Prometheus 0.0.4. So nothing is looked up per message, and there is no second registry to keep
//! in step.

mod text;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;
use outboard::{Source, WorkerInfo, WorkerState};
use outboard_embedded::Stats;
use text::{Kind, Labels, Text};

use crate::api::{Api, RouteLabel};

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const WORKER: &str = "worker";
const ROUTE: &str = "route";
const STATUS: &str = "status";

/// Everything, as text.
pub(crate) async fn render(api: &Api) -> String {
    let mut text = Text::default();
    text.one(
        "outboard_start_seconds",
        Kind::Gauge,
        "From the start of the process to serving.",
        api.start.as_secs_f64(),
    );
    let tip = api.log.tip().borrow().0;
    text.one("outboard_log_tip", Kind::Gauge, "Position of the last durable message.", tip as f64);
    log(&mut text, &api.storage.stats());
    let infos: Vec<_> = api.workers.handles().iter().map(outboard::WorkerHandle::info).collect();
    workers(&mut text, &infos, tip);
    dead_letters(&mut text, api).await;
    api.http.write(&mut text);
    text.finish()
}

fn log(text: &mut Text, stats: &Stats) {
    use Kind::{Counter, Gauge};
    let rows: &[(&str, Kind, &str, u64)] = &[
        (
            "outboard_log_rows_read_at_open",
            Gauge,
            "Rows read to open the log; does not grow with it.",
            stats.rows_read_at_open,
        ),
        ("outboard_log_appended_messages_total", Counter, "Messages appended.", stats.appended_messages),
        (
            "outboard_log_appended_bytes_total",
            Counter,
            "Bytes of payloads and types appended.",
            stats.appended_bytes,
        ),
        (
            "outboard_log_refused_appends_total",
            Counter,
            "Appends refused: queue or disk full.",
            stats.refused_appends,
        ),
        (
            "outboard_log_repeated_appends_total",
            Counter,
            "Appends answered by their key.",
            stats.repeated_appends,
        ),
        ("outboard_log_commits_total", Counter, "Durable transactions, an fsync each.", stats.commits),
        ("outboard_log_units_applied_total", Counter, "Steps of progress committed.", stats.units_applied),
        (
            "outboard_log_units_conflicting_total",
            Counter,
            "Steps of progress whose guard failed.",
            stats.units_in_conflict,
        ),
        (
            "outboard_log_units_refused_total",
            Counter,
            "Steps of progress that can never be written.",
            stats.units_refused,
        ),
        (
            "outboard_log_units_fenced_total",
            Counter,
            "Steps of progress of an older holder.",
            stats.units_fenced,
        ),
        ("outboard_log_checkpoints_total", Counter, "Checkpoints of the write-ahead log.", stats.checkpoints),
        ("outboard_log_wal_bytes", Gauge, "Bytes in the write-ahead log.", stats.wal_bytes),
        ("outboard_log_queued_requests", Gauge, "Requests that wait for the writer.", stats.queued_requests),
        ("outboard_log_queued_messages", Gauge, "Messages that wait for the writer.", stats.queued_messages),
        ("outboard_log_tail_reads_total", Counter, "Pages read from memory.", stats.tail_reads),
        ("outboard_log_disk_reads_total", Counter, "Pages read from disk.", stats.disk_reads),
        (
            "outboard_log_disk_free_bytes",
            Gauge,
            "Bytes left on the disk when last looked at.",
            stats.disk_free_bytes,
        ),
        ("outboard_idempotency_keys", Gauge, "Idempotency keys kept.", stats.idempotency_keys),
    ];
    for (name, kind, help, value) in rows {
        text.one(name, *kind, help, *value as f64);
    }
    log_durations(text, stats);
}

fn log_durations(text: &mut Text, stats: &Stats) {
    for (name, help, durations) in [
        ("outboard_log_commit_seconds", "How long commits took, the fsync included.", &stats.commit),
        ("outboard_log_checkpoint_seconds", "How long checkpoints took.", &stats.checkpoint),
    ] {
        text.begin(name, Kind::Histogram, help);
        text.histogram(name, &Labels::none(), durations.buckets.iter().copied(), durations.sum);
    }
}

/// A worker's number.
type Number = fn(&WorkerInfo, u64) -> u64;

fn workers(text: &mut Text, infos: &[WorkerInfo], tip: u64) {
    use Kind::{Counter, Gauge};
    let rows: &[(&str, Kind, &str, Number)] = &[
        ("outboard_worker_handled_total", Counter, "Messages handled.", |info, _| info.counters.handled),
        ("outboard_worker_failed_total", Counter, "Attempts that failed, probes included.", |info, _| {
            info.counters.failed
        }),
        ("outboard_worker_retried_total", Counter, "Counted failures to be tried again.", |info, _| {
            info.counters.retried
        }),
        ("outboard_worker_dead_total", Counter, "Messages given up.", |info, _| info.counters.dead),
        ("outboard_worker_cancelled_total", Counter, "Messages given up on purpose.", |info, _| {
            info.counters.cancelled
        }),
        ("outboard_worker_snoozed_total", Counter, "Messages put off.", |info, _| info.counters.snoozed),
        ("outboard_worker_panicked_total", Counter, "Attempts that panicked.", |info, _| {
            info.counters.panicked
        }),
        ("outboard_worker_timed_out_total", Counter, "Attempts that took too long.", |info, _| {
            info.counters.timed_out
        }),
        ("outboard_worker_returned_total", Counter, "Messages given back uncounted.", |info, _| {
            info.counters.returned
        }),
        ("outboard_worker_outages_total", Counter, "Outages that began.", |info, _| info.counters.outages),
        ("outboard_worker_probes_total", Counter, "Probes made.", |info, _| info.counters.probes),
        ("outboard_worker_consuming", Gauge, "1 while its log or broker is there.", |info, _| {
            info.consumer.is_ready.into()
        }),
        ("outboard_worker_parked", Gauge, "Parked messages.", |info, _| info.consumer.parked),
        (
            "outboard_worker_clock_jumps_total",
            Counter,
            "Jumps of the wall clock that it saw: it was set, or the machine was suspended.",
            |info, _| info.consumer.clock_jumps,
        ),
        ("outboard_worker_in_flight", Gauge, "Messages claimed and not settled.", |info, _| {
            info.consumer.unsettled.into()
        }),
        ("outboard_worker_outage", Gauge, "1 while the target is sick.", |info, _| {
            matches!(info.state, WorkerState::Outage { .. }).into()
        }),
        ("outboard_worker_paused", Gauge, "1 while it is paused.", |info, _| {
            matches!(info.state, WorkerState::Paused { .. }).into()
        }),
    ];
    for (name, kind, help, number) in rows {
        text.begin(name, *kind, help);
        for info in infos {
            text.sample(name, &Labels::none().and(WORKER, &info.name), number(info, tip) as f64);
        }
    }
    text.begin("outboard_worker_lag_messages", Gauge, "Positions behind the log.");
    for info in infos.iter().filter(|info| info.source == LOG) {
        let lag = tip.saturating_sub(info.consumer.low.0);
        text.sample("outboard_worker_lag_messages", &Labels::none().and(WORKER, &info.name), lag as f64);
    }
    let name = "outboard_worker_last_progress_timestamp_seconds";
    text.begin(name, Gauge, "When it last took or settled something.");
    for info in infos {
        let seconds = info.consumer.last_progress.as_millis() as f64 / 1_000.0;
        text.sample(name, &Labels::none().and(WORKER, &info.name), seconds);
    }
}

/// The source of a worker that has a lag.
const LOG: &str = "log";

async fn dead_letters(text: &mut Text, api: &Api) {
    // A scrape that cannot read the ledger shows everything else.
    let Ok(rows) = api.ledger.workers().await else { return };
    let is_on_queue =
        |name: &str| api.workers.get(name).is_some_and(|handle| matches!(handle.source(), Source::Queue(_)));
    text.begin(
        "outboard_worker_dead",
        Kind::Gauge,
        "Dead letters kept here; a broker keeps those of its queues.",
    );
    for row in rows.iter().filter(|row| !is_on_queue(&row.name)) {
        text.sample("outboard_worker_dead", &Labels::none().and(WORKER, &row.name), row.dead as f64);
    }
}

/// The statuses that are counted each by itself; any other counts as `other`.
const STATUSES: [u16; 15] = [200, 202, 400, 403, 404, 405, 408, 409, 410, 413, 415, 422, 500, 501, 503];

/// Upper bounds of the request histogram, in microseconds.
const REQUEST_MICROS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// What requests were answered, and how fast.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    routes: Box<[RouteMetrics]>,
}

#[derive(Debug, Default)]
struct RouteMetrics {
    statuses: [AtomicU64; STATUSES.len() + 1],
    buckets: [AtomicU64; REQUEST_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self { routes: RouteLabel::ALL.iter().map(|_| RouteMetrics::default()).collect() }
    }
}

impl HttpMetrics {
    /// Counts one answered request.
    pub(crate) fn observe(&self, route: RouteLabel, status: StatusCode, elapsed: Duration) {
        let route = &self.routes[route as usize];
        let known = STATUSES.binary_search(&status.as_u16());
        route.statuses[known.unwrap_or(STATUSES.len())].fetch_add(1, Relaxed);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        route.buckets[REQUEST_MICROS.partition_point(|&bound| bound < micros)].fetch_add(1, Relaxed);
        route.sum_micros.fetch_add(micros, Relaxed);
    }

    fn write(&self, text: &mut Text) {
        let routes = || RouteLabel::ALL.iter().zip(&self.routes);
        let name = "outboard_http_requests_total";
        text.begin(name, Kind::Counter, "Requests answered.");
        for (label, route) in routes() {
            for (slot, count) in route.statuses.iter().enumerate() {
                let count = count.load(Relaxed);
                let status = STATUSES.get(slot).map_or_else(|| "other".to_owned(), u16::to_string);
                if count > 0 {
                    text.sample(
                        name,
                        &Labels::none().and(ROUTE, label.text()).and(STATUS, &status),
                        count as f64,
                    );
                }
            }
        }
        let name = "outboard_http_request_seconds";
        text.begin(name, Kind::Histogram, "From a request's head to its answer.");
        for (label, route) in routes() {
            let bounds =
                REQUEST_MICROS.iter().chain([&u64::MAX]).map(|&micros| Duration::from_micros(micros));
            let buckets: Vec<_> = bounds.zip(route.buckets.iter().map(|count| count.load(Relaxed))).collect();
            if buckets.iter().any(|(_, count)| *count > 0) {
                let sum = Duration::from_micros(route.sum_micros.load(Relaxed));
                text.histogram(name, &Labels::none().and(ROUTE, label.text()), buckets.into_iter(), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status_and_time() {
        assert!(STATUSES.is_sorted() && REQUEST_MICROS.is_sorted());
        let metrics = HttpMetrics::default();
        metrics.observe(RouteLabel::Commands, StatusCode::ACCEPTED, Duration::from_micros(100));
        metrics.observe(RouteLabel::Commands, StatusCode::ACCEPTED, Duration::from_secs(60));
        metrics.observe(RouteLabel::Other, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        let mut text = Text::default();
        metrics.write(&mut text);
        let text = text.finish();
        for line in [
            r#"outboard_http_requests_total{route="/commands",status="202"} 2"#,
            r#"outboard_http_requests_total{route="other",status="other"} 1"#,
            r#"outboard_http_request_seconds_bucket{route="/commands",le="0.0001"} 1"#,
            r#"outboard_http_request_seconds_bucket{route="/commands",le="30"} 1"#,
            r#"outboard_http_request_seconds_bucket{route="/commands",le="+Inf"} 2"#,
            r#"outboard_http_request_seconds_count{route="/commands"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
