//! A way to a server on which single words get lost while everything else comes: what a cluster does to its clients when
//! a route between two of its servers breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outboard_backends::jetstream::Options;
use outboard_core::{
    Consumer, Health, Kind, Settlement, Verdict,
    queue::{ConsumeSpec, Prefetch, QueueSpec},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    open,
    outages::{one, publish, queue, settle, soon},
    refusals::{error_of, status_until},
    server,
};

/// What gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Acknowledgement,
    Confirmation,
}

impl Word {
    fn is_in(self, line: &str) -> bool {
        match self {
            Self::Acknowledgement => line.starts_with("PUB $JS.ACK."),
            // The answers to acknowledgements have inboxes of their own.
            Self::Confirmation => line.starts_with("MSG _INBOX.") && line.split('.').nth(2) == Some("a"),
        }
    }
}

struct Losing {
    port: u16,
    /// So many more are lost.
    left: Arc<AtomicUsize>,
    /// So many were said, the lost ones among them.
    said: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Losing {
    async fn start(word: Word, count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a connection on this machine");
        let port = listener.local_addr().expect("a connection on this machine").port();
        let (left, said) = (Arc::new(AtomicUsize::new(count)), Arc::<AtomicUsize>::default());
        let counts = (left.clone(), said.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.expect("a connection on this machine");
                let (losing, saying) = counts.clone();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server().port()))
                        .await
                        .expect("a connection on this machine");
                    let (from_client, to_client) = client.split();
                    let (from_server, to_server) = server.split();
                    tokio::select! {
                        () = pass(from_client, to_server, word, (&losing, &saying)) => {}
                        () = pass(from_server, to_client, word, (&losing, &saying)) => {}
                    }
                });
            }
        });
        Self { port, left, said, _serving: AbortOnDropHandle::new(serving) }
    }
}

/// Passes frames on until the end, but not those that get lost.
async fn pass(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    word: Word,
    (left, said): (&AtomicUsize, &AtomicUsize),
) {
    let mut from = BufReader::new(from);
    let mut line = String::new();
    while let Ok(1..) = from.read_line(&mut line).await {
        let is_long = ["MSG ", "HMSG ", "PUB ", "HPUB "].iter().any(|verb| line.starts_with(verb));
        let payload = if is_long {
            line.trim()
                .rsplit(' ')
                .next()
                .expect("a text has a last word")
                .parse()
                .expect("frames end with a length")
        } else {
            0
        };
        let mut frame = std::mem::take(&mut line).into_bytes();
        let head = frame.len();
        frame.resize(head + if is_long { payload + 2 } else { 0 }, 0);
        if from.read_exact(&mut frame[head..]).await.is_err() {
            return;
        }
        let take = |left: usize| left.checked_sub(1);
        let is_said = word.is_in(std::str::from_utf8(&frame[..head]).expect("lines are text"));
        said.fetch_add(usize::from(is_said), Ordering::SeqCst);
        let is_lost = is_said && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        if !is_lost && to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn single(port: u16) -> (Arc<dyn outboard_core::Queue>, Arc<str>, Arc<dyn Consumer>) {
    let options = Options { ack_wait: Duration::from_secs(3), ..Options::default() };
    let port = open(port, options);
    let name = queue(&port).await;
    let spec = ConsumeSpec {
        prefetch: Prefetch::Fixed(1),
        ..ConsumeSpec::new("worker", QueueSpec::named(name.clone()))
    };
    let consumer = soon(port.consume(spec)).await.expect("it can be consumed");
    (port, name, consumer)
}

#[tokio::test]
async fn a_lost_acknowledgement_or_confirmation_stalls_nobody() {
    for word in [Word::Acknowledgement, Word::Confirmation] {
        let losing = Losing::start(word, 1).await;
        let (port, name, consumer) = single(losing.port).await;
        publish(&port, &name, "1").await;
        let first = one(&consumer).await;
        let ticket = consumer.settle(Settlement { tag: first.tag, verdict: Verdict::Done, effects: None });
        publish(&port, &name, "2").await;
        let second = one(&consumer).await;
        assert_eq!(&second.message.payload[..], b"2", "{word:?}: it was said again in time");
        assert_eq!(losing.left.load(Ordering::SeqCst), 0, "{word:?}: one was lost");
        assert!(*consumer.durable().borrow() >= ticket, "{word:?}");
        settle(&consumer, &second, Verdict::Done).await;
        assert!(consumer.status().health.is_ready());
    }
}

#[tokio::test]
async fn a_server_that_confirms_nothing_is_told_and_not_called_healthy() {
    let losing = Losing::start(Word::Confirmation, usize::MAX).await;
    let (port, name, consumer) = single(losing.port).await;
    publish(&port, &name, "1").await;
    let first = one(&consumer).await;
    let ticket = consumer.settle(Settlement { tag: first.tag, verdict: Verdict::Done, effects: None });
    let is_tried = |health: &Health| matches!(health, Health::Recovering { attempt: 2.., .. });
    let error = error_of(&status_until(&consumer, is_tried).await);
    assert!(error.kind == Kind::Unavailable && error.message.contains("does not confirm"), "{error}");
    losing.left.store(0, Ordering::SeqCst);
    soon(consumer.durable().wait_for(|durable| *durable >= ticket)).await.unwrap();
    assert!(consumer.status().health.is_ready());
}

#[tokio::test]
async fn what_is_settled_one_by_one_is_confirmed_in_few_words() {
    const MESSAGES: u32 = 1_000;
    let counting = Losing::start(Word::Confirmation, 0).await;
    let port = open(counting.port, Options::default());
    let name = queue(&port).await;
    for number in 0..MESSAGES {
        publish(&port, &name, &number.to_string()).await;
    }
    let prefetch = Prefetch::Fixed(MESSAGES);
    let spec = ConsumeSpec { prefetch, ..ConsumeSpec::new("worker", QueueSpec::named(name)) };
    let consumer = soon(port.consume(spec)).await.expect("it can be consumed");
    let mut deliveries = Vec::new();
    while deliveries.len() < MESSAGES as usize {
        deliveries.extend(soon(consumer.next(MESSAGES as usize)).await.expect("they come"));
    }
    let began = tokio::time::Instant::now();
    let mut last = 0;
    for delivery in deliveries {
        last = consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
        tokio::task::yield_now().await;
    }
    soon(consumer.durable().wait_for(|durable| *durable >= last)).await.unwrap();
    // One for each eighth of the prefetch, or when the last one was three milliseconds ago.
    let most = 8 + began.elapsed().as_millis() as usize / 3 + 1;
    let said = counting.said.load(Ordering::SeqCst);
    assert!((1..=most).contains(&said), "{said} confirmations, not {most}");
}
