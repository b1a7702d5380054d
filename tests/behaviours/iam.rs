//! The policies in `docs/aws/iam` allow what the commands call, and nothing else.
//!
//! Each command runs against servers that write down which operations were called, by whom it may be; and the sources
//! are searched for calls that no run made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use harness::kinesis::Server;
use harness::lake;
use harness::moto::Moto;
use harness::process::{Running, Workplace};
use serde_json::Value;

use crate::PROGRAM;

const ROWS: u64 = 2_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace").to_owned()
}

/// Returns the actions of a policy, such as `kinesis:PutRecords`.
fn policy(name: &str) -> BTreeSet<String> {
    let path = root().join(format!("docs/aws/iam/{name}.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let policy: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17", "{name}");
    let mut actions = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow", "{name}");
        let resource = statement["Resource"].as_str().unwrap();
        assert!(resource.starts_with("arn:aws:") && !resource.starts_with("arn:aws:*"), "{name}: {resource}");
        for action in statement["Action"].as_array().unwrap() {
            let action = action.as_str().unwrap().to_owned();
            assert!(!action.contains('*'), "{name}: {action} says more than it must");
            assert!(resource.contains(action.split_once(':').unwrap().0), "{name}: {action} on {resource}");
            assert!(actions.insert(action), "{name} says something twice");
        }
    }
    actions
}

fn policies(names: &[&str]) -> BTreeSet<String> {
    names.iter().flat_map(|name| policy(name)).collect()
}

/// A stream of two shards, servers that count for this test alone, and input.
struct World {
    server: Server,
    moto: Moto,
    place: Workplace,
}

impl World {
    fn new() -> Self {
        let server = Server::start_now();
        let moto = Moto::start(env!("CARGO_TARGET_TMPDIR"));
        let place = Workplace::new(PROGRAM).with_environment(server.environment()).with_environment(moto.environment());
        let rows: String = (0..ROWS).map(|n| format!("{n}\n")).collect();
        place.write("in.csv", format!("n\n{rows}"));
        server.wait(server.create_stream("orders", 2));
        Self { server, moto, place }
    }

    fn produce(&self) {
        self.place.ok(&["produce", "in.csv", "--to", "kinesis://orders"]);
    }

    fn consume(&self, more: &[&str]) {
        let words = ["consume", "--from", "kinesis://orders", "--lake", "lake", "--table", "t", "--until-caught-up"];
        self.place.ok(&[&words[..], more].concat());
    }

    /// Consumes as one of several workers, until the table has so many rows.
    fn share(&self, more: &[&str], rows: u64) {
        let words =
            ["consume", "--from", "kinesis://orders", "--lake", "lake", "--table", "t", "--flush-idle", "100ms"];
        let leases = ["--lease-table", "leases", "--lease-duration", "2s"];
        let worker = Running::start(self.place.command(&[&words[..], &leases, more].concat()));
        self.server.wait(lake::until_rows(&self.place.path("lake"), "t", rows));
        worker.signal("TERM");
        worker.succeed();
    }

    /// Returns what the commands of `run` called.
    fn called_by(&self, run: impl FnOnce(&Self)) -> BTreeSet<String> {
        self.server.forget_calls();
        let before = self.moto.calls();
        run(self);
        let mut called: BTreeSet<String> =
            self.server.calls().into_keys().map(|operation| format!("kinesis:{operation}")).collect();
        for (operation, calls) in self.moto.calls() {
            if before.get(&operation) != Some(&calls) {
                called.insert(format!("dynamodb:{operation}"));
            }
        }
        called
    }
}

#[test]
fn produce_calls_what_its_policy_allows() {
    let world = World::new();
    let called = world.called_by(|world| {
        world.produce();
        world.place.ok(&["produce", "in.csv", "--to", "kinesis://orders", "--aggregate"]);
    });
    assert_eq!(called, policy("produce"));
    let called = world.called_by(|world| {
        world.place.ok(&["produce", "in.csv", "--to", "kinesis://made", "--create", "--shards", "3"]);
    });
    assert_eq!(called, policies(&["produce", "produce-create"]));
}

#[test]
fn consume_calls_what_its_policy_allows() {
    let world = World::new();
    world.produce();
    let called = world.called_by(|world| {
        world.consume(&[]);
        world.consume(&[]);
    });
    assert_eq!(called, policy("consume"));
}

#[test]
fn consume_with_fan_out_calls_what_its_policy_allows() {
    let world = World::new();
    world.produce();
    let called = world.called_by(|world| {
        // The first registers the consumer, the second finds it.
        world.consume(&["--fan-out", "reader"]);
        world.consume(&["--fan-out", "reader"]);
    });
    assert_eq!(called, policy("consume-fan-out"));
}

#[test]
fn leases_call_what_their_policy_allows() {
    let world = World::new();
    world.produce();
    let called = world.called_by(|world| {
        world.share(&["--lanes", "2", "--create-lease-table"], ROWS);
        // Other lanes: the rows of those that are closed go.
        world.produce();
        world.share(&["--lanes", "3"], 2 * ROWS);
    });
    assert_eq!(called, policies(&["consume", "consume-leases", "consume-leases-create", "produce"]));
}

#[test]
fn status_calls_what_its_policy_allows() {
    let world = World::new();
    world.produce();
    world.share(&["--create-lease-table"], ROWS);
    let called = world.called_by(|world| {
        world.place.ok(&["status", "--from", "kinesis://orders", "--lake", "lake", "--lease-table", "leases"]);
    });
    assert_eq!(called, policy("status"));
}

#[test]
fn no_source_calls_what_no_policy_allows() {
    let all = [
        "produce",
        "produce-create",
        "consume",
        "consume-fan-out",
        "consume-leases",
        "consume-leases-create",
        "status",
    ];
    let mut called = BTreeSet::new();
    for folder in ["stream/src", "producer/src", "consumer/src", "lake/src", "replay/src", "src"] {
        calls_in(&root().join(folder), &mut called);
    }
    assert_eq!(called, policies(&all));
}

/// Adds what the sources below a folder call: what is asked of a `client` without saying anything yet.
fn calls_in(folder: &Path, called: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                calls_in(&path, called);
            }
            continue;
        }
        if path.ends_with("tests.rs") || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let service = if product.contains("aws_sdk_dynamodb") { "dynamodb" } else { "kinesis" };
        if product.contains("aws_sdk_") {
            let dense: String = product.split_whitespace().collect();
            let asked = dense.split("client.").skip(1).filter_map(|rest| rest.split_once("()").map(|(name, _)| name));
            let operations = asked.filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            let operations = operations.filter(|name| !matches!(*name, "clone" | "config"));
            called.extend(operations.map(|name| format!("{service}:{}", operation(name))));
        }
    }
}

/// Returns the name of an operation as the service has it: `PutRecords` for `put_records`.
fn operation(name: &str) -> String {
    let capitalized = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(capitalized).collect()
}
