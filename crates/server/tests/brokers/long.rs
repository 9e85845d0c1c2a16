//! Long work: what is taken into the log first is one worker's business, and follows its pauses.

use serde_json::{Value, json};

use crate::{
    broker::{Broker, Kind, QUEUE, numbered},
    harness::{Server, Setup, run, text},
    receiver::HostApp,
};

fn worker(server: &Server, name: &str) -> Value {
    let workers = server.get("/workers").json();
    let found = workers["workers"].as_array().unwrap().iter().find(|worker| worker["name"] == name);
    found.cloned().unwrap_or_else(|| panic!("{workers}"))
}

fn states(server: &Server) -> [Value; 2] {
    ["reports", "reports.intake"].map(|name| worker(server, name)["state"].clone())
}

struct World {
    reports: HostApp,
    everything: HostApp,
    config: String,
}

fn world(broker: &Broker) -> World {
    let (reports, everything) = (HostApp::answering(200), HostApp::answering(200));
    let config = format!(
        "workers:\n- name: reports\n  url: {}\n  source: {}\n  queue: {QUEUE}\n  long: true\n\
         - name: everything\n  url: {}\n  types: ['*']\n",
        reports.url,
        broker.url(),
        everything.url
    );
    World { reports, everything, config }
}

async fn with_messages(count: u64) -> Broker {
    let broker = Broker::start(Kind::Sidekiq).await;
    let publisher = broker.open();
    for answer in publisher.publish((0..count).map(numbered).collect()).await.unwrap() {
        answer.unwrap();
    }
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_in_is_worked_on_by_its_worker_alone() {
    let broker = with_messages(3).await;
    tokio::task::spawn_blocking(move || {
        let world = world(&broker);
        let server = Server::with(Setup { config: &world.config, ..Setup::default() });
        for _ in 0..3 {
            assert_eq!(world.reports.next()["type"], "suite/count");
        }
        // The log is in order: what came before this would have been delivered before.
        let id = server.command("orders/confirm", "7");
        assert_eq!(world.everything.next()["id"], json!(id));
        let listed = server.get("/messages").json();
        assert_eq!(listed["messages"].as_array().unwrap().len(), 4, "nothing of the log is hidden: {listed}");
        let taken = server.get("/messages?type=outboard-intake/reports").json();
        let taken_in = taken["messages"][0]["id"].clone();
        assert_eq!(server.state(taken_in.as_u64().unwrap(), "everything"), Value::Null);
        // Nobody else puts such messages into the log.
        let posted = server.post("/commands", r#"{"type":"outboard-intake/reports","payload":1}"#);
        assert_eq!(
            (posted.status, posted.body.contains("no worker handles")),
            (422, true),
            "{}",
            posted.body
        );
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_a_long_worker_is_one_of_its_intake_too() {
    let broker = with_messages(1).await;
    let publisher = broker.open();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let world = world(&broker);
        let setup = Setup { config: &world.config, ..Setup::default() };
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start_in(directory.path(), &setup);
        assert_eq!(world.reports.next()["payload"], json!([0]));
        assert_eq!(server.post("/workers/reports/pause", r#"{"reason":"deploy"}"#).status, 200);
        assert_eq!(states(&server), ["paused", "paused"]);
        assert_eq!(worker(&server, "reports.intake")["reason"], "deploy");
        runtime.block_on(publisher.publish(vec![numbered(1)])).unwrap().remove(0).unwrap();
        server.stop();

        let mut server = Server::start_in(directory.path(), &setup);
        assert_eq!(states(&server), ["paused", "paused"]);
        assert_eq!(server.get("/messages").json()["tip"], 1, "nothing is taken in meanwhile");
        assert_eq!(server.post("/workers/reports/resume", "").status, 200);
        assert_eq!(states(&server), ["running", "running"]);
        assert_eq!(world.reports.next()["payload"], json!([1]));

        // It pauses itself when its app wants no more.
        world.reports.answer(410);
        runtime.block_on(publisher.publish(vec![numbered(2)])).unwrap().remove(0).unwrap();
        server.wait_until("it pauses itself", |server| states(server) == ["paused", "paused"]);
        server.stop();

        // A worker that does not run here is resumed with its intake, too.
        let without = Setup { config: "", ..Setup::default() };
        let mut server = Server::start_in(directory.path(), &without);
        assert_eq!(states(&server), ["absent", "absent"]);
        assert_eq!(server.post("/workers/reports/resume", "").status, 200);
        server.stop();
        world.reports.answer(200);
        let server = Server::start_in(directory.path(), &setup);
        assert_eq!(states(&server), ["running", "running"]);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_shows_where_its_messages_come_from() {
    let broker = Broker::start(Kind::Sidekiq).await;
    tokio::task::spawn_blocking(move || {
        let world = world(&broker);
        let server = Server::with(Setup { config: &world.config, ..Setup::default() });
        let reports = worker(&server, "reports");
        assert_eq!(reports["source"], "sidekiq orders through the log");
        assert_eq!(reports["types"], worker(&server, "reports.intake")["types"]);
        assert!(!reports["types"].to_string().contains("intake/reports"), "{reports}");
        let told = run(server.directory(), &["workers"]);
        let listed = text(&told.stdout);
        assert!(listed.contains("reports\trunning\tsidekiq orders through the log, lag 0\t"), "{listed}");
        assert!(listed.contains("reports.intake\trunning\tsidekiq orders\t"), "{listed}");
        assert!(listed.contains("everything\trunning\tlag 0\t"), "{listed}");
    })
    .await
    .unwrap();
}
