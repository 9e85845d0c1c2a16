//! Clients that post commands over many connections, and repeat what was not answered when the server is back.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard},
    thread::{Scope, ScopedJoinHandle},
};

use crate::http::{Connection, JSON, PATIENCE};

/// What all posters of one test share.
#[derive(Default)]
pub(crate) struct Posting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where the server listens, and how often it was started.
    server: Option<(u32, String)>,
    starts: u32,
    /// The next command to post.
    next: u64,
    /// Commands from here on are not to be posted yet.
    allowed: u64,
    /// How many posts were answered 202.
    accepted: u64,
    /// How many posts were sent again because no answer came.
    repeated: u64,
}

impl Posting {
    /// The server listens here now.
    pub(crate) fn server_is_at(&self, address: &str) {
        let mut state = self.lock();
        state.starts += 1;
        state.server = Some((state.starts, address.to_owned()));
        self.changed.notify_all();
    }

    /// The server is gone.
    pub(crate) fn server_is_gone(&self) {
        self.lock().server = None;
    }

    /// Lets commands be posted up to this number.
    pub(crate) fn allow(&self, commands: u64) {
        self.lock().allowed = commands;
        self.changed.notify_all();
    }

    /// How many posts were answered 202.
    pub(crate) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// How many posts were sent more than once.
    pub(crate) fn repeated(&self) -> u64 {
        self.lock().repeated
    }

    /// Posts until command number `total`, over so many connections. Each thread gives the id for each of its commands.
    pub(crate) fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        connections: usize,
        total: u64,
    ) -> Vec<ScopedJoinHandle<'scope, BTreeMap<u64, u64>>> {
        (0..connections).map(|_| scope.spawn(move || self.post_all(total))).collect()
    }

    fn post_all(&self, total: u64) -> BTreeMap<u64, u64> {
        let (mut ids, mut connection, mut last_start) = (BTreeMap::new(), None, 0);
        while let Some(number) = self.next_command(total) {
            let id = loop {
                let open = match connection.take() {
                    Some(open) => Some(open),
                    None => {
                        let (start, address) = self.server_after(last_start);
                        last_start = start;
                        Connection::try_open(&address).ok()
                    }
                };
                // An answer cut off is no answer: the key makes it safe to ask again.
                if let Some((id, open)) = open.and_then(|open| post(open, number)) {
                    connection = Some(open);
                    break id;
                }
                self.lock().repeated += 1;
            };
            self.lock().accepted += 1;
            ids.insert(number, id);
        }
        ids
    }

    fn next_command(&self, total: u64) -> Option<u64> {
        let mut state = self.lock();
        while state.next < total && state.next >= state.allowed {
            state = self.wait(state, "nobody allows more commands");
        }
        state.next += 1;
        (state.next <= total).then_some(state.next)
    }

    /// The server that was started after that one: a server is left only when it is gone.
    fn server_after(&self, start: u32) -> (u32, String) {
        let mut state = self.lock();
        loop {
            match &state.server {
                Some(server) if server.0 > start => return server.clone(),
                _ => state = self.wait(state, "no server is started"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, otherwise: &str) -> MutexGuard<'a, State> {
        let (state, waited) = self.changed.wait_timeout(state, PATIENCE).unwrap();
        assert!(!waited.timed_out(), "{otherwise}");
        state
    }
}

/// The key of a command.
pub(crate) fn key(number: u64) -> String {
    format!("command-{number}")
}

/// Posts one command; `None` when the connection ended before the answer.
fn post(mut connection: Connection, number: u64) -> Option<(u64, Connection)> {
    let body = format!(r#"{{"type":"orders/confirm","payload":{{"order_id":{number}}}}}"#);
    let headers = [JSON, ("idempotency-key", &key(number))];
    let answer = connection.try_send("POST", "/commands", &headers, body.as_bytes())?;
    assert_eq!(answer.status, 202, "{}", answer.body);
    Some((answer.json()["id"].as_u64().unwrap(), connection))
}
