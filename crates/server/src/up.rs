//! One life of the server: open, start, serve, drain, close.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use outboard::{Source, Workers, WorkersOptions};
use outboard_core::{Health, Kind, Log, TypeSet, lifecycle::Shutdown};
use outboard_embedded::Embedded;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address,
    api::{Api, BodyLimit, CommandRules, MetricsOnly, OriginRule, Phase, RequestLimits},
    config::{Config, ConfigError, Limits},
    echo, forward,
    metrics::HttpMetrics,
    output::{self, Exit, Output},
    serve::{self, Bound, ServeLimits},
    storage,
};

/// The exit code after a second signal: 128 and the number of SIGINT, whichever signal it was.
const SECOND_SIGNAL: i32 = 130;

/// How long requests that are under way may take once the listener is closed. A client that is slower has got no
/// answer, and asks again.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Runs until a signal or a failure of the log. `started` is when the process was.
pub(crate) async fn run(config: Config, started: Instant, output: Output) -> Result<(), Exit> {
    let signals = Signals::listen()?;
    let connections = open_files(&config.limits);
    check_ca_files(&config).await?;
    // A port that is taken leaves no new directory behind; a directory that another server holds is told before its
    // ports are.
    let early = if config.data_dir.exists() { None } else { Some(Ports::bind(&config).await?) };
    let storage = storage::open(&config.data_dir).await.map_err(Exit::failure)?;
    let result = serve(&config, (started, output), &storage, (early, connections), signals).await;
    storage.close().await;
    result
}

async fn serve(
    config: &Config,
    (started, output): (Instant, Output),
    storage: &Embedded,
    (early, connections): (Option<Ports>, usize),
    mut signals: Signals,
) -> Result<(), Exit> {
    let ports = match early {
        Some(ports) => ports,
        None => Ports::bind(config).await?,
    };
    let workers = start_workers(config, storage).await?;
    let phase = Arc::new(Phase::default());
    let (listening, metrics_url) =
        (ports.api.address(), ports.metrics.as_ref().map(|port| url(port.address())));
    let origins = OriginRule::of(listening);
    let api = Arc::new(api(config, (started, origins), storage, workers.clone(), phase.clone()));
    let servers = Servers::start(ports, api, connections, config.limits.read_timeout.0);
    let published = address::publish(&config.data_dir, &url(listening)).map_err(Exit::failure)?;
    announce(&url(listening), metrics_url.as_deref(), &config.data_dir, (started, output));

    let mut health = storage.health();
    let failed = health.wait_for(|health| matches!(health, Health::Failed(_)));
    let result = tokio::select! {
        biased;
        failure = failed => Err(failure.map(|health| failure_text(&health)).unwrap_or_default()),
        () = signals.first() => Ok(()),
    };
    // Whatever comes next, a second signal ends it at once.
    let second = tokio::spawn(exit_at_second_signal(signals));
    phase.begin_draining();
    let ended = match result {
        Ok(()) => drain(config.drain.0, &workers, servers).await,
        Err(failure) => {
            servers.stop(LAST_REQUESTS).await;
            Err(Exit::failure(failure))
        }
    };
    second.abort();
    published.withdraw();
    ended
}

/// Everything after the first signal but closing the log.
async fn drain(time: Duration, workers: &Workers, servers: Servers) -> Result<(), Exit> {
    let shutdown = Shutdown::new(time);
    shutdown.begin();
    tracing::info!(seconds = time.as_secs_f64(), "shutting down: draining");
    let mut returned = 0;
    for (worker, drained) in workers.drain(shutdown.deadline()).await {
        match drained {
            Ok(drained) => returned += drained.returned,
            Err(error) => tracing::warn!(%worker, %error, "the worker did not drain"),
        }
    }
    servers.stop(LAST_REQUESTS).await;
    tracing::info!(returned, "stopped");
    Ok(())
}

/// Whether the CA files are there that the brokers' URLs name: another machine may have checked the configuration.
async fn check_ca_files(config: &Config) -> Result<(), ConfigError> {
    for (index, worker) in config.workers.iter().enumerate() {
        let Some(source) = &worker.source else { continue };
        if let Err(error) = outboard_backends::check_ca_file(source.expose()).await {
            let mend = "name a file with certificates in PEM that this user can read";
            return Err(ConfigError::new(format!("workers[{index}].source"), &*error.message, mend));
        }
    }
    Ok(())
}

async fn start_workers(config: &Config, storage: &Embedded) -> Result<Arc<Workers>, Exit> {
    let workers =
        Workers::new(Arc::new(storage.clone()), Arc::new(storage.clone()), WorkersOptions::default());
    let specs = match config.workers.as_slice() {
        [] => vec![echo::worker()],
        configs => forward::workers(configs).map_err(Exit::failure)?,
    };
    for spec in specs {
        let name = spec.name.clone();
        workers.start(spec).await.map_err(|error| match error.kind {
            Kind::Invalid | Kind::Unsupported => Exit::usage(format_args!("worker `{name}`: {error}")),
            _ => Exit::failure(error),
        })?;
    }
    Ok(Arc::new(workers))
}

fn api(
    config: &Config,
    (started, origins): (Instant, OriginRule),
    storage: &Embedded,
    workers: Arc<Workers>,
    phase: Arc<Phase>,
) -> Api {
    // A command goes into the log: who takes messages from elsewhere will not see it. What Outboard puts there itself,
    // nobody else may.
    let handles = workers.handles();
    let of_log = handles.iter().filter(|handle| matches!(handle.source(), Source::Log));
    let patterns = of_log.flat_map(|handle| handle.types().patterns().to_vec());
    let types: TypeSet = patterns.filter(|pattern| !pattern.is_internal()).collect();
    let limits = &config.limits;
    Api {
        log: Arc::new(storage.clone()),
        ledger: Arc::new(storage.clone()),
        storage: Arc::new(storage.clone()),
        workers,
        rules: CommandRules {
            types,
            nesting: limits.nesting as usize,
            batch_commands: limits.batch_commands as usize,
        },
        limits: RequestLimits {
            body: BodyLimit { bytes: limits.body.0, mend: "send less, or raise `limits.body`" },
            batch: BodyLimit { bytes: limits.batch.0, mend: "send several batches, or raise `limits.batch`" },
            read: limits.read_timeout.0,
        },
        origins,
        keep: config.idempotency.keep.0,
        phase,
        http: HttpMetrics::default(),
        start: started.elapsed(),
    }
}

/// The listeners that are bound and not served yet.
struct Ports {
    api: Bound,
    metrics: Option<Bound>,
}

impl Ports {
    async fn bind(config: &Config) -> Result<Self, Exit> {
        let api = serve::bind(config.api_address(), "api.port").await.map_err(Exit::failure)?;
        let metrics = match config.metrics_address() {
            Some(address) => Some(serve::bind(address, "metrics.port").await.map_err(Exit::failure)?),
            None => None,
        };
        Ok(Self { api, metrics })
    }
}

/// The listeners that are being served.
struct Servers {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Servers {
    fn start(ports: Ports, api: Arc<Api>, connections: usize, head: Duration) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Some(port) = ports.metrics {
            let limits = ServeLimits { connections: 64, head };
            let metrics = MetricsOnly { api: api.clone(), origins: OriginRule::of(port.address()) };
            tasks.spawn(port.serve(Arc::new(metrics), limits, stop.clone()));
        }
        tasks.spawn(ports.api.serve(api, ServeLimits { connections, head }, stop.clone()));
        tasks.close();
        Self { stop, tasks }
    }

    /// Closes the listeners, and lets requests that are under way end within `grace`.
    async fn stop(self, grace: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("some clients did not take their answers in time");
        }
    }
}

fn failure_text(health: &Health) -> String {
    match health {
        Health::Failed(error) => format!("the log failed for good: {error}"),
        _ => "the log failed".to_owned(),
    }
}

/// Where clients on this machine reach a listener.
fn url(address: SocketAddr) -> String {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(host, address.port()))
}

fn announce(url: &str, metrics: Option<&str>, directory: &Path, (started, output): (Instant, Output)) {
    // A number of 128 bits would be logged as a text.
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if output::is_watched() && !output.json {
        output::notice(format_args!(
            "Outboard listens on {url}, data in {} (ready in {millis} ms)",
            directory.display()
        ));
    } else {
        tracing::info!(url, metrics, directory = %directory.display(), start_ms = millis, "listening");
    }
}

/// Makes room for connections and says how many may be open: files and outgoing connections need some, too.
fn open_files(limits: &Limits) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = limits.connections as usize;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // A soft limit that cannot be raised leaves the old one.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let most = connections_within(files);
    if wanted > most {
        tracing::debug!(wanted, most, files, "fewer connections than configured, by the limit of open files");
    }
    wanted.min(most)
}

/// How many connections may be open when so many files may be.
pub(crate) const fn connections_within(files: usize) -> usize {
    files - files / 4
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Exit> {
        let listen =
            |kind| signal(kind).map_err(|error| Exit::failure(format_args!("cannot catch signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn exit_at_second_signal(mut signals: Signals) {
    signals.first().await;
    output::notice("stopped by a second signal; what was under way is delivered again at the next start");
    std::process::exit(SECOND_SIGNAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everybody_is_reached_at_home() {
        assert_eq!(url("0.0.0.0:8085".parse().unwrap()), "http://127.0.0.1:8085");
        assert_eq!(url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(url("192.0.2.1:80".parse().unwrap()), "http://192.0.2.1:80");
    }
}
