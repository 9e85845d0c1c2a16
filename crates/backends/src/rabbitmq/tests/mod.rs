//! Connections and channels, against a real broker.

mod consuming;
mod giving_up;
mod inspecting;
mod moving;
mod publishing;
mod recovering;
mod refusals;
mod topology;

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError};
use outboard_testkit::RabbitMq;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc, time::timeout};

use super::{
    Table,
    channel::{Channel, Content, Sink},
    codec::{
        field::ShortString,
        frame::put_heartbeat,
        method::{Method, flags},
        properties::Properties,
    },
    connection::Connection,
};

const WITHIN: Duration = Duration::from_secs(10);

/// One broker for all tests that leave it running.
fn shared() -> &'static RabbitMq {
    static BROKER: OnceLock<RabbitMq> = OnceLock::new();
    BROKER.get_or_init(start)
}

fn start() -> RabbitMq {
    RabbitMq::start().expect("RabbitMQ is installed")
}

/// The URL for an account and what follows the port.
fn url(broker: &RabbitMq, account: &str, path: &str) -> String {
    format!("amqp://{account}@127.0.0.1:{}{path}", broker.port())
}

/// A broker that answers nothing any more, and is alive all the same.
async fn stay_alive(mut client: TcpStream) {
    let mut sign = BytesMut::new();
    put_heartbeat(&mut sign);
    let mut again = tokio::time::interval(Duration::from_millis(300));
    while client.write_all(&sign).await.is_ok() {
        again.tick().await;
    }
}

fn short(text: &str) -> ShortString {
    ShortString::new(text).expect("a short text")
}

async fn connect(broker: &RabbitMq) -> Connection {
    Connection::open(&broker.url().parse().expect("a URL"), WITHIN).await.expect("the broker runs")
}

async fn declare(channel: &Channel, queue: &str) {
    let declare =
        Method::QueueDeclare { reserved1: 0, queue: short(queue), flags: 0, arguments: Table::default() };
    channel.call(&declare).await.expect("the queue is declared");
}

fn publish_to(queue: &str) -> Method {
    Method::BasicPublish { reserved1: 0, exchange: short(""), key: short(queue), flags: flags::MANDATORY }
}

/// Passes on what comes in.
#[derive(Debug)]
struct Inbox(mpsc::Sender<Incoming>);

#[derive(Debug)]
enum Incoming {
    Delivery(u64, Properties, Bytes),
    Returned(Method),
    Notice(Method),
    Closed(PortError),
}

impl Sink for Inbox {
    fn delivery(&mut self, number: u64, _: bool, Content { properties, body }: Content) {
        let properties = Properties::read(properties).expect("they are well-formed");
        let _ = self.0.try_send(Incoming::Delivery(number, properties, body));
    }

    fn message(&mut self, method: Method, _: Properties, _: Bytes) {
        let _ = self.0.try_send(Incoming::Returned(method));
    }

    fn notice(&mut self, method: Method) -> Result<(), PortError> {
        let _ = self.0.try_send(Incoming::Notice(method));
        Ok(())
    }

    fn closed(&mut self, error: &PortError) {
        let _ = self.0.try_send(Incoming::Closed(error.clone()));
    }
}

struct Receiving(mpsc::Receiver<Incoming>);

impl Receiving {
    fn attach(channel: &Channel) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        channel.attach(Box::new(Inbox(sender)));
        Self(receiver)
    }

    async fn next(&mut self) -> Incoming {
        timeout(WITHIN, self.0.recv()).await.expect("something comes").expect("the channel is kept")
    }
}

#[tokio::test]
async fn bodies_of_every_size_arrive_as_they_were_sent() {
    let connection = connect(shared()).await;
    let channel = connection.channel().await.unwrap();
    declare(&channel, "bodies").await;
    let mut receiving = Receiving::attach(&channel);
    channel.call(&Method::ConfirmSelect { flags: 0 }).await.unwrap();
    let consume = Method::BasicConsume {
        reserved1: 0,
        queue: short("bodies"),
        tag: short("c"),
        flags: 0,
        arguments: Table::default(),
    };
    channel.call(&consume).await.unwrap();
    for (number, size) in [0, 1, 131_063, 131_064, 131_065, 1 << 20].into_iter().enumerate() {
        let body: Vec<u8> = (0..size).map(|index: usize| index as u8).collect();
        let headers = Table::of([("größe", (size as i64).into())]);
        let properties =
            Properties { headers: Some(headers), delivery_mode: Some(2), ..Properties::default() };
        channel.publish(&publish_to("bodies"), &properties, &body).unwrap();
        let (mut is_confirmed, mut is_delivered) = (false, false);
        while !is_confirmed || !is_delivered {
            match receiving.next().await {
                Incoming::Notice(Method::BasicAck { delivery, .. }) => {
                    assert_eq!(delivery, number as u64 + 1);
                    is_confirmed = true;
                }
                Incoming::Delivery(delivery, found, received) => {
                    assert_eq!((found, &received[..]), (properties.clone(), &body[..]), "{size} bytes");
                    channel.send(&Method::BasicAck { delivery, flags: 0 }).unwrap();
                    is_delivered = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    connection.close().await;
}

#[tokio::test]
async fn what_no_queue_takes_comes_back_before_its_confirm() {
    let connection = connect(shared()).await;
    let channel = connection.channel().await.unwrap();
    let mut receiving = Receiving::attach(&channel);
    channel.call(&Method::ConfirmSelect { flags: 0 }).await.unwrap();
    channel.publish(&publish_to("no-such-queue"), &Properties::default(), b"{}").unwrap();
    let first = receiving.next().await;
    assert!(matches!(&first, Incoming::Returned(Method::BasicReturn { code: 312, .. })), "{first:?}");
    let second = receiving.next().await;
    assert!(matches!(&second, Incoming::Notice(Method::BasicAck { delivery: 1, .. })), "{second:?}");
}

#[tokio::test]
async fn a_mistake_closes_its_channel_and_no_other() {
    let connection = connect(shared()).await;
    let (bad, good) = (connection.channel().await.unwrap(), connection.channel().await.unwrap());
    let mut receiving = Receiving::attach(&bad);
    let passive = Method::QueueDeclare {
        reserved1: 0,
        queue: short("no-such-queue"),
        flags: flags::PASSIVE,
        arguments: Table::default(),
    };
    let error = bad.call(&passive).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    assert!(matches!(receiving.next().await, Incoming::Closed(closed) if closed.kind == Kind::NotFound));
    let error = bad.call(&passive).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound, "it stays closed: {error}");
    declare(&good, "still-fine").await;
    declare(&connection.channel().await.unwrap(), "still-fine").await;
}

#[tokio::test]
async fn a_consumer_whose_queue_is_deleted_is_told() {
    let connection = connect(shared()).await;
    let channel = connection.channel().await.unwrap();
    declare(&channel, "deleted").await;
    let mut receiving = Receiving::attach(&channel);
    let (queue, tag) = (short("deleted"), short("c"));
    let arguments = Table::default();
    let consume = Method::BasicConsume { reserved1: 0, queue: queue.clone(), tag, flags: 0, arguments };
    channel.call(&consume).await.unwrap();
    let other = connection.channel().await.unwrap();
    other.call(&Method::QueueDelete { reserved1: 0, queue, flags: 0 }).await.unwrap();
    let notice = receiving.next().await;
    assert!(matches!(&notice, Incoming::Notice(Method::BasicCancel { .. })), "{notice:?}");
}

#[tokio::test]
async fn the_end_of_the_broker_reaches_everybody() {
    let mut broker = start();
    let connection = connect(&broker).await;
    let channel = connection.channel().await.unwrap();
    let mut receiving = Receiving::attach(&channel);
    broker.kill();
    let mut ended = connection.ended();
    let error = timeout(WITHIN, ended.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(matches!(receiving.next().await, Incoming::Closed(_)));
    assert_eq!(connection.channel().await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(channel.send(&Method::ChannelCloseOk {}).unwrap_err().kind, Kind::Unavailable);
}
