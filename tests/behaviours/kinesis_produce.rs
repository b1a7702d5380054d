//! What goes into a Kinesis data stream, through the real command and against a real server's interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use harness::kinesis::{Server, Stored, environment_of, quick};
use harness::process::Workplace;
use headwater_common::clock::{Clock, SystemClock};
use headwater_stream::kinesis::{hash, kpl};
use serde_json::{Value, json};

use crate::PROGRAM;

fn world(shards: i32) -> (Server, Workplace) {
    let server = Server::start_now();
    server.wait(server.create_stream("orders", shards));
    let place = Workplace::new(PROGRAM).with_environment(server.environment());
    (server, place)
}

fn stored(server: &Server) -> Vec<Stored> {
    server.wait(server.read_all("orders"))
}

/// Returns the events of a record, each with its key.
fn events(record: &Stored) -> Vec<(String, Value)> {
    let payload = Bytes::copy_from_slice(&record.payload);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let row = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    match kpl::split(&payload) {
        Ok(users) => users.iter().map(|user| (text(&user.partition_key), row(&user.payload))).collect(),
        Err(_) => vec![(record.key.clone(), row(&payload))],
    }
}

fn numbers(rows: u64) -> String {
    (0..rows).map(|n| format!("{{\"n\":{n},\"key\":\"k{}\"}}\n", n % 7)).collect()
}

#[test]
fn every_row_is_a_record_under_its_event_id_and_the_report_says_what_that_costs() {
    let (server, place) = world(2);
    place.write("in.ndjson", numbers(1000));
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("sent 1000 rows") && said.err.contains("to kinesis://orders"), "{}", said.err);
    assert!(said.err.contains("1000 records, 1000 payload units; 0 records throttled"), "{}", said.err);
    let estimate = "estimated price, as one record each: 0.000014 USD; with --aggregate: 0.000000 USD (1 calls, ";
    assert!(said.err.contains(estimate) && said.err.contains("not a quote"), "{}", said.err);
    assert!(said.err.contains("the stream itself costs 0.030 USD an hour"), "{}", said.err);
    let records = stored(&server);
    assert_eq!(records.len(), 1000);
    for record in &records {
        let row: Value = serde_json::from_slice(&record.payload).unwrap();
        assert_eq!(row["_event_id"], record.key);
    }
    assert!(server.calls()["PutRecords"] <= 4, "{:?}", server.calls());
}

#[test]
fn aggregates_lie_in_the_shards_of_their_events_and_hold_each_once() {
    let (server, place) = world(4);
    place.write("in.ndjson", numbers(20_000));
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders", "--aggregate"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let records = stored(&server);
    assert!(records.len() < 100, "{} records", records.len());
    assert!(said.err.contains(&format!("{} records", records.len())), "{}", said.err);
    assert!(said.err.contains("as one record each: 0.000280 USD (40 calls, 20000 records"), "{}", said.err);
    let open = server.wait(server.open_shards("orders"));
    let mut found = Vec::new();
    for record in &records {
        assert!(record.payload.len() <= 51_200, "{}", record.payload.len());
        let shard = open.iter().find(|shard| shard.shard_id() == record.shard).unwrap();
        let range = shard.hash_key_range().unwrap();
        let range: (u128, u128) =
            (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap());
        for (key, row) in events(record) {
            assert_eq!(row["_event_id"], key);
            assert!((range.0..=range.1).contains(&hash::of_partition_key(key.as_bytes())), "{key} is elsewhere");
            found.push(row["n"].as_u64().unwrap());
        }
    }
    found.sort_unstable();
    assert_eq!(found, (0..20_000).collect::<Vec<_>>());
}

#[test]
fn fm17_events_of_a_key_keep_their_order() {
    for more in [&[][..], &["--aggregate"], &["--aggregate", "--aggregate-bytes", "2KiB"]] {
        let (server, place) = world(3);
        place.write("in.ndjson", numbers(1500));
        place.ok(&[&["produce", "in.ndjson", "--to", "kinesis://orders", "--key", "key"][..], more].concat());
        let mut of_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in stored(&server) {
            for (key, row) in events(&record) {
                assert_eq!(row["key"], key);
                of_key.entry(key).or_default().push(row["n"].as_u64().unwrap());
            }
        }
        assert_eq!(of_key.values().map(Vec::len).sum::<usize>(), 1500);
        for (key, numbers) in of_key {
            assert!(numbers.is_sorted(), "{more:?}: {key}: {numbers:?}");
        }
    }
}

#[test]
fn without_order_few_keys_are_no_hindrance() {
    let (server, place) = world(1);
    place.write("in.ndjson", numbers(900));
    place.ok(&["produce", "in.ndjson", "--to", "kinesis://orders", "--key", "key", "--unordered"]);
    assert_eq!(stored(&server).len(), 900);
    assert!(server.calls()["PutRecords"] <= 3, "{:?}", server.calls());
}

#[test]
fn fm16_a_shard_that_throttles_gets_everything_at_last() {
    let server = Server::start_now_with(ferrokinesis::store::StoreOptions { enforce_limits: true, ..quick() });
    server.wait(server.create_stream("orders", 1));
    let place = Workplace::new(PROGRAM).with_environment(server.environment());
    place.write("in.ndjson", numbers(3000));
    // Without our own pace the server says no, record by record.
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders", "--unpaced"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!said.err.contains("; 0 records throttled"), "{}", said.err);
    let mut found: Vec<u64> =
        stored(&server).iter().flat_map(events).map(|(_, row)| row["n"].as_u64().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..3000).collect::<Vec<_>>());
}

#[test]
fn a_shard_whose_pace_is_kept_hardly_throttles() {
    let server = Server::start_now_with(ferrokinesis::store::StoreOptions { enforce_limits: true, ..quick() });
    server.wait(server.create_stream("orders", 2));
    let place = Workplace::new(PROGRAM).with_environment(server.environment());
    place.write("in.ndjson", numbers(5000));
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(stored(&server).len(), 5000);
    let line = said.err.lines().find(|line| line.contains("records throttled")).unwrap();
    let throttled = line.split("; ").nth(1).and_then(|text| text.split(' ').next()).unwrap();
    assert!(throttled.parse::<u64>().unwrap() < 1500, "{line}");
}

#[test]
fn a_row_that_the_stream_does_not_take_goes_to_the_reject_file_with_its_place() {
    let (server, place) = world(1);
    let large = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(1 << 20));
    place.write("in.ndjson", format!("{{\"n\":0}}\n{large}\nno json\n{{\"n\":2}}\n"));
    let words = ["produce", "in.ndjson", "--to", "kinesis://orders"];
    let said = place.run(&words);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in ["sent 2 rows", "1 bad rows are in", "1 rows that the stream did not take are in"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let rejects = std::fs::read_to_string(place.path("headwater-rejects.ndjson")).unwrap();
    let rejects: Vec<Value> = rejects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rejects.len(), 2);
    let refused = rejects.iter().find(|reject| reject["line"] == 2).unwrap();
    assert_eq!((&refused["file"], &refused["byte"]), (&json!("in.ndjson"), &json!(8)));
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("the stream did not take it") && reason.contains("takes 1048576"), "{reason}");
    assert!(refused["raw"].as_str().unwrap().starts_with("{\"_event_id\":"));
    // It is done with: a run that goes on does not try it again.
    place.ok(&[&words[..], &["--resume"]].concat());
    assert_eq!(stored(&server).len(), 2);
}

#[test]
fn a_run_goes_on_where_it_was_and_not_into_another_stream_of_the_same_name() {
    let (server, place) = world(2);
    place.write("in.ndjson", numbers(300));
    let words = ["produce", "in.ndjson", "--to", "kinesis://orders"];
    place.ok(&[&words[..], &["--limit", "100"]].concat());
    place.ok(&[&words[..], &["--resume"]].concat());
    assert_eq!(stored(&server).len(), 300);
    // Another of the same name tells itself by when it was made, in whole seconds on this server.
    let other = Server::start_now();
    let second = || SystemClock.now().micros() / 1_000_000;
    let before = second();
    while second() == before {
        std::thread::yield_now();
    }
    other.wait(other.create_stream("orders", 2));
    let elsewhere = place.with_environment(other.environment());
    let said = elsewhere.run(&[&words[..], &["--resume"]].concat());
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("is of a run to another stream"), "{}", said.err);
}

#[test]
fn a_stream_is_made_when_that_is_asked_for_and_one_that_is_there_must_fit() {
    let server = Server::start_now();
    let place = Workplace::new(PROGRAM).with_environment(server.environment());
    place.write("in.ndjson", numbers(10));
    let words = ["produce", "in.ndjson", "--to", "kinesis://orders"];
    let said = place.run(&words);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("there is no stream kinesis://orders") && said.err.contains("--create"), "{}", said.err);
    let create = |shards: &str| place.run(&[&words[..], &["--create", "--shards", shards]].concat());
    let said = create("3");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("made kinesis://orders with 3 shards"), "{}", said.err);
    assert_eq!(server.wait(server.open_shards("orders")).len(), 3);
    let said = create("3");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("kinesis://orders is there, with 3 shards"), "{}", said.err);
    let said = create("4");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("has 3 shards, not 4 shards"), "{}", said.err);
    assert_eq!(stored(&server).len(), 20);
}

#[test]
fn what_makes_no_sense_for_a_stream_is_refused_before_anything_is_made() {
    let place = Workplace::new(PROGRAM);
    place.write("in.ndjson", numbers(1));
    let refused = |words: &[&str], part: &str| {
        let said = place.run(&[&["produce", "in.ndjson", "--to"][..], words].concat());
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.err);
        assert!(said.err.contains(part), "{words:?}: {}", said.err);
    };
    refused(&["log:stream", "--aggregate"], "--aggregate is for Kinesis");
    refused(&["log:stream", "--unordered"], "--unordered is for Kinesis");
    refused(&["log:stream", "--create"], "--create is for Kinesis");
    refused(&["log:stream", "--shards", "on-demand"], "--shards on-demand is for Kinesis");
    refused(&["log:stream", "--shards", "1001"], "1000 shards at most");
    refused(&["log:stream", "--shards", "0"], "a number from 1, or on-demand");
    refused(&["kinesis://s", "--retention", "1d"], "--retention is for a log");
    refused(&["kinesis://s", "--create"], "--create needs --shards");
    refused(&["kinesis://s", "--shards", "2"], "add --create");
    refused(&["kinesis://s", "--aggregate-bytes", "20KiB"], "--aggregate-bytes needs --aggregate");
    refused(&["kinesis://s", "--speedup", "2"], "--speedup needs --time-field");
    assert!(!place.path("stream").exists());
}

/// A service that says what it is told, where no server models it.
struct Pretended {
    address: SocketAddr,
    calls: Calls,
    _runtime: tokio::runtime::Runtime,
}

type Calls = Arc<Mutex<Vec<(String, Value)>>>;

#[derive(Clone)]
struct Speaker {
    calls: Calls,
    says: fn(operation: &str, calls_before: usize) -> (u16, Value),
}

impl Pretended {
    fn start(says: fn(operation: &str, calls_before: usize) -> (u16, Value)) -> Self {
        let calls = Calls::default();
        let speaker = Speaker { calls: Arc::clone(&calls), says };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(speaker);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, calls, _runtime: runtime }
    }

    fn workplace(&self) -> Workplace {
        let endpoint = format!("http://{}", self.address);
        Workplace::new(PROGRAM).with_environment(environment_of("AWS_ENDPOINT_URL_KINESIS", endpoint))
    }

    fn calls(&self, operation: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(name, _)| name == operation).map(|(_, body)| body.clone()).collect()
    }
}

async fn answer(State(speaker): State<Speaker>, request: Request) -> Response {
    let target = request.headers()["x-amz-target"].to_str().unwrap().to_owned();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    let body = to_bytes(request.into_body(), 16 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    let before = {
        let mut calls = speaker.calls.lock().unwrap();
        let before = calls.iter().filter(|(name, _)| *name == operation).count();
        calls.push((operation.clone(), body));
        before
    };
    let (status, said) = (speaker.says)(&operation, before);
    let response = Response::builder().status(status).header("content-type", "application/x-amz-json-1.1");
    response.body(Body::from(said.to_string())).unwrap()
}

fn summary(status: &str, mode: &str) -> Value {
    json!({"StreamDescriptionSummary": {
        "StreamName": "orders", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
        "StreamStatus": status, "StreamModeDetails": {"StreamMode": mode}, "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_000, "EnhancedMonitoring": [], "OpenShardCount": 1,
    }})
}

fn shards() -> Value {
    json!({"Shards": [{
        "ShardId": "shardId-000000000000", "SequenceNumberRange": {"StartingSequenceNumber": "1"},
        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": u128::MAX.to_string()},
    }]})
}

fn all_stored(records: usize) -> Value {
    let record = |n: usize| json!({"ShardId": "shardId-000000000000", "SequenceNumber": (n + 2).to_string()});
    json!({"FailedRecordCount": 0, "Records": (0..records).map(record).collect::<Vec<_>>()})
}

#[test]
fn an_on_demand_stream_is_made_and_waited_for_and_billed_by_bytes() {
    let service = Pretended::start(|operation, before| match (operation, before) {
        ("DescribeStreamSummary", 0) => (400, json!({"__type": "ResourceNotFoundException", "message": "none"})),
        ("DescribeStreamSummary", 1) => (200, summary("CREATING", "ON_DEMAND")),
        ("DescribeStreamSummary", _) => (200, summary("ACTIVE", "ON_DEMAND")),
        ("CreateStream", _) => (200, json!({})),
        ("ListShards", _) => (200, shards()),
        ("PutRecords", _) => (200, all_stored(3)),
        _ => (400, json!({"__type": "InvalidArgumentException", "message": operation})),
    });
    let place = service.workplace();
    place.write("in.ndjson", numbers(3));
    let words = ["produce", "in.ndjson", "--to", "kinesis://orders", "--create", "--shards", "on-demand"];
    let said = place.run(&words);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("made kinesis://orders with on-demand capacity"), "{}", said.err);
    assert!(said.err.contains("1 calls, 3 records, 3KiB as billed"), "{}", said.err);
    let made = service.calls("CreateStream");
    assert_eq!(made, [json!({"StreamName": "orders", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}})]);
    let put = &service.calls("PutRecords")[0];
    assert_eq!(put["Records"].as_array().unwrap().len(), 3);
}

#[test]
fn fm16_a_record_that_is_always_refused_is_rejected_with_the_last_reason() {
    // The first of the three never gets in.
    let service = Pretended::start(|operation, before| match (operation, before) {
        ("DescribeStreamSummary", _) => (200, summary("ACTIVE", "PROVISIONED")),
        ("ListShards", _) => (200, shards()),
        ("PutRecords", before) => {
            let refused = json!({"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"});
            let mut said = all_stored(if before == 0 { 3 } else { 1 });
            said["Records"][0] = refused;
            said["FailedRecordCount"] = json!(1);
            (200, said)
        }
        _ => (400, json!({"__type": "InvalidArgumentException", "message": operation})),
    });
    let place = service.workplace();
    place.write("in.ndjson", numbers(3));
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("sent 2 rows") && said.err.contains("1 rows that the stream did not"), "{}", said.err);
    let calls = service.calls("PutRecords");
    let sizes: Vec<usize> = calls.iter().map(|call| call["Records"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [&[3][..], &[1; 11]].concat(), "only the one that failed is sent again");
    assert!(calls.iter().all(|call| call["Records"][0] == calls[0]["Records"][0]));
    let reject = std::fs::read_to_string(place.path("headwater-rejects.ndjson")).unwrap();
    let reject: Value = serde_json::from_str(&reject).unwrap();
    let reason = "the stream did not take it: refused 12 times, at last with InternalFailure: Internal Service Failure";
    assert_eq!((&reject["line"], &reject["reason"]), (&json!(1), &json!(reason)));
}

#[test]
fn what_the_user_must_mend_ends_the_run_at_once() {
    let service = Pretended::start(|operation, _| match operation {
        "DescribeStreamSummary" => (200, summary("ACTIVE", "PROVISIONED")),
        "ListShards" => (200, shards()),
        _ => (400, json!({"__type": "AccessDeniedException", "message": "no identity-based policy allows it"})),
    });
    let place = service.workplace();
    place.write("in.ndjson", numbers(3));
    let said = place.run(&["produce", "in.ndjson", "--to", "kinesis://orders"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("the credentials need the permission kinesis:PutRecords"), "{}", said.err);
    assert!(said.err.contains("0 rows of this run are there"), "{}", said.err);
    assert_eq!(service.calls("PutRecords").len(), 1);
    assert!(!place.path("headwater-rejects.ndjson").exists(), "nothing was refused row by row");
}
