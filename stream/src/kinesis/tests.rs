//! Reading, against answers made by hand: what the servers that tests can start do not do.

mod service;

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_types::base64;
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::service::{Answer, Service, shard};
use super::limits::GET_RECORDS_BYTES_MAX;
use super::reader::{ShardReader, Step};
use super::service_clock::ServiceClock;
use super::stream::Stream;
use super::{KinesisSource, SourceOptions};
use crate::{Error, Read, Source, StartAt};

/// The time of all of these tests.
const NOW: Timestamp = Timestamp::from_micros(1_700_003_600_700_000);

/// How long a reader pauses after a read without events.
const PAUSE: Duration = Duration::from_millis(2);

/// When a test has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn said(value: Value) -> Option<Answer> {
    Some(Answer::Said(value))
}

/// A record that arrived so many seconds before now.
fn record(sequence: u64, payload: &str, seconds_ago: i64) -> Value {
    json!({
        "SequenceNumber": sequence.to_string(),
        "ApproximateArrivalTimestamp": NOW.micros() / 1_000_000 - seconds_ago,
        "Data": base64::encode(payload),
        "PartitionKey": "k",
    })
}

/// An answer with records that is the newest there is, and goes on.
fn tip(records: &[Value]) -> Option<Answer> {
    said(json!({"Records": records, "MillisBehindLatest": 0, "NextShardIterator": "on"}))
}

async fn open(service: &Service) -> KinesisSource {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    KinesisSource::open(service.client(), "s", clock, SourceOptions::default()).await.expect("it opens")
}

/// Reads until a read is what is waited for.
async fn read_until(
    source: &KinesisSource,
    shard: &str,
    after: &str,
    wanted: impl Fn(&Read) -> bool,
) -> Result<Read, Error> {
    let (shard, after) = (ShardId::from(shard), after.parse().expect("a position"));
    let reading = async {
        loop {
            match source.read(&shard, after, 1 << 20).await {
                Ok(read) if !wanted(&read) => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it comes")
}

fn payloads(read: &Read) -> Vec<String> {
    read.events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
}

fn has_events(read: &Read) -> bool {
    !read.events.is_empty()
}

#[tokio::test]
async fn a_stream_is_known_by_its_arn_and_its_creation() {
    let source = open(&Service::new(|_, _| None)).await;
    let identity = "arn:aws:kinesis:us-east-1:123456789012:stream/s@1700000000500";
    assert_eq!(source.identity().0, identity);
    assert_eq!((source.sequence_digits(), source.is_gap_free(), source.url()), (56, false, "kinesis://s".to_owned()));
}

#[tokio::test]
async fn a_stream_that_is_not_there_is_told_with_its_region_and_what_to_do() {
    let service = Service::new(|operation, _| {
        (operation == "DescribeStreamSummary").then_some(Answer::Refused("ResourceNotFoundException"))
    });
    let clock = Arc::new(ManualClock::at(NOW));
    let opened = KinesisSource::open(service.client(), "orders", clock, SourceOptions::default()).await;
    let text = opened.unwrap_err().to_string();
    for part in ["kinesis://orders", "there is no stream orders in us-east-1", "AWS_REGION", "--create --shards 1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn fm05_closed_shard_is_drained_and_ends_behind_its_last_event() {
    let service = Service::new(|operation, asked| match (operation, asked["ShardIterator"].as_str()) {
        // The end is near, but the children are named with the very last answer only.
        ("GetRecords", Some("begin")) => said(json!({
            "Records": [record(1, "a", 9)], "MillisBehindLatest": 5000, "NextShardIterator": "last",
        })),
        ("GetRecords", Some("last")) => said(json!({
            "Records": [record(2, "b", 5)], "MillisBehindLatest": 0,
            "ChildShards": [{"ShardId": "1", "ParentShards": ["0"]}, {"ShardId": "2", "ParentShards": ["0"]}],
        })),
        _ => None,
    });
    let source = open(&service).await;
    let first = read_until(&source, "0", "0:0", has_events).await.unwrap();
    assert_eq!((payloads(&first), first.ended), (vec!["a".to_owned()], false));
    assert_eq!(first.behind_latest, Duration::from_secs(5));
    let second = read_until(&source, "0", "1:0", has_events).await.unwrap();
    assert_eq!((payloads(&second), second.ended), (vec!["b".to_owned()], true));
    let last = read_until(&source, "0", "2:0", |_| true).await.unwrap();
    assert_eq!((payloads(&last), last.ended), (Vec::<String>::new(), true));
    assert_eq!(service.asked("GetRecords").len(), 2);
}

#[tokio::test]
async fn fm08_a_shard_at_its_end_is_never_asked_again() {
    let service = Service::new(|operation, _| {
        (operation == "GetRecords").then(|| Answer::Said(json!({"Records": [], "MillisBehindLatest": 0})))
    });
    let source = open(&service).await;
    read_until(&source, "0", "0:0", |read| read.ended).await.unwrap();
    for after in ["0:0", "SHARD_END", "SHARD_END"] {
        let read = read_until(&source, "0", after, |_| true).await.unwrap();
        assert!(read.ended && read.events.is_empty(), "{after}");
    }
    assert_eq!(service.asked("GetRecords").len(), 1);
    assert_eq!(service.asked("GetShardIterator").len(), 1);
}

#[tokio::test]
async fn fm10_an_expired_iterator_resumes_behind_the_last_event_and_never_at_latest() {
    let service = Service::new(|operation, asked| match (operation, asked["ShardIterator"].as_str()) {
        ("GetShardIterator", _) => match asked["ShardIteratorType"].as_str() {
            Some("TRIM_HORIZON") => said(json!({"ShardIterator": "oldest"})),
            Some("AT_SEQUENCE_NUMBER") if asked["StartingSequenceNumber"] == "1" => {
                said(json!({"ShardIterator": "again"}))
            }
            _ => Some(Answer::Refused("InvalidArgumentException")),
        },
        ("GetRecords", Some("oldest")) => tip(&[record(1, "a", 2)]),
        ("GetRecords", Some("on")) => Some(Answer::Refused("ExpiredIteratorException")),
        ("GetRecords", Some("again")) => tip(&[record(1, "a", 2), record(2, "b", 1)]),
        _ => None,
    });
    let source = open(&service).await;
    assert_eq!(payloads(&read_until(&source, "0", "0:0", has_events).await.unwrap()), ["a"]);
    assert_eq!(payloads(&read_until(&source, "0", "1:0", has_events).await.unwrap()), ["b"]);
    assert!(service.asked("GetShardIterator").iter().all(|asked| asked["ShardIteratorType"] != "LATEST"));
}

#[tokio::test]
async fn fm10_latest_is_resolved_once_to_a_time() {
    let service = Service::new(|operation, _| match operation {
        "GetRecords" => tip(&[record(1, "earlier", 2), record(2, "in that second", 0)]),
        _ => None,
    });
    let source = open(&service).await;
    let latest = source.resolve(&"0".into(), StartAt::Latest).await.unwrap();
    assert_eq!(latest, Position::before(Timestamp::from_micros(1_700_003_600_000_000)));
    let read = read_until(&source, "0", &latest.to_string(), has_events).await.unwrap();
    assert_eq!(payloads(&read), ["in that second"]);
    let asked = service.asked("GetShardIterator");
    assert_eq!(
        (&asked[0]["ShardIteratorType"], asked[0]["Timestamp"].as_f64()),
        (&json!("AT_TIMESTAMP"), Some(1_700_003_600.0))
    );
}

#[tokio::test]
async fn fm11_a_position_that_retention_has_passed_is_an_error_again_and_again() {
    let service = Service::new(|operation, _| match operation {
        "GetRecords" => tip(&[record(9, "much later", 1)]),
        _ => None,
    });
    let source = open(&service).await;
    for _ in 0..2 {
        let error = read_until(&source, "0", "7:3", has_events).await.unwrap_err();
        let Error::Expired { after, oldest, .. } = error else { panic!("{error}") };
        assert_eq!((after.to_string().as_str(), oldest.to_string().as_str()), ("7:3", "9:0"));
    }
    assert!(service.asked("GetShardIterator").iter().all(|asked| asked["ShardIteratorType"] == "AT_SEQUENCE_NUMBER"));
}

#[tokio::test]
async fn fm11_a_mark_inside_the_retention_bridges_a_record_that_is_gone() {
    let service = Service::new(|operation, _| match operation {
        "GetRecords" => tip(&[record(9, "first in two days", 1)]),
        _ => None,
    });
    let source = open(&service).await;
    let mark = Position::new(7.into(), 3).marked(NOW.minus(Duration::from_secs(3600)));
    let read = read_until(&source, "0", &mark.to_string(), has_events).await.unwrap();
    assert_eq!(payloads(&read), ["first in two days"]);
    let kinds: Vec<_> =
        service.asked("GetShardIterator").iter().map(|asked| asked["ShardIteratorType"].clone()).collect();
    assert_eq!(kinds, ["AT_SEQUENCE_NUMBER", "AT_TIMESTAMP"]);
}

#[tokio::test]
async fn a_position_of_another_stream_is_an_error() {
    let service = Service::new(|operation, _| {
        (operation == "GetShardIterator").then_some(Answer::Refused("InvalidArgumentException"))
    });
    let error = read_until(&open(&service).await, "0", "7:0", has_events).await.unwrap_err();
    assert!(matches!(error, Error::ForeignPosition { .. }), "{error}");
}

#[tokio::test]
async fn throttles_and_lost_connections_are_empty_reads_until_they_are_over() {
    let mut tries = 0;
    let service = Service::new(move |operation, _| {
        if operation != "GetRecords" {
            return None;
        }
        tries += 1;
        match tries {
            1 => Some(Answer::Refused("ProvisionedThroughputExceededException")),
            2 => Some(Answer::Reset),
            _ => tip(&[record(1, "a", 1)]),
        }
    });
    let read = read_until(&open(&service).await, "0", "0:0", has_events).await.unwrap();
    assert_eq!(payloads(&read), ["a"]);
    assert_eq!(service.asked("GetShardIterator").len(), 3, "without an answer there is nothing to go on with");
}

#[tokio::test]
async fn what_the_user_must_mend_is_an_error_at_once() {
    let service =
        Service::new(|operation, _| (operation == "GetRecords").then_some(Answer::Refused("AccessDeniedException")));
    let error = read_until(&open(&service).await, "0", "0:0", has_events).await.unwrap_err();
    assert!(error.to_string().contains("kinesis:GetRecords"), "{error}");
}

#[tokio::test]
async fn an_empty_answer_is_the_tip_only_when_nothing_is_behind_it() {
    let mut answers = 0;
    let service = Service::new(move |operation, _| {
        if operation != "GetRecords" {
            return None;
        }
        answers += 1;
        let behind = if answers == 1 { 60_000 } else { 0 };
        said(json!({"Records": [], "MillisBehindLatest": behind, "NextShardIterator": "on"}))
    });
    let source = open(&service).await;
    let on_the_way = read_until(&source, "0", "0:0", |read| read.behind_latest > Duration::ZERO).await.unwrap();
    assert_eq!(on_the_way.complete_until, None);
    let tip = read_until(&source, "0", "0:0", |read| read.behind_latest == Duration::ZERO).await.unwrap();
    assert_eq!((tip.events.len(), tip.complete_until), (0, Some(NOW)));
}

#[tokio::test]
async fn fm15_what_was_given_and_not_taken_is_given_again_without_asking() {
    let service = Service::new(|operation, asked| match (operation, asked["ShardIterator"].as_str()) {
        ("GetRecords", Some("begin")) => tip(&[record(1, "a", 3), record(2, "b", 2), record(3, "c", 1)]),
        _ => None,
    });
    let source = open(&service).await;
    let all = read_until(&source, "0", "0:0", has_events).await.unwrap();
    assert_eq!((payloads(&all).len(), all.complete_until), (3, Some(NOW)));
    let rest = read_until(&source, "0", "1:0", |_| true).await.unwrap();
    assert_eq!((payloads(&rest), rest.complete_until), (vec!["b".to_owned(), "c".to_owned()], Some(NOW)));
    assert_eq!(service.asked("GetShardIterator").len(), 1);
    // Somebody who stands elsewhere begins there.
    read_until(&source, "0", "0:0", has_events).await.unwrap();
    assert_eq!(service.asked("GetShardIterator").len(), 2);
}

#[tokio::test]
async fn shards_come_in_pages_and_an_expired_token_begins_the_listing_anew() {
    let mut listings = 0;
    let service = Service::new(move |operation, asked| {
        if operation != "ListShards" {
            return None;
        }
        listings += 1;
        match (listings, asked["NextToken"].as_str()) {
            (_, None) => said(json!({"Shards": [shard("2", &["0", "1"]), shard("0", &[])], "NextToken": "more"})),
            (2, Some("more")) => Some(Answer::Refused("ExpiredNextTokenException")),
            _ => said(json!({"Shards": [shard("0", &[]), shard("1", &["gone"])]})),
        }
    });
    let shards = open(&service).await.shards().await.unwrap();
    let names: Vec<_> = shards.iter().map(|shard| shard.id.to_string()).collect();
    assert_eq!(names, ["0", "1", "2"]);
    assert_eq!(shards[1].parents, [ShardId::from("gone")]);
    assert_eq!(shards[2].parents, [ShardId::from("0"), ShardId::from("1")]);
}

#[tokio::test]
async fn a_listing_that_lacks_a_shard_is_believed_only_when_it_is_given_again_and_again() {
    let mut listings = 0;
    let service = Service::new(move |operation, _| {
        if operation != "ListShards" {
            return None;
        }
        listings += 1;
        // The second is an old one; from the fourth on shard 0 is gone.
        let shards = match listings {
            2 => json!([shard("0", &[])]),
            1 | 3 => json!([shard("0", &[]), shard("1", &["0"])]),
            _ => json!([shard("1", &["0"])]),
        };
        said(json!({"Shards": shards}))
    });
    let source = open(&service).await;
    let count = async || source.shards().await.unwrap().len();
    assert_eq!((count().await, count().await), (2, 2));
    assert_eq!(service.asked("ListShards").len(), 3);
    assert_eq!((count().await, count().await), (1, 1));
    assert_eq!(service.asked("ListShards").len(), 3 + 4 + 1);
}

#[tokio::test]
async fn a_shard_that_is_gone_and_a_stream_that_is_gone_are_told_apart() {
    let check = async |listing_fails: bool| {
        let mut listings = 0;
        let service = Service::new(move |operation, _| match operation {
            "ListShards" => {
                listings += 1;
                match listings {
                    1 => None,
                    _ if listing_fails => Some(Answer::Refused("ResourceNotFoundException")),
                    _ => said(json!({"Shards": [shard("1", &["0"])]})),
                }
            }
            "GetShardIterator" => Some(Answer::Refused("ResourceNotFoundException")),
            _ => None,
        });
        read_until(&open(&service).await, "0", "0:0", has_events).await.unwrap_err()
    };
    let error = check(false).await;
    assert!(matches!(error, Error::NoSuchShard { .. }), "{error}");
    let error = check(true).await;
    assert!(matches!(error, Error::Service { .. }), "{error}");
    let service = Service::new(|_, _| None);
    let error = read_until(&open(&service).await, "unheard of", "0:0", has_events).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchShard { .. }), "{error}");
    assert!(service.asked("GetShardIterator").is_empty());
}

#[tokio::test]
async fn answers_take_no_more_memory_than_they_may_and_abandoned_readers_give_theirs_back() {
    let large = "x".repeat(1 << 20);
    let service = Service::new(move |operation, _| match operation {
        "GetRecords" => tip(&[record(1, &large, 1)]),
        _ => None,
    });
    let clock = Arc::new(ServiceClock::new(Arc::new(ManualClock::at(NOW))));
    let stream = Arc::new(Stream::open(service.client(), "s", clock).await.unwrap());
    let begun = Instant::now();
    let mut reader = ShardReader::new("0".into(), begun, 0);
    let read = async {
        loop {
            match reader.step(&stream, Position::START, 1 << 20, Instant::now()).unwrap() {
                Step::Read(read) if !read.events.is_empty() => return read.events.len(),
                Step::Read(_) => tokio::time::sleep(PAUSE).await,
                Step::Wait(ready) => ready.notified().await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, read).await.unwrap(), 1);
    let others = [stream.reserve(GET_RECORDS_BYTES_MAX * 5).await, stream.reserve(GET_RECORDS_BYTES_MAX / 2).await];
    assert!(!stream.has_room(), "the record that waits counts");
    reader.leave_if_abandoned(Instant::now());
    assert!(!stream.has_room(), "it was asked just now");
    reader.leave_if_abandoned(Instant::now() + Duration::from_secs(60));
    drop(others);
    assert!(stream.has_room());
}
