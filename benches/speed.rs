//! The stages that every event passes: decode, encode, digest, append to the log, read from it.
//!
//! `cargo bench --workspace`. Events are flat, with 10 fields and about 200 bytes of JSON. A figure is the time of one
//! batch of [`EVENTS`] events; criterion also says events a second.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that panics has failed, and says so")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_consumer::decode::{Decoder, Growing, adapt};
use headwater_consumer::encode::encode;
use headwater_consumer::pipeline::Pipeline;
use headwater_lake::digest::{RowDigest, RowHasher};
use headwater_lake::schema::TableSchema;
use headwater_stream::embedded::{Log, Options};
use headwater_stream::kinesis::kpl::{Aggregate, split};
use headwater_stream::kinesis::packing::{self, Answer, Decision, Packer};
use headwater_stream::kinesis::shard_map::{OpenShard, ShardMap};
use headwater_stream::kinesis::tally::AGGREGATE_BYTES;
use headwater_stream::{Put, Source};

const EVENTS: u64 = 8_192;
const ARRIVED_AT: Timestamp = Timestamp::from_micros(1_795_219_200_000_000);

fn payload(n: u64) -> String {
    let x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        r#"{{"_event_id":"91b7584a2265b1f5-{n}-0","id":{n},"user":"user-{}","page":"/catalog/item/{}","amount":{}.25,"ok":{},"country":"C{}","agent":"agent/{}","ms":{},"ref":"{x:016x}","v":3}}"#,
        x >> 50,
        x >> 44,
        x >> 54,
        x & 1 == 0,
        x % 40,
        x % 9,
        x >> 52
    )
}

fn events() -> Vec<Event> {
    let event = |n: u64| Event {
        position: Position::of_record((n + 1).into()),
        arrived_at: ARRIVED_AT,
        partition_key: bytes::Bytes::new(),
        payload: payload(n).into(),
    };
    (0..EVENTS).map(event).collect()
}

/// Returns the schema of the events, and their rows.
fn decoded() -> (TableSchema, Vec<RecordBatch>) {
    let mut decoder = Decoder::new(&Pipeline::default().rules, None, &[], 20, Growing::Allowed);
    events().iter().for_each(|event| _ = decoder.push("0", event).unwrap());
    let schema = decoder.schema();
    let arrow = Arc::new(schema.arrow_schema());
    (schema, decoder.take(true).iter().map(|decoded| adapt(&decoded.rows, &arrow)).collect())
}

fn decode(criterion: &mut Criterion) {
    let events = events();
    let (schema, _) = decoded();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("flat", |bencher| {
        let rules = Pipeline::default().rules;
        bencher.iter_batched(
            || Decoder::new(&rules, Some(&schema), &[], 20, Growing::Allowed),
            |mut decoder| {
                events.iter().for_each(|event| _ = decoder.push("0", event).unwrap());
                black_box(decoder.take(true))
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn encode_and_digest(criterion: &mut Criterion) {
    let (schema, batches) = decoded();
    let schema = Arc::new(schema.arrow_schema());
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("flat", |bencher| {
        bencher.iter(|| encode(&schema, batches.iter().cloned().map(Ok), RowDigest(7)).unwrap());
    });
    group.bench_function("digest", |bencher| {
        bencher.iter(|| {
            let mut hasher = RowHasher::new(&schema);
            batches.iter().for_each(|batch| hasher.update(batch));
            black_box(hasher.finish())
        });
    });
    group.finish();
}

fn log(criterion: &mut Criterion) {
    let puts: Vec<Put> =
        (0..EVENTS).map(|n| Put { partition_key: n.to_string().into(), payload: payload(n).into() }).collect();
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(EVENTS));
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open_or_create(&folder.path().join("log"), Options::default(), Some(1)).unwrap();
    group.bench_function("append", |bencher| bencher.iter(|| log.append(&puts, ARRIVED_AT).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    group.bench_function("read", |bencher| {
        let shard = ShardId::from("0");
        bencher.iter(|| runtime.block_on(log.read(&shard, Position::START, 4 << 20)).unwrap());
    });
    group.finish();
}

/// Events under their ids, as the producer has them.
fn puts() -> Vec<Put> {
    let put = |n: u64| Put { partition_key: format!("91b7584a2265b1f5-{n}-0").into(), payload: payload(n).into() };
    (0..EVENTS).map(put).collect()
}

/// Packs all events into calls, each answered at once, and returns the bytes of their records.
fn pack(puts: Vec<Put>, map: ShardMap, aggregate_bytes: Option<usize>) -> usize {
    let options = packing::Options { record_bytes_max: 1 << 20, is_ordered: true, aggregate_bytes, is_paced: false };
    let mut packer = Packer::new(options, map, 1, Duration::ZERO);
    packer.push(puts, 0);
    let stored = Answer::Stored { shard: ShardId::from("0"), sequence: 1.into() };
    let mut bytes = 0;
    while let Decision::Send(call) = packer.next(Duration::ZERO) {
        let answers = vec![stored.clone(); call.records.len()];
        bytes += call.records.into_iter().map(|record| record.payload.into_bytes().len()).sum::<usize>();
        packer.answer(call.id, answers, Duration::ZERO);
    }
    bytes
}

fn kinesis(criterion: &mut Criterion) {
    let first = |index: u32| headwater_common::hash::first_of_slice(index, 4);
    let shard = |index: u32| OpenShard {
        id: ShardId::from(index.to_string().as_str()),
        first: first(index),
        last: if index == 3 { u128::MAX } else { first(index + 1) - 1 },
    };
    let map = ShardMap::new((0..4).map(shard).collect()).unwrap();
    let mut group = criterion.benchmark_group("kinesis");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, aggregate_bytes) in [("pack", None), ("pack aggregated", Some(AGGREGATE_BYTES))] {
        group.bench_function(name, |bencher| {
            let fresh = || (puts(), map.clone());
            bencher.iter_batched(fresh, |(puts, map)| pack(puts, map, aggregate_bytes), BatchSize::LargeInput);
        });
    }
    let mut aggregate = Aggregate::new();
    for put in puts() {
        aggregate.push(put.partition_key, None, put.payload).unwrap();
    }
    let record = aggregate.finish();
    group.bench_function("split", |bencher| bencher.iter(|| split(&record).unwrap()));
    group.finish();
}

criterion_group!(benches, decode, encode_and_digest, log, kinesis);
criterion_main!(benches);
