//! Aggregates as others make and read them: AWS's own Python code on one side, the commands on the other.

use std::process::Command;

use harness::kinesis::Server;
use harness::process::Workplace;
use harness::python;
use serde_json::{Value, json};

use crate::PROGRAM;

const EVENTS: u64 = 2_000;

/// Reads the whole stream and prints how many records it has and, of each event, key, payload and whether it came out
/// of an aggregate.
const READ: &str = r#"
import base64, boto3, json, os
from aws_kinesis_agg.deaggregator import iter_deaggregate_records
client = boto3.client("kinesis", endpoint_url=os.environ["AWS_ENDPOINT_URL_KINESIS"], region_name="us-east-1")
records = []
for shard in client.list_shards(StreamName="s")["Shards"]:
    at = client.get_shard_iterator(StreamName="s", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
    at = at["ShardIterator"]
    while True:
        answer = client.get_records(ShardIterator=at)
        if not answer["Records"]:
            break
        records += answer["Records"]
        at = answer["NextShardIterator"]
events = []
for event in iter_deaggregate_records(records, data_format="Boto3"):
    event = event["kinesis"]
    inside = event.get("aggregated", False)
    payload = base64.b64decode(event["data"]) if inside else event["data"]
    events.append([event["partitionKey"], payload.decode(), inside])
print(json.dumps({"records": len(records), "events": events}))
"#;

/// Puts aggregates of up to a hundred events, and one event as it is.
const WRITE: &str = r#"
import boto3, json, os, sys
from aws_kinesis_agg.aggregator import RecordAggregator
client = boto3.client("kinesis", endpoint_url=os.environ["AWS_ENDPOINT_URL_KINESIS"], region_name="us-east-1")
def put(key, hash_key, data):
    more = {"ExplicitHashKey": hash_key} if hash_key else {}
    client.put_record(StreamName="s", PartitionKey=key, Data=data, **more)
aggregator = RecordAggregator()
events = int(sys.argv[1])
for n in range(events):
    aggregator.add_user_record(f"key {n % 7}", json.dumps({"n": n}), str(n % 7 << 125))
    if n % 100 == 99 or n == events - 1:
        put(*aggregator.clear_and_get().get_contents())
put("plain", None, json.dumps({"n": events}))
"#;

fn python(server: &Server, script: &str, words: &[&str]) -> String {
    let python = python::with_packages(env!("CARGO_TARGET_TMPDIR"), "servers", &python::SERVERS);
    let mut command = Command::new(python);
    let output = command.args(["-c", script]).args(words).envs(server.environment()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn world() -> (Server, Workplace) {
    let server = Server::start_now();
    server.wait(server.create_stream("s", 2));
    let place = Workplace::new(PROGRAM).with_environment(server.environment());
    (server, place)
}

#[test]
fn another_implementation_reads_what_we_aggregate() {
    let (server, place) = world();
    let rows = (0..EVENTS).map(|n| format!("{n},key {}\n", n % 7)).collect::<String>();
    place.write("in.csv", format!("n,key\n{rows}"));
    place.ok(&["produce", "in.csv", "--to", "kinesis://s", "--key", "key", "--aggregate"]);
    let said: Value = serde_json::from_str(&python(&server, READ, &[])).unwrap();
    let records = said["records"].as_u64().unwrap();
    assert!(records * 10 <= EVENTS, "{records} records for {EVENTS} events");
    let mut numbers = Vec::new();
    for event in said["events"].as_array().unwrap() {
        let row: Value = serde_json::from_str(event[1].as_str().unwrap()).unwrap();
        assert_eq!(event[0], row["key"], "the key is the one the event was put with");
        numbers.push(row["n"].as_u64().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
}

#[test]
fn fm15_what_another_implementation_aggregates_is_read_once_also_when_a_cut_ends_in_the_middle() {
    let (server, place) = world();
    python(&server, WRITE, &[&EVENTS.to_string()]);
    // An epoch ends within nearly every aggregate, and each run goes on behind the last event of the one before.
    let words = ["consume", "--from", "kinesis://s", "--lake", "lake", "--table", "t", "--until-caught-up"];
    place.ok(&[&words[..], &["--flush-rows", "73"]].concat());
    let question = "SELECT count(*) AS n, count(DISTINCT n) AS d, sum(n) AS s, max(_sub_sequence) AS last, \
                    count(DISTINCT _sequence) AS records FROM t";
    let row = &place.rows(question, "lake")[0];
    let events = EVENTS + 1;
    let sum: u64 = (0..events).sum();
    assert_eq!(*row, json!({"n": events, "d": events, "s": sum, "last": 99, "records": EVENTS / 100 + 1}));
    place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    // Nothing new, nothing again.
    place.ok(&words);
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), events);
}
