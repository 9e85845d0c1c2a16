//! A thousand consumers in one process share a few connections, and need little memory.

use std::{process::Command, sync::Arc, time::Duration};

use outboard::core::{
    Consumer, Queue, Settlement, Verdict,
    queue::{ConsumeSpec, Destination, Outgoing, Prefetch, QueueSpec},
};

use crate::broker::{Broker, Kind, open};

const CONSUMERS: usize = 1_000;

/// So many queues, each with ten consumers.
const QUEUES: usize = 100;

const URL: &str = "OUTBOARD_TEST_MANY_URL";

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn spec(number: usize) -> ConsumeSpec {
    let queue = QueueSpec::named(format!("many-{}", number % QUEUES));
    ConsumeSpec { prefetch: Prefetch::Fixed(10), ..ConsumeSpec::new(format!("worker-{number}"), queue) }
}

async fn ready(consumers: &[Arc<dyn Consumer>]) {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while !consumers.iter().all(|consumer| consumer.status().health.is_ready()) {
        look.tick().await;
    }
}

/// Not a test by itself: the process that the test below looks at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_with_many_consumers() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = open(&url);
    // The first one pays for what all share.
    let mut consumers = vec![broker.consume(spec(0)).await.unwrap()];
    ready(&consumers).await;
    let before = resident_kilobytes();
    for number in 1..=CONSUMERS {
        consumers.push(broker.consume(spec(number)).await.unwrap());
    }
    ready(&consumers).await;
    let after = resident_kilobytes();
    work(&*broker, &consumers).await;
    println!("{} bytes each", (after.saturating_sub(before)) * 1_024 / CONSUMERS as u64);
}

/// Every queue's message is delivered to one of its consumers.
async fn work(broker: &dyn Queue, consumers: &[Arc<dyn Consumer>]) {
    let messages = (0..QUEUES)
        .map(|queue| Outgoing::new(Destination::queue(format!("many-{queue}")), "suite/many", "{}"));
    for answer in broker.publish(messages.collect()).await.unwrap() {
        answer.unwrap();
    }
    let (sender, mut handled) = tokio::sync::mpsc::channel(QUEUES);
    for consumer in consumers {
        let (consumer, sender) = (consumer.clone(), sender.clone());
        tokio::spawn(async move {
            while let Ok(deliveries) = consumer.next(10).await {
                for delivery in deliveries {
                    let tag = delivery.tag;
                    consumer.settle(Settlement { tag, verdict: Verdict::Done, effects: None });
                    sender.send(()).await.unwrap();
                }
            }
        });
    }
    for _ in 0..QUEUES {
        handled.recv().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_consumers_share_ten_connections_and_need_sixteen_kilobytes_each() {
    let broker = Broker::start(Kind::RabbitMq).await;
    let url = broker.url();
    let output = tokio::task::spawn_blocking(move || {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "many::the_process_with_many_consumers", "--nocapture"]).env(URL, url);
        process.output().unwrap()
    })
    .await
    .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let bytes =
        told.lines().find_map(|line| line.strip_suffix(" bytes each")).unwrap_or_else(|| panic!("{told}"));
    let bytes: u64 = bytes.rsplit(' ').next().unwrap().parse().unwrap();
    let connections = broker.proxy.taken();
    println!("{CONSUMERS} consumers: {connections} connections, {bytes} bytes each");
    assert!(connections <= 10, "{connections} connections");
    assert!(bytes <= 16 << 10, "{bytes} bytes each");
}
