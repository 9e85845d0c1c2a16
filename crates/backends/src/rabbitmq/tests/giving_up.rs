//! Calls that are given up before the broker has answered: what becomes of their channels.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::poll;
use outboard_core::queue::{Destination, Outgoing, Queue, QueueSpec};
use outboard_testkit::rabbitmq::url_at;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    sync::{Notify, watch},
};

use super::{
    AsyncWriteExt, BytesMut, Channel, Connection, Kind, Method, Table, TcpStream, WITHIN, connect,
    consuming::queues, flags, shared, short, timeout,
};
use crate::rabbitmq::{
    codec::frame::Frame,
    dead,
    handshake::FRAME_MAX,
    topology::{ensure, ensure_plain, look},
};

/// So many channels are agreed on.
const CHANNELS: u16 = 3;

/// Stands before the shared broker, and keeps some of its answers back.
#[derive(Debug)]
struct Between {
    /// Names of methods.
    withheld: Mutex<&'static [&'static str]>,
    /// What is kept back, in the order in which it came.
    kept: watch::Sender<Vec<Frame>>,
    release: Notify,
    /// So many times it was confirmed to the client that a channel is closed.
    closed: watch::Sender<usize>,
}

impl Between {
    async fn connect() -> (Arc<Self>, Connection) {
        let (withheld, kept, closed) = (Mutex::default(), watch::Sender::default(), watch::Sender::default());
        let between = Arc::new(Self { withheld, kept, release: Notify::new(), closed });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = url_at(listener.local_addr().unwrap().port()).parse().unwrap();
        tokio::spawn(between.clone().pass(listener));
        (between, Connection::open(&target, WITHIN).await.expect("the broker runs"))
    }

    async fn pass(self: Arc<Self>, listener: TcpListener) {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", shared().port())).await.unwrap();
        let (mut asked, mut answered) = (BytesMut::new(), BytesMut::new());
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                read = client.read_buf(&mut asked) => match read {
                    Ok(1..) => server.write_all(&asked.split()).await.unwrap(),
                    _ => return,
                },
                read = server.read_buf(&mut answered) => {
                    assert!(read.unwrap() > 0, "the broker ends the connection");
                    while let Some(frame) = Frame::read(&mut answered, FRAME_MAX as usize).unwrap() {
                        self.sort(frame, &mut out);
                    }
                }
                () = self.release.notified() => {
                    self.kept.send_modify(|kept| kept.drain(..).for_each(|frame| frame.write(&mut out)));
                }
            }
            client.write_all(&out).await.unwrap();
        }
    }

    fn sort(&self, mut frame: Frame, out: &mut BytesMut) {
        if let Frame::Method(_, Method::ConnectionTune { channel_max, .. }) = &mut frame {
            *channel_max = CHANNELS;
        }
        if let Frame::Method(_, method) = &frame {
            if self.withheld.lock().unwrap().contains(&method.name()) {
                return self.kept.send_modify(|kept| kept.push(frame));
            }
            let is_end = *method == Method::ChannelCloseOk {};
            self.closed.send_modify(|closed| *closed += usize::from(is_end));
        }
        frame.write(out);
    }

    fn withhold(&self, names: &'static [&'static str]) {
        *self.withheld.lock().unwrap() = names;
    }

    fn kept(&self, name: &str) -> usize {
        let is_it = |frame: &&Frame| matches!(frame, Frame::Method(_, method) if method.name() == name);
        self.kept.borrow().iter().filter(is_it).count()
    }

    /// Begins a call, and drops it once an answer of this name is kept back.
    async fn give_up<T>(&self, name: &str, call: impl Future<Output = T>) {
        let (before, mut kept) = (self.kept(name), self.kept.subscribe());
        let answered = async {
            while self.kept(name) == before {
                kept.changed().await.unwrap();
            }
        };
        tokio::select! {
            _ = call => panic!("it cannot end without {name}"),
            answered = timeout(WITHIN, answered) => answered.expect("the broker answers"),
        }
    }

    async fn until_closed(&self, count: usize) {
        let mut closed = self.closed.subscribe();
        timeout(WITHIN, closed.wait_for(|closed| *closed >= count)).await.expect("it is closed").unwrap();
    }

    /// Passes on what was kept back, until the client has read it.
    async fn release(&self, standing: &Channel) {
        self.withhold(&[]);
        self.release.notify_one();
        let mut kept = self.kept.subscribe();
        timeout(WITHIN, kept.wait_for(Vec::is_empty)).await.expect("it is passed on").unwrap();
        barrier(standing).await;
    }
}

/// Everything that the broker said before has come.
async fn barrier(channel: &Channel) {
    channel.call(&Method::BasicQos { size: 0, count: 1, flags: 0 }).await.unwrap();
}

/// As when a quorum queue has no leader, again and again.
#[tokio::test]
async fn calls_that_are_given_up_leave_no_channel_behind() {
    let unanswered: [&[&str]; 2] = [&["ChannelOpenOk"], &["QueueDeclareOk"]];
    for answers in unanswered {
        let (between, connection) = Between::connect().await;
        between.withhold(answers);
        for count in 1..=2 * usize::from(CHANNELS) {
            between.give_up(answers[0], ensure(&connection, &QueueSpec::named("given-up"))).await;
            between.until_closed(count).await;
        }
        between.withhold(&[]);
        timeout(WITHIN, ensure(&connection, &QueueSpec::named("given-up"))).await.unwrap().unwrap();
        assert!(!connection.has_ended());
    }
}

#[tokio::test]
async fn dead_letters_that_were_being_looked_at_are_there_for_the_next_look() {
    let (between, connection) = Between::connect().await;
    let direct = connect(shared()).await;
    ensure_plain(&direct, "looked-at.dlq", Table::default()).await.unwrap();
    let letter = |text: &str| Outgoing::new(Destination::queue("looked-at.dlq"), "letter", text.to_owned());
    let answers = queues(&shared().url()).publish(vec![letter("[1]"), letter("[2]")]).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    between.withhold(&["BasicGetEmpty"]);
    between.give_up("BasicGetEmpty", dead::letters(&connection, &"looked-at".into(), 10)).await;
    between.until_closed(1).await;
    assert_eq!(look(&direct, "looked-at.dlq").await.unwrap().ready, 2);
    between.withhold(&[]);
    let letters = dead::letters(&connection, &"looked-at".into(), 10).await.unwrap();
    let found: Vec<_> = letters.iter().map(|letter| &letter.payload[..]).collect();
    assert_eq!(found, [b"[1]", b"[2]"]);
}

#[tokio::test]
async fn a_late_answer_never_reaches_the_next_channel_of_the_number() {
    let (between, connection) = Between::connect().await;
    let standing = connection.channel().await.unwrap();
    between.withhold(&["QueueDeclareOk", "ChannelCloseOk"]);
    for _ in 1..CHANNELS {
        between.give_up("QueueDeclareOk", ensure(&connection, &QueueSpec::named("late"))).await;
    }
    let full = connection.channel().await.unwrap_err();
    assert_eq!(full.kind, Kind::Full, "their end is not confirmed: {full}");
    between.release(&standing).await;
    for _ in 0..2 * CHANNELS {
        ensure(&connection, &QueueSpec::named("late")).await.unwrap();
    }
}

/// Both sides close the channel at once: the broker, because what it was asked is wrong.
#[tokio::test]
async fn a_close_that_crosses_the_brokers_keeps_the_number_until_it_is_answered() {
    let (between, connection) = Between::connect().await;
    let standing = connection.channel().await.unwrap();
    let (queue, arguments) = (short("never-there"), Table::default());
    let missing = Method::QueueDeclare { reserved1: 0, queue, flags: flags::PASSIVE, arguments };
    between.withhold(&["ChannelCloseOk"]);
    for _ in 1..CHANNELS {
        let closing = async {
            let channel = connection.channel().await.unwrap();
            assert!(poll!(pin!(channel.call(&missing))).is_pending());
            drop(channel);
            std::future::pending::<()>().await;
        };
        between.give_up("ChannelCloseOk", closing).await;
    }
    barrier(&standing).await;
    assert_eq!(connection.channel().await.unwrap_err().kind, Kind::Full);
    between.release(&standing).await;
    for _ in 0..2 * CHANNELS {
        ensure(&connection, &QueueSpec::named("crossing")).await.unwrap();
    }
}
