//! The host app of another language: HTTP over memory, sick and well as it is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use outboard_http::{
    ClientError,
    client::{Connecting, Stream, Transport},
    target::Origin,
};
use tokio::{task::JoinSet, time::Instant};

use crate::handler::pass;

/// What one message costs the app.
pub(super) const WORK: Duration = Duration::from_millis(20);
/// A refusal and a 503 take as long, most of the time between two probes, so that two at once would meet.
const TURNED_AWAY: Duration = Duration::from_millis(600);
/// What fits between the two ends of a connection.
const WIRE_BYTES: usize = 64 << 10;

/// How the app is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It answers 200 after so long.
    Well(Duration),
    /// Nobody listens, and the connections that there were are closed.
    Refusing,
    /// It takes connections and requests, and never answers; not even when it is well again.
    Hanging,
    /// It answers 503.
    Unavailable,
}

/// A request, or a connection that was refused.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) began: Instant,
    /// The message and its attempt; a refused connection does not say.
    pub(super) message: Option<(u64, u64)>,
    /// When it was answered with 200.
    pub(super) done: Option<Instant>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    visits: Vec<Visit>,
    open: usize,
    most_open: usize,
    connections: JoinSet<()>,
}

/// The app, and the network to it.
#[derive(Debug, Clone)]
pub(super) struct HostApp(Arc<Mutex<State>>);

impl HostApp {
    pub(super) fn new() -> Self {
        let state = State {
            mood: Mood::Well(WORK),
            visits: Vec::new(),
            open: 0,
            most_open: 0,
            connections: JoinSet::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }

    pub(super) fn feel(&self, mood: Mood) {
        let mut state = self.state();
        state.mood = mood;
        if mood == Mood::Refusing {
            state.connections.abort_all();
        }
    }

    /// Somebody kills it, and it listens again at once, as well as it can be.
    pub(super) fn restart(&self, work: Duration) {
        self.feel(Mood::Refusing);
        self.feel(Mood::Well(work));
    }

    /// How many visits are under way.
    pub(super) fn open(&self) -> usize {
        self.state().open
    }

    /// The most that were under way at once since it was asked the last time.
    pub(super) fn take_most_open(&self) -> usize {
        let mut state = self.state();
        let open = state.open;
        std::mem::replace(&mut state.most_open, open)
    }

    pub(super) fn visits(&self) -> Vec<Visit> {
        self.state().visits.clone()
    }

    /// How many visits there were.
    pub(super) fn visited(&self) -> usize {
        self.state().visits.len()
    }

    pub(super) fn done(&self) -> usize {
        self.state().visits.iter().filter(|visit| visit.done.is_some()).count()
    }

    /// For each message that was done the attempts at which it was.
    pub(super) fn successes(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut successes: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for visit in self.state().visits.iter().filter(|visit| visit.done.is_some()) {
            let (message, attempt) = visit.message.expect("only requests are answered");
            successes.entry(message).or_default().push(attempt);
        }
        successes
    }

    /// Notes a visit, which is under way until the guard is dropped.
    fn begin(&self, message: Option<(u64, u64)>) -> (usize, Mood, UnderWay) {
        let mut state = self.state();
        state.visits.push(Visit { began: Instant::now(), message, done: None });
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
        (state.visits.len() - 1, state.mood, UnderWay(self.clone()))
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let body = request.into_body().collect().await?.to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("the envelope is JSON");
        let number = |field: &str| body[field].as_u64().expect("the envelope has it");
        let (visit, mood, _under_way) = self.begin(Some((number("id"), number("attempt"))));
        let status = match mood {
            Mood::Well(work) => {
                pass(work).await;
                self.state().visits[visit].done = Some(Instant::now());
                StatusCode::OK
            }
            Mood::Hanging | Mood::Refusing => std::future::pending().await,
            Mood::Unavailable => {
                pass(TURNED_AWAY).await;
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Ok(response)
    }

    async fn dial(self, origin: Origin) -> Result<Stream, ClientError> {
        if self.state().mood == Mood::Refusing {
            let (_, _, _under_way) = self.begin(None);
            pass(TURNED_AWAY).await;
            return Err(ClientError::Refused { origin: origin.to_string() });
        }
        let (ours, theirs) = tokio::io::duplex(WIRE_BYTES);
        let app = self.clone();
        let service = service_fn(move |request| app.clone().serve(request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(ours), service);
        self.state().connections.spawn(async move {
            // It ends when either side closes it, in whatever state.
            let _: Result<(), hyper::Error> = connection.await;
        });
        Ok(Stream::new(theirs))
    }
}

impl Transport for HostApp {
    fn connect(&self, origin: Origin) -> Connecting {
        Box::pin(self.clone().dial(origin))
    }
}

/// A visit that is under way: dropped when it is answered, and when the other side goes away.
struct UnderWay(HostApp);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}
