//! A TCP connection that fails on command.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

/// What the proxy does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Ends every connection, and every new one at once.
    Close,
    /// Keeps every connection, takes new ones, and passes nothing on.
    Silent,
    /// Passes on what clients say, and keeps back what the server answers.
    Withhold,
}

/// What connections are told: those of an earlier generation stay as they are.
#[derive(Debug, Clone, Copy)]
struct Order {
    mode: Mode,
    generation: u64,
    /// How often everything was to be closed: who looks late has to end all the same.
    closes: u64,
}

/// Stands before a server on this machine. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    order: Arc<watch::Sender<Order>>,
    /// How many connections there are.
    open: Arc<watch::Sender<usize>>,
    /// How many there ever were.
    taken: Arc<AtomicUsize>,
    _listening: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a free port for the server at `upstream`.
    pub async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let order = Arc::new(watch::Sender::new(Order { mode: Mode::Pass, generation: 0, closes: 0 }));
        let (open, taken) = (Arc::new(watch::Sender::new(0)), Arc::<AtomicUsize>::default());
        let listening = listen(listener, upstream, order.clone(), (open.clone(), taken.clone()));
        let listening = AbortOnDropHandle::new(tokio::spawn(listening));
        Ok(Self { port, order, open, taken, _listening: listening })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it does this, also with the connections that it has.
    pub fn set(&self, mode: Mode) {
        self.order.send_modify(|order| {
            order.mode = mode;
            order.closes += u64::from(mode == Mode::Close);
        });
    }

    /// Passes new connections, while those that it has stay as they are for ever: silent ones stay silent.
    pub fn renew(&self) {
        self.order.send_modify(|order| {
            order.mode = Mode::Pass;
            order.generation += 1;
        });
    }

    /// How many connections there are now.
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// How many connections there ever were.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Ends every connection, and every new one at once, and returns when those that it had have ended.
    pub async fn cut(&self) {
        self.set(Mode::Close);
        let mut open = self.open.subscribe();
        // The sender is ours: it is there.
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

async fn listen(
    listener: TcpListener,
    upstream: u16,
    order: Arc<watch::Sender<Order>>,
    (open, taken): (Arc<watch::Sender<usize>>, Arc<AtomicUsize>),
) {
    // Aborted together with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    open.send_modify(|open| *open += 1);
                    taken.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(connection(stream, upstream, order.subscribe()));
                }
            }
            Some(_) = connections.join_next() => open.send_modify(|open| *open -= 1),
        }
    }
}

/// What one connection makes of the orders: those that are not for it change nothing.
struct Orders {
    order: watch::Receiver<Order>,
    began: Order,
    mode: Mode,
}

impl Orders {
    fn new(order: watch::Receiver<Order>) -> Self {
        let began = *order.borrow();
        Self { order, began, mode: began.mode }
    }

    /// What to do now.
    fn mode(&mut self) -> Mode {
        let now = *self.order.borrow_and_update();
        if now.generation == self.began.generation {
            self.mode = if now.closes > self.began.closes { Mode::Close } else { now.mode };
        }
        self.mode
    }

    /// Returns when there may be something else to do.
    async fn changed(&mut self) {
        if self.order.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn connection(mut client: TcpStream, upstream: u16, order: watch::Receiver<Order>) {
    let mut orders = Orders::new(order.clone());
    // The server hears of a connection when the first byte may pass.
    loop {
        match orders.mode() {
            Mode::Pass | Mode::Withhold => break,
            Mode::Close => return,
            Mode::Silent => orders.changed().await,
        }
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // An end is an end, whichever way it came.
    tokio::select! {
        () = pass(from_client, to_server, Orders::new(order.clone()), &[Mode::Pass, Mode::Withhold]) => {}
        () = pass(from_server, to_client, Orders::new(order), &[Mode::Pass]) => {}
    }
}

/// Passes bytes on in one direction, in the modes that let them. What was read is written, also when silence is ordered meanwhile: a connection may
/// stall or end, but never lose bytes from its middle.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut orders: Orders, passing: &[Mode]) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match orders.mode() {
            mode if passing.contains(&mode) => {}
            Mode::Close => return,
            _ => {
                orders.changed().await;
                continue;
            }
        }
        let read = tokio::select! {
            biased;
            () = orders.changed() => continue,
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { return };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Reads until the peer ends the connection, for tests of what a peer is told.
pub async fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_passes_falls_silent_and_ends_as_told() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = echo.local_addr().unwrap().port();
        let (tell, mut heard) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                tell.send(read).await.unwrap();
                stream.write_all(&buffer[..read]).await.unwrap();
            }
        });
        let proxy = Proxy::start(port).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
        proxy.set(Mode::Silent);
        stream.write_all(b"pong").await.unwrap();
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, stream.read_exact(&mut answer)).await.is_err(), "nothing comes");
        proxy.set(Mode::Pass);
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"pong", "nothing is lost by silence");
        proxy.set(Mode::Withhold);
        stream.write_all(b"heard").await.unwrap();
        while heard.recv().await.expect("the server hears it") != 5 {}
        assert!(
            tokio::time::timeout(wait, stream.read_exact(&mut answer)).await.is_err(),
            "the client hears nothing"
        );
        proxy.set(Mode::Close);
        assert!(read_to_end(&mut stream).await.map_or(true, |rest| rest.is_empty()));
    }
}
