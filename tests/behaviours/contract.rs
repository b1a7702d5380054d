//! Every stream adapter passes the same suite.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use harness::archive::{Archived, Forgetting};
use harness::contract::{Can, START, Stream, suite};
use harness::kinesis::Server;
use headwater_common::clock::{Clock, SystemClock};
use headwater_stream::Source;
use headwater_stream::embedded::{Log, LogSink, Options, Retention, SyncPolicy};
use headwater_stream::joined::Joined;
use headwater_stream::kinesis::sink::{KinesisSink, SinkOptions};
use headwater_stream::kinesis::source::{KinesisSource, SourceOptions};
use headwater_stream::memory::MemoryLog;

fn in_memory(log: MemoryLog) -> Stream {
    let trimmed = log.clone();
    Stream {
        source: Arc::new(log.clone()),
        sink: Arc::new(log),
        forget_old: Box::new(move || {
            trimmed.trim(0, 3);
            ready(()).boxed()
        }),
        keep: Box::new(()),
        can: Can::LOCAL,
    }
}

#[tokio::test]
async fn memory_log() {
    suite(|shards, clock| ready(in_memory(MemoryLog::new("test", shards, clock)))).await;
}

#[tokio::test]
async fn memory_log_whose_shards_can_be_split() {
    suite(|shards, clock| ready(in_memory(MemoryLog::reshardable("test", shards, clock)))).await;
}

async fn embedded(shards: u32, clock: Arc<dyn Clock>, policy: SyncPolicy) -> Stream {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open_or_create(&folder.path().join("log"), Options::default(), Some(shards)).unwrap();
    let trimmed = log.clone();
    let retention = Retention { age_max: Some(Duration::from_secs(15)), bytes_max: None };
    Stream {
        source: Arc::new(log.clone()),
        sink: Arc::new(LogSink::start(log, policy, Retention::default(), clock)),
        forget_old: Box::new(move || {
            let deleted = trimmed.apply_retention(&retention, START.plus(Duration::from_secs(45))).unwrap();
            assert_eq!(deleted, 3);
            ready(()).boxed()
        }),
        keep: Box::new(folder),
        can: Can::LOCAL,
    }
}

#[tokio::test]
async fn embedded_log() {
    suite(|shards, clock| embedded(shards, clock, SyncPolicy::EveryBatch)).await;
}

#[tokio::test]
async fn embedded_log_with_group_commit() {
    suite(|shards, clock| embedded(shards, clock, SyncPolicy::Every(Duration::from_millis(2)))).await;
}

/// A stream whose every batch is archived; `joined` reads it together with what the log still has.
async fn archived(shards: u32, clock: Arc<dyn Clock>, joined: Option<Forgetting>) -> Stream {
    let log = MemoryLog::new("test", shards, Arc::clone(&clock));
    let forgetting = joined.unwrap_or(Forgetting::Nothing);
    let archived = Arc::new(Archived::new(log.clone(), clock, forgetting).await);
    let archive: Arc<dyn Source> = Arc::new(archived.source().await);
    let source: Arc<dyn Source> = match joined {
        Some(_) => Arc::new(Joined::new(archive, Arc::new(log.clone())).await.unwrap()),
        None => archive,
    };
    let forgetful = Arc::clone(&archived);
    Stream {
        source,
        sink: archived,
        forget_old: Box::new(move || {
            let (archived, log) = (Arc::clone(&forgetful), log.clone());
            async move {
                let report = archived.retain(Duration::from_secs(15), START.plus(Duration::from_secs(45))).await;
                assert_eq!((report.epochs, report.records, report.objects), (3, 3, 3));
                if forgetting == Forgetting::Nothing {
                    log.trim(0, 3);
                }
            }
            .boxed()
        }),
        keep: Box::new(()),
        can: Can::LOCAL,
    }
}

#[tokio::test]
async fn archive() {
    suite(|shards, clock| archived(shards, clock, None)).await;
}

#[tokio::test]
async fn archive_then_a_log_that_keeps_all() {
    suite(|shards, clock| archived(shards, clock, Some(Forgetting::Nothing))).await;
}

#[tokio::test]
async fn archive_then_a_log_that_forgets_at_once() {
    suite(|shards, clock| archived(shards, clock, Some(Forgetting::Everything))).await;
}

/// A stream of a server that looks like Kinesis. It has a clock of its own, and its numbers count nothing.
async fn kinesis(shards: u32, aggregate_bytes: Option<usize>) -> Stream {
    let server = Arc::new(Server::start().await);
    server.create_stream("s", shards.try_into().unwrap()).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let source = KinesisSource::open(server.client(), "s", Arc::clone(&clock), SourceOptions::default()).await;
    let options = SinkOptions { aggregate_bytes, ..SinkOptions::default() };
    let sink = KinesisSink::start(server.client(), "s", options, 0).await;
    let forgetful = Arc::clone(&server);
    Stream {
        source: Arc::new(source.unwrap()),
        sink: Arc::new(sink.unwrap()),
        forget_old: Box::new(move || {
            let server = Arc::clone(&forgetful);
            async move {
                let records = server.store().get_record_store("s").await;
                let oldest: Vec<_> = records.into_keys().take(3).collect();
                assert_eq!(oldest.len(), 3);
                server.store().delete_record_keys("s", &oldest).await;
            }
            .boxed()
        }),
        keep: Box::new(server),
        can: Can { own_clock: Some(clock), counts: false, empty_keys: false },
    }
}

#[tokio::test]
async fn kinesis_polled() {
    suite(|shards, _| kinesis(shards, None)).await;
}

#[tokio::test]
async fn kinesis_polled_with_aggregates() {
    suite(|shards, _| kinesis(shards, Some(25 * 1024))).await;
}
