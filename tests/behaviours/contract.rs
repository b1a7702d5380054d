//! Every stream adapter passes the same suite.

use std::sync::Arc;
use std::time::Duration;

use harness::contract::{START, Stream, suite};
use headwater_common::clock::Clock;
use headwater_stream::embedded::{Log, LogSink, Options, Retention, SyncPolicy};
use headwater_stream::memory::MemoryLog;

#[tokio::test]
async fn memory_log() {
    suite(|shards, clock| async move {
        let log = MemoryLog::new("test", shards, clock);
        let trimmed = log.clone();
        Stream {
            source: Arc::new(log.clone()),
            sink: Arc::new(log),
            forget_old: Box::new(move || trimmed.trim(0, 3)),
            keep: Box::new(()),
        }
    })
    .await;
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
        }),
        keep: Box::new(folder),
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
