//! A host app: an HTTP server whose answers the test decides.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use serde_json::Value;

use crate::http::PATIENCE;

/// A receiver on a free port.
pub(crate) struct HostApp {
    pub(crate) url: String,
    shared: Arc<Shared>,
    received: Receiver<Value>,
}

struct Shared {
    status: AtomicU16,
    held: Mutex<bool>,
    released: Condvar,
    waiting: AtomicUsize,
}

impl HostApp {
    /// Answers everything with this status.
    pub(crate) fn answering(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            status: AtomicU16::new(status),
            held: Mutex::new(false),
            released: Condvar::new(),
            waiting: AtomicUsize::new(0),
        });
        let (sender, received) = sync_channel(100_000);
        let app = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (app, sender) = (app.clone(), sender.clone());
                std::thread::spawn(move || serve(stream, &app, &sender));
            }
        });
        Self { url, shared, received }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// From now on requests are taken and not answered.
    pub(crate) fn hold(&self) {
        *self.shared.held.lock().unwrap() = true;
    }

    pub(crate) fn release(&self) {
        *self.shared.held.lock().unwrap() = false;
        self.shared.released.notify_all();
    }

    /// How many requests wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// The next message that came.
    pub(crate) fn next(&self) -> Value {
        self.received.recv_timeout(PATIENCE).expect("a message comes")
    }
}

fn serve(stream: TcpStream, app: &Shared, sender: &SyncSender<Value>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        sender.send(serde_json::from_slice(&body).ok()?).ok()?;
        app.waiting.fetch_add(1, Ordering::SeqCst);
        let held = app.held.lock().unwrap();
        drop(app.released.wait_while(held, |held| *held).unwrap());
        app.waiting.fetch_sub(1, Ordering::SeqCst);
        let status = app.status.load(Ordering::SeqCst);
        let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}
