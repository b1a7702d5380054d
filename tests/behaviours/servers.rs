//! The servers of the tests do what the other tests take for granted.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{
    ConsumerStatus, PutRecordsRequestEntry, ShardIteratorType, StartingPosition, SubscribeToShardEventStream,
};
use harness::faulty_http::FaultyHttp;
use harness::kinesis::Server;
use harness::moto;

const SEED: u64 = 20_261_121;

fn entry(key: &str, payload: Vec<u8>) -> PutRecordsRequestEntry {
    PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(payload)).build().unwrap()
}

async fn iterator(server: &Server, shard: &str, at: ShardIteratorType, time: Option<DateTime>) -> String {
    let request = server.client().get_shard_iterator().stream_name("s").shard_id(shard).shard_iterator_type(at);
    request.set_timestamp(time).send().await.unwrap().shard_iterator().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_is_there_at_once_and_keeps_what_is_put() {
    let server = Server::start().await;
    server.create_stream("s", 2).await;
    let (shard, sequence) = server.put("s", "key", "payload").await;
    let found = server.read_all("s").await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].shard, &found[0].sequence, &found[0].key[..]), (&shard, &sequence, "key"));
    assert_eq!(found[0].payload, b"payload");
    assert_eq!((server.records(), server.calls()["PutRecord"]), (1, 1));
}

#[tokio::test]
async fn a_put_may_have_ten_mebibytes() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    let records = (0..10).map(|n| entry(&format!("key {n}"), vec![n; (1 << 20) - 100])).collect();
    let answer = server.client().put_records().stream_name("s").set_records(Some(records)).send().await.unwrap();
    assert_eq!((answer.failed_record_count(), answer.records().len()), (Some(0), 10));
    let first: Vec<u8> = server.read_all("s").await.iter().map(|record| record.payload[0]).collect();
    assert_eq!(first, (0..10).collect::<Vec<u8>>());
}

#[tokio::test]
async fn shards_split_and_merge_and_the_closed_ones_end() {
    let server = Server::start().await;
    server.create_stream("s", 2).await;
    server.put("s", "key", "before").await;
    for (shards, all) in [(4, 6), (8, 14), (3, 19)] {
        server.reshard("s", shards).await;
        assert_eq!((server.open_shards("s").await.len(), server.shards("s").await.len()), (shards, all));
    }
    for shard in server.shards("s").await {
        let is_first = ["shardId-000000000000", "shardId-000000000001"].contains(&shard.shard_id());
        assert_eq!(shard.parent_shard_id().is_none(), is_first, "{shard:?}");
    }
    // The end may take an answer or two without records.
    let mut next = Some(iterator(&server, "shardId-000000000000", ShardIteratorType::TrimHorizon, None).await);
    let mut answers = 0;
    while let Some(from) = next {
        let answer = server.client().get_records().shard_iterator(from).send().await.unwrap();
        next = answer.next_shard_iterator().map(str::to_owned);
        answers += 1;
        assert!(answers < 1_000, "a closed shard ends");
    }
}

#[tokio::test]
async fn a_time_behind_the_last_record_is_the_tip() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    server.put("s", "key", "before").await;
    let at = |seconds| Some(DateTime::from_secs(seconds));
    let count = async |time| {
        let from = iterator(&server, "shardId-000000000000", ShardIteratorType::AtTimestamp, time).await;
        server.client().get_records().shard_iterator(from).send().await.unwrap().records().len()
    };
    assert_eq!(count(at(1_000_000)).await, 1, "long ago");
    // The year 2100: the service refuses it, and here it is the tip.
    assert_eq!(count(at(4_102_444_800)).await, 0, "later than the last record");
}

#[tokio::test]
async fn subscriptions_give_what_is_put_over_plain_http() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    let client = server.client();
    let summary = client.describe_stream_summary().stream_name("s").send().await.unwrap();
    let arn = summary.stream_description_summary().unwrap().stream_arn();
    let answer = client.register_stream_consumer().stream_arn(arn).consumer_name("reader").send().await.unwrap();
    let consumer = answer.consumer().unwrap().consumer_arn().to_owned();
    until_active(&client, &consumer).await;
    server.put("s", "key", "payload").await;
    let from = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
    let request = client.subscribe_to_shard().consumer_arn(&consumer).shard_id("shardId-000000000000");
    let mut events = request.starting_position(from).send().await.unwrap().event_stream;
    loop {
        let event = events.recv().await.unwrap().expect("the subscription lasts");
        let SubscribeToShardEventStream::SubscribeToShardEvent(event) = event else { continue };
        if let [record] = event.records() {
            assert_eq!(record.data().as_ref(), b"payload");
            break;
        }
    }
}

async fn until_active(client: &Client, consumer: &str) {
    loop {
        let answer = client.describe_stream_consumer().consumer_arn(consumer).send().await.unwrap();
        if *answer.consumer_description().unwrap().consumer_status() == ConsumerStatus::Active {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn moto_keeps_one_of_two_conditional_writes() {
    let moto = moto::shared(env!("CARGO_TARGET_TMPDIR"));
    let client = moto.dynamodb();
    let key = AttributeDefinition::builder().attribute_name("leaseKey").attribute_type(ScalarAttributeType::S);
    let schema = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash);
    let request = client.create_table().table_name("servers").billing_mode(BillingMode::PayPerRequest);
    let request = request.attribute_definitions(key.build().unwrap()).key_schema(schema.build().unwrap());
    request.send().await.unwrap();
    let put = async |owner: &str| {
        let request = client.put_item().table_name("servers").condition_expression("attribute_not_exists(leaseKey)");
        let request = request.item("leaseKey", AttributeValue::S("lane".to_owned()));
        request.item("leaseOwner", AttributeValue::S(owner.to_owned())).send().await.is_ok()
    };
    assert_eq!((put("one").await, put("two").await), (true, false));
    assert!(moto.calls()["PutItem"] >= 2);
}

#[tokio::test]
async fn what_the_faulty_line_reports_as_failed_is_not_stored() {
    let server = Server::start().await;
    server.create_stream("s", 2).await;
    let http = FaultyHttp::new(SEED, 0.5);
    let client = server.client_through(http.clone());
    let (mut stored, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for batch in 0..200 {
        let names: Vec<String> = (0..5).map(|n| format!("{batch}.{n}")).collect();
        let records = names.iter().map(|name| entry(name, name.clone().into_bytes())).collect();
        match client.put_records().stream_name("s").set_records(Some(records)).send().await {
            Ok(answer) => {
                let taken = names.iter().zip(answer.records()).filter(|(_, record)| record.error_code().is_none());
                stored.extend(taken.map(|(name, _)| name.clone()));
            }
            Err(_) => unknown.extend(names),
        }
    }
    http.assert_all_happened(&["PutRecords"]);
    let mut found = BTreeMap::new();
    for record in server.read_all("s").await {
        *found.entry(String::from_utf8(record.payload).unwrap()).or_insert(0) += 1;
    }
    assert!(stored.iter().all(|name| found.get(name) == Some(&1)), "what was acknowledged is there once");
    assert!(found.keys().all(|name| stored.contains(name) || unknown.contains(name)), "what was refused is not");
    assert!(unknown.iter().any(|name| found.contains_key(name)), "an error may be that of a request that happened");
    assert!(unknown.iter().any(|name| !found.contains_key(name)), "or of one that did not");
}
