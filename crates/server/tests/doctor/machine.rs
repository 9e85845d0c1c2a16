//! Ports and data directories that somebody has.

use std::net::TcpListener;

use outboard_embedded::{Embedded, Options};
use serde_json::Value;

use crate::{
    golden::{compare, doctor},
    harness::{Server, Setup, text},
};

/// Any ports will do.
fn any_ports() -> [(&'static str, String); 2] {
    ["OUTBOARD_API__PORT", "OUTBOARD_METRICS__PORT"].map(|name| (name, "0".to_owned()))
}

#[test]
fn a_healthy_machine_has_no_problem_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path(), &[], &any_ports());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    compare("healthy-machine", &output, &[]);
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_port_of_another_process_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let variables = [("OUTBOARD_API__PORT", port.clone()), ("OUTBOARD_METRICS__PORT", "0".to_owned())];
    let output = doctor(directory.path(), &[], &variables);
    assert_eq!(output.status.code(), Some(1));
    compare("port-taken", &output, &[(&port, "PORT")]);
}

#[test]
fn what_our_own_server_has_is_no_problem() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_in(directory.path(), &Setup::default());
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let (api, metrics) = (port(&server.address), port(&server.metrics));
    let variables = [("OUTBOARD_API__PORT", api.clone()), ("OUTBOARD_METRICS__PORT", metrics.clone())];
    let output = doctor(directory.path(), &[], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    compare("server-runs", &output, &[(&api, "API"), (&metrics, "METRICS")]);
}

#[tokio::test]
async fn a_directory_whose_holder_is_silent_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let held = Embedded::open(&directory.path().join("outboard-data"), Options::default()).await.unwrap();
    let output = doctor(directory.path(), &[], &any_ports());
    assert_eq!(output.status.code(), Some(1));
    compare("directory-held", &output, &[(&std::process::id().to_string(), "PROCESS")]);
    held.close().await;
}

#[test]
fn scripts_get_one_object() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path(), &["--json"], &any_ports());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    let machine = &report["groups"][0];
    assert_eq!(machine["name"], "machine");
    let clock = machine["checks"].as_array().unwrap().iter().find(|check| check["name"] == "clock").unwrap();
    assert_eq!((clock["status"].as_str(), clock["mend"].as_str()), (Some("ok"), None));
    assert!(clock["text"].is_string());
}

#[test]
fn a_wrong_configuration_is_told_as_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path(), &[], &[("OUTBOARD_PROT", "1".to_owned())]);
    assert_eq!(output.status.code(), Some(64));
}
