//! Into the embedded log.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use headwater_common::clock::SystemClock;
use headwater_common::limits::SHARDS_MAX;
use headwater_common::quantity::Bytes;
use headwater_stream::Source;
use headwater_stream::embedded::{Log, LogSink, Options as LogOptions, Retention, SyncPolicy};
use tokio::sync::watch;

use super::{send, tell};
use crate::cli::{Produce, ShardCount};
use crate::config::BadSetting;

/// Sends the rows to the log in a folder, which is made when it is not there.
pub(super) async fn run(path: &Path, options: Produce, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let shards = shards(&options)?;
    let log_options = LogOptions { map_bytes: options.log_map_size.as_usize() };
    let log = Log::open_or_create(path, log_options, shards)?;
    let policy = options.sync_every.map_or(SyncPolicy::EveryBatch, SyncPolicy::Every);
    let retention =
        Retention { age_max: options.retention, bytes_max: options.retention_bytes.map(|Bytes(bytes)| bytes) };
    let stream = log.identity();
    let sink = LogSink::start(log, policy, retention, Arc::new(SystemClock));
    let (to, reject_file) = (options.to.clone(), options.reject_file.clone());
    let sent = send(options, stream, &sink, shutdown).await;
    sink.close().await.context("end the log's writer")?;
    tell(&sent?, &to, &reject_file);
    Ok(())
}

/// Returns how many shards a new log has, and refuses what is for Kinesis.
fn shards(options: &Produce) -> Result<Option<u32>, BadSetting> {
    let of_kinesis = [
        ("--create", options.create),
        ("--aggregate", options.aggregate),
        ("--aggregate-bytes", options.aggregate_bytes.is_some()),
        ("--unordered", options.unordered),
        ("--unpaced", options.unpaced),
        ("--shards on-demand", options.shards == Some(ShardCount::OnDemand)),
    ];
    if let Some((flag, _)) = of_kinesis.into_iter().find(|(_, is_given)| *is_given) {
        return Err(BadSetting::Other(format!("{flag} is for Kinesis; {} is a log", options.to)));
    }
    match options.shards {
        Some(ShardCount::Number(number)) if number > SHARDS_MAX => {
            Err(BadSetting::Other(format!("--shards {number}: a log has {SHARDS_MAX} shards at most")))
        }
        Some(ShardCount::Number(number)) => Ok(Some(number)),
        _ => Ok(None),
    }
}
