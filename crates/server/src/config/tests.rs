//! Precedence, unknown keys, and that every mistake says where it is and how to mend it.

use super::*;

fn load_text(yaml: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yaml");
    std::fs::write(&path, yaml).unwrap();
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(Some(&path), &variables, flags)
}

const WORKER: &str = "workers:\n- name: orders\n  types: ['orders/*']\n  url: http://h/\n";

#[test]
fn flags_go_over_variables_over_the_file_over_the_defaults() {
    let yaml = "data_dir: from-file\nhost: 0.0.0.0\ndrain: 1s\napi:\n  port: 1000\n";
    let variables =
        [("OUTBOARD_HOST", "::"), ("OUTBOARD_DATA_DIR", "from-variable"), ("OUTBOARD_API__PORT", "2000")];
    let config = load_text(yaml, &variables, &[("data_dir", "from-flag".into(), "--data-dir")]).unwrap();
    assert_eq!(config.data_dir, Path::new("from-flag"));
    assert_eq!(config.host, "::".parse().unwrap());
    assert_eq!(config.api.port, 2000);
    assert_eq!(config.drain, Span::seconds(1));
    assert_eq!(config.metrics.port, 9090);
}

#[test]
fn a_value_is_read_by_the_type_of_its_key_wherever_it_comes_from() {
    // Text that looks like a number or a boolean stays text where text is wanted.
    let yaml = "workers:\n- name: 007\n  types: ['a/b']\n  url: http://h/\n  secret: null\n  headers: {x-flag: true}\n";
    let config = load_text(yaml, &[("OUTBOARD_WORKERS__0__DESCRIPTION", "1e3")], &[]).unwrap();
    let worker = &config.workers[0];
    assert_eq!((worker.name.as_str(), worker.description.as_str()), ("007", "1e3"));
    assert_eq!(worker.secret, None);
    assert_eq!(worker.headers["x-flag"].expose(), "true");
}

#[test]
fn variables_can_hold_whole_lists_and_reach_into_them() {
    let list = r#"[{name: a, types: ["a/*"], url: "http://a/"}]"#;
    let config = load_text("", &[("OUTBOARD_WORKERS", list)], &[]).unwrap();
    assert_eq!(config.workers[0].name, "a");
    let variables = [
        ("OUTBOARD_WORKERS__0__NAME", "a"),
        ("OUTBOARD_WORKERS__0__TYPES", r#"["*"]"#),
        ("OUTBOARD_WORKERS__0__URL", "http://a/"),
    ];
    assert_eq!(load_text("", &variables, &[]).unwrap().workers[0].url, "http://a/".parse().unwrap());
    let over = load_text(WORKER, &[("OUTBOARD_WORKERS__0__TIMEOUT", "2s")], &[]).unwrap();
    assert_eq!((over.workers[0].timeout, over.workers[0].name.as_str()), (Span::seconds(2), "orders"));
}

#[test]
fn empty_sections_and_documents_mean_the_defaults() {
    assert_eq!(load_text("", &[], &[]).unwrap(), Config::default());
    assert_eq!(load_text("api:\nworkers:\nlimits: ~\n", &[], &[]).unwrap(), Config::default());
}

#[test]
fn every_mistake_names_key_and_place_and_mend() {
    let worker = |line: &str| format!("{WORKER}  {line}\n");
    let cases: Vec<(String, &[&str])> = vec![
        ("prot: 1".into(), &["`prot` (", "c.yaml:1)", "known are"]),
        ("api:\n  prot: 1".into(), &["`api.prot` (", "c.yaml:2)", "did you mean `api.port`?"]),
        ("api:\n  port: 70000".into(), &["`api.port` (", ":2)", "`70000`", "from 0 to 65535"]),
        ("api:\n  port:".into(), &["`api.port`", "has no value"]),
        ("api:\n  port: [1]".into(), &["`api.port`", "is a list"]),
        ("api:\n  enabled: yes".into(), &["`api.enabled`", "`yes`", "true or false"]),
        ("api:\n  enabled: false".into(), &["`api.enabled`", ":2)", "leave it true"]),
        ("api:\n  host: example.org".into(), &["`api.host`", "`example.org`", "127.0.0.1"]),
        ("api: 8085".into(), &["`api`", ":1)", "section"]),
        ("fleet:\n  enabled: true".into(), &["`fleet.enabled`", "`fleet`", "does not have"]),
        ("metrics:\n  port: 8085".into(), &["`metrics.port`", "`8085`", "own port"]),
        ("drain: 30".into(), &["`drain`", "`30`", "30s"]),
        ("drain: 2h".into(), &["`drain`", "`2h`", "from 0s to 1h"]),
        ("log_level: verbose=loud=x".into(), &["`log_level`", "verbose"]),
        ("data_dir: ''".into(), &["`data_dir`", "is empty"]),
        ("limits:\n  body: 1MB".into(), &["`limits.body`", "`1MB`", "MiB"]),
        ("limits:\n  body: 100GiB".into(), &["`limits.body`", "`100GiB`", "the units are KiB and MiB"]),
        ("limits:\n  nesting: 0".into(), &["`limits.nesting`", "from 1 to"]),
        ("idempotency:\n  keep: 0s".into(), &["`idempotency.keep`", "from 1s"]),
        ("workers: 7".into(), &["`workers`", ":1)", "list"]),
        ("workers:\n- name: a\n  types: [a]".into(), &["`workers[0].url`", "is missing"]),
        (worker("timeot: 1s"), &["`workers[0].timeot`", ":5)", "did you mean `workers[0].timeout`?"]),
        ("limits:\n  connections: -1".into(), &["`limits.connections`", "`-1`", "from 16 to 1000000"]),
        ("limits:\n  batch_commands: all".into(), &["`limits.batch_commands`", "`all`", "from 1 to 65536"]),
        (worker("concurrency: -3"), &["`workers[0].concurrency` (", ":5)", "`-3`", "from 1 to 4096"]),
        (worker("concurrency: [3]"), &["`workers[0].concurrency` (", "is a list; write a single value"]),
        (worker("attempts: 10001"), &["`workers[0].attempts` (", "`10001`", "from 1 to 10000"]),
        (worker("concurrency: 0"), &["`workers[0].concurrency` (", ":5)", "`0`", "from 1 to"]),
        (worker("from: middle"), &["`workers[0].from`", "`middle`", "beginning or end"]),
        (worker("probe: h:80"), &["`workers[0].probe`", ":5)", "http://"]),
        (worker("backoff: {first: 2s, max: 1s}"), &["`workers[0].backoff.first`", "`2s`", "to 1s"]),
        (worker("headers: {Content-Type: x}"), &["`workers[0].headers.Content-Type`", "itself"]),
        (worker("headers: hunter2"), &["`workers[0].headers`", "is not a section"]),
        (worker("secret: hunter2"), &["`workers[0].secret`", "whsec_"]),
        (worker("secret: '***'"), &["`workers[0].secret`", ":5)", "`config print` masks", "the real one"]),
        (
            worker("headers: {x-key: '***'}"),
            &["`workers[0].headers.x-key`", "`config print` masks", "real one"],
        ),
        (
            format!("{WORKER}- name: orders\n  types: [a]\n  url: http://h/\n"),
            &["`workers[1].name`", ":5)", "own name"],
        ),
        ("workers:\n- name: a b\n  types: [a]\n  url: http://h/".into(), &["`workers[0].name`", "`a b`"]),
        ("workers:\n- name: a\n  types: []\n  url: http://h/".into(), &["`workers[0].types`"]),
        (
            "workers:\n- name: a\n  types: ['*a']\n  url: http://h/".into(),
            &["`workers[0].types[0]`", "pattern"],
        ),
        (
            format!("{WORKER}- name: mail\n  types: [a]\n  url: http://h/\n  url: http://i/\n"),
            &["`workers[1].url` (", "c.yaml:8)", "given twice"],
        ),
        (worker("name: again"), &["`workers[0].name` (", ":5)", "given twice"]),
        (worker("probe: *h"), &["`workers[0].probe` (", ":5)", "alias"]),
        ("- a".into(), &["is not a section"]),
        ("a: [".into(), &["is not YAML", "c.yaml:"]),
    ];
    for (yaml, parts) in cases {
        let error = load_text(&yaml, &[], &[]).expect_err(&yaml).to_string();
        for part in parts {
            assert!(error.contains(part), "{yaml:?} gave {error:?}, which lacks {part:?}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// A worker on a broker, with one more line.
fn on_broker(source: &str, line: &str) -> String {
    format!("workers:\n- name: a\n  url: http://h/\n  source: {source}\n  {line}\n")
}

const MQ: &str = "amqp://u:hunter2@mq";
const NATS: &str = "nats://u:hunter2@mq";
const SIDEKIQ: &str = "sidekiq+redis://:hunter2@cache/0?queue=a";

#[test]
fn what_a_broker_cannot_have_or_has_no_use_for_is_told_from_the_file_alone() {
    let bind = |binding: &str| format!("queue: q\n  bindings: [{binding}]");
    let cases: &[(&str, &str, &[&str])] = &[
        (MQ, "prefetch: 1", &["`workers[0].queue` (", ":2)", "is missing", "amqp://u:***@mq"]),
        (MQ, &format!("queue: {}", "q".repeat(201)), &["`workers[0].queue` (", ":5)", "1 to 200 bytes"]),
        (MQ, "queue: q\n  queue_type: lazy", &["`workers[0].queue_type` (", "write classic or quorum"]),
        (MQ, "queue: q\n  from: end", &["`workers[0].from` (", ":6)", "a place in the log", "remove it"]),
        (MQ, "queue: q\n  types: [a]", &["`workers[0].types` (", ":6)", "every message of its queue"]),
        (MQ, "queue: q\n  bindings: {exchange: shop}", &["`workers[0].bindings` (", "is a section", "list"]),
        (MQ, &bind("{exchange: s}"), &["`workers[0].bindings[0].key` (", ":6)", "is missing", "orders.*"]),
        (MQ, &bind("{exchange: s, type: direct}"), &["`workers[0].bindings[0].key` (", "is missing"]),
        (MQ, &bind("{exchange: s, type: fanout, key: k}"), &["bindings[0].key` (", "fanout", "remove it"]),
        (MQ, &bind("{exchange: '', key: k}"), &["`workers[0].bindings[0].exchange` (", "is empty"]),
        (MQ, &bind(&format!("{{exchange: s, key: {}}}", "k".repeat(256))), &["bindings[0].key` (", "255"]),
        (NATS, "queue: a.b", &["`workers[0].queue` (", ":5)", "a stream's name", "without spaces"]),
        (
            NATS,
            &bind("{exchange: s, key: k}"),
            &["`workers[0].bindings` (", ":6)", "no exchanges", "subjects"],
        ),
        (NATS, "queue: q\n  queue_type: quorum", &["`workers[0].queue_type` (", "RabbitMQ", "remove it"]),
        (NATS, "queue: q\n  id: content", &["`workers[0].id` (", ":6)", "Nats-Msg-Id", "remove it"]),
        (NATS, "queue: q\n  ack_timeout: 1h", &["`workers[0].ack_timeout` (", "RabbitMQ's", "remove it"]),
        (NATS, "queue: q\n  from: beginning", &["`workers[0].from` (", ":6)"]),
        (SIDEKIQ, "queue: b", &["`workers[0].queue` (", ":5)", "`b`", "`a`", "name it once"]),
        (SIDEKIQ, "bindings: [{exchange: s, key: k}]", &["`workers[0].bindings` (", "no exchanges"]),
        (SIDEKIQ, "queue_type: classic", &["`workers[0].queue_type` (", "RabbitMQ"]),
        (SIDEKIQ, "ack_timeout: 1h", &["`workers[0].ack_timeout` (", "RabbitMQ's"]),
        ("sidekiq+redis://cache", "queue: a b", &["`workers[0].queue` (", "a b", "without spaces"]),
        ("redis://cache", "queue: a", &["`workers[0].source` (", ":4)", "`sidekiq+`"]),
    ];
    for (source, lines, parts) in cases {
        let error = load_text(&on_broker(source, lines), &[], &[]).expect_err(lines).to_string();
        for part in *parts {
            assert!(error.contains(part), "{source} {lines:?} gave {error:?}, which lacks {part:?}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_keys_of_brokers_are_refused_without_one_before_anything_else_is_missed() {
    for line in [
        "queue: q",
        "queue_type: quorum",
        "create: true",
        "bindings: [{exchange: s, key: k}]",
        "prefetch: auto",
        "id: publisher",
        "ack_timeout: 30m",
        "long: true",
    ] {
        let text = format!("workers:\n- name: a\n  url: http://h/\n  {line}\n");
        let error = load_text(&text, &[], &[]).expect_err(line).to_string();
        let key = line.split(':').next().unwrap();
        assert!(error.contains(&format!("`workers[0].{key}` (")) && error.contains(":4)"), "{error}");
        assert!(error.contains("add `source:`"), "{error}");
    }
}

#[test]
fn what_has_an_effect_is_taken_and_printed_and_nothing_else_is() {
    for (source, lines, printed) in [
        (MQ, "queue: q\n  queue_type: quorum\n  create: false\n  id: content\n  ack_timeout: 1h", "1h"),
        (MQ, "queue: q\n  bindings: [{exchange: s, type: fanout}, {exchange: s, key: ''}]", "30m"),
        (NATS, "queue: q\n  create: false\n  prefetch: 7\n  long: true", "null"),
        (SIDEKIQ, "queue: a\n  id: content\n  prefetch: 7\n  create: false\n  long: true", "null"),
    ] {
        let config = load_text(
            &on_broker(&source.replace("u:hunter2@", "").replace(":hunter2@", ""), lines),
            &[],
            &[],
        )
        .unwrap();
        let json = serde_json::to_value(&config).unwrap();
        let ack_timeout = json["workers"][0]["ack_timeout"].as_str().unwrap_or("null");
        assert_eq!((ack_timeout, json["workers"][0]["from"].is_null()), (printed, true), "{lines}");
        assert_eq!(load_text(&json.to_string(), &[], &[]).unwrap(), config, "what is printed is read again");
    }
    let config = serde_json::to_value(load_text(WORKER, &[], &[]).unwrap()).unwrap();
    assert_eq!(
        (config["workers"][0]["from"].as_str(), config["workers"][0]["prefetch"].as_str()),
        (Some("end"), None)
    );
}

#[test]
fn a_wrong_variable_is_named_by_its_own_name() {
    let message = |name: &str, value: &str| load_text("", &[(name, value)], &[]).unwrap_err().to_string();
    assert!(message("OUTBOARD_API__PROT", "1").contains("OUTBOARD_API__PROT"));
    assert!(message("OUTBOARD_API__PROT", "1").contains("did you mean `OUTBOARD_API__PORT`?"));
    assert!(message("OUTBOARD_APU__PORT", "1").contains("(OUTBOARD_APU__PORT)"));
    for (name, meant) in [
        ("OUTBOARD_API_PORT", "OUTBOARD_API__PORT"),
        ("OUTBOARD_APU__PORT", "OUTBOARD_API__PORT"),
        ("OUTBOARD_METRICS_ENABLED", "OUTBOARD_METRICS__ENABLED"),
        ("OUTBOARD_DATA__DIR", "OUTBOARD_DATA_DIR"),
        ("OUTBOARD_LOGLEVEL", "OUTBOARD_LOG_LEVEL"),
        ("OUTBOARD_WORKERS_0_URL", "OUTBOARD_WORKERS__0__URL"),
        ("OUTBOARD_WORKERS__0__BACKOFF_FIRST", "OUTBOARD_WORKERS__0__BACKOFF__FIRST"),
        ("OUTBOARD_WORKERS__0__TIMEOT", "OUTBOARD_WORKERS__0__TIMEOUT"),
    ] {
        let told = message(name, "1");
        assert!(told.contains(&format!("did you mean `{meant}`?")), "{name}: {told}");
    }
    let told = message("OUTBOARD_QQQ", "1");
    assert!(told.contains("known are OUTBOARD_DATA_DIR, OUTBOARD_HOST, "), "{told}");
    assert!(told.contains("OUTBOARD_API__…, "), "{told}");
    assert!(message("OUTBOARD_API__PORT", "x").contains("(OUTBOARD_API__PORT)"));
    assert!(message("OUTBOARD_WORKERS__1__NAME", "x").contains("without an entry 0"));
    assert!(message("OUTBOARD_API", "x").contains("is not a section"));
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let error = load(Some(Path::new("/nowhere/c.yaml")), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("/nowhere/c.yaml") && error.contains("cannot be read"), "{error}");
}

#[test]
fn what_is_printed_is_read_again_as_the_same_but_for_secrets() {
    let config = load_text(WORKER, &[], &[]).unwrap();
    let printed = serde_json::to_string(&config).unwrap();
    assert_eq!(load_text(&printed, &[], &[]).unwrap(), config, "JSON is YAML");
    let secret = format!("{WORKER}  headers: {{x-key: hunter2}}\n");
    let printed = serde_json::to_string(&load_text(&secret, &[], &[]).unwrap()).unwrap();
    assert!(!printed.contains("hunter2"));
}

#[test]
fn nobody_else_has_the_name_of_what_takes_in() {
    let long = "workers:\n- name: a\n  url: http://h/\n  source: amqp://mq\n  queue: q\n  long: true\n";
    assert!(load_text(long, &[], &[]).is_ok());
    let error = load_text(&format!("{long}- name: a.intake\n  types: [x]\n  url: http://h/\n"), &[], &[]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("workers[1].name") && error.contains("`long: true`"), "{error}");
}
