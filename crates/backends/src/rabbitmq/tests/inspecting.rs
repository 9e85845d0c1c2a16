//! What `doctor` asks.

use std::time::Duration;

use outboard_core::{
    Kind,
    queue::{Argument, Declared, QueueSpec},
};
use outboard_testkit::rabbitmq::url_at;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{connect, shared, stay_alive};
use crate::rabbitmq::{
    inspect,
    topology::{ensure, look},
};

#[tokio::test]
async fn a_look_tells_what_is_there_and_makes_nothing() {
    let broker = shared();
    let connection = connect(broker).await;
    ensure(&connection, &QueueSpec::named("seen")).await.unwrap();
    let mut differs = QueueSpec::named("seen");
    differs.arguments.insert("x-max-length".into(), Argument::Number(3));
    let missing = QueueSpec::named("not-seen");
    let not_made = QueueSpec { create: false, ..missing.clone() };
    let target = broker.url().parse().unwrap();
    let facts = inspect(&target, &[QueueSpec::named("seen"), differs, missing, not_made]).await.unwrap();
    assert_eq!(&*facts.product, "RabbitMQ");
    assert!(facts.version.starts_with(|first: char| first.is_ascii_digit()), "{}", facts.version);
    let [seen, differs, missing, not_made] = &facts.queues[..] else { panic!("{facts:?}") };
    assert_eq!(seen.declared.as_ref().unwrap(), &Declared::Same);
    assert_eq!((seen.ready, seen.consumers), (Some(0), Some(0)));
    let declared = differs.declared.as_ref().unwrap();
    assert!(matches!(declared, Declared::Differs(what) if what.contains("x-max-length")), "{declared:?}");
    for absent in [missing, not_made] {
        assert_eq!(absent.declared.as_ref().unwrap_err().kind, Kind::NotFound);
        assert_eq!(absent.ready, None, "which is not 0");
    }
    assert_eq!(look(&connection, "not-seen").await.unwrap_err().kind, Kind::NotFound);
}

/// Stands before the shared broker, and answers nothing from the moment that the connection is open.
async fn mute_when_open() -> u16 {
    // The end of the broker's last word in the handshake: class 10, method 41, an empty text.
    const OPEN: [u8; 6] = [0, 10, 0, 41, 0, 0xCE];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", shared().port())).await.unwrap();
        let (mut question, mut answer) = ([0; 4_096], [0; 4_096]);
        loop {
            tokio::select! {
                read = client.read(&mut question) => {
                    server.write_all(&question[..read.unwrap()]).await.unwrap();
                }
                read = server.read(&mut answer) => {
                    let answer = &answer[..read.unwrap()];
                    client.write_all(answer).await.unwrap();
                    if answer.ends_with(&OPEN) {
                        return stay_alive(client).await;
                    }
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn a_queue_that_is_asked_in_vain_is_told_as_such() {
    // A broker that has just started takes its time, and the look has little.
    connect(shared()).await;
    let target = url_at(mute_when_open().await).parse().unwrap();
    let specs = ["mute", "mute-too", "mute-as-well"].map(QueueSpec::named);
    // One limit for all of them: doctor waits for 8 s.
    let facts = timeout(Duration::from_secs(8), inspect(&target, &specs)).await.expect("it ends").unwrap();
    for (queue, spec) in facts.queues.iter().zip(&specs) {
        let error = queue.declared.as_ref().unwrap_err();
        let words = format!("`{}`: look whether", spec.name);
        assert!(error.kind == Kind::Unavailable && error.message.contains(&words), "{error}");
    }
}
