//! `headwater produce`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_common::timestamp::Timestamp;
use headwater_producer::input::Input;
use headwater_producer::pace::Pace;
use headwater_producer::rows::{Format, ReadOptions};
use headwater_producer::{Options, Progress, Report};
use headwater_stream::Source;
use headwater_stream::embedded::{Log, LogSink, Options as LogOptions, Retention, SyncPolicy};
use headwater_stream::url::StreamUrl;

use crate::cli::{FileFormat, Produce};
use crate::config::BadSetting;
use crate::progress::{self, Reading};
use crate::{signals, telemetry};

/// Sends the rows of files to a stream.
pub(crate) async fn run(options: Produce) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let metrics = telemetry::serve_metrics(options.metrics_listen, Arc::new(|| true)).await?;
    let StreamUrl::Log(path) = &options.to else {
        return Err(BadSetting::Other("an archive is written by `headwater consume --archive` only".into()).into());
    };
    let log_options = LogOptions { map_bytes: options.log_map_size.as_usize() };
    let log = Log::open_or_create(path, log_options, options.shards)?;
    let policy = options.sync_every.map_or(SyncPolicy::EveryBatch, SyncPolicy::Every);
    let retention =
        Retention { age_max: options.retention, bytes_max: options.retention_bytes.map(|Bytes(bytes)| bytes) };
    let stream = log.identity().0;
    let sink = LogSink::start(log, policy, retention, Arc::new(SystemClock));

    let progress = Arc::new(Progress::default());
    let watched = Arc::clone(&progress);
    let limit = options.limit;
    let shown =
        progress::show("rows sent", move || Reading { done: watched.rows.load(Ordering::Relaxed), total: limit });
    let started_at = SystemClock.now();
    let to = options.to.to_string();
    let reject_file = options.reject_file.clone();
    let result = headwater_producer::run(run_options(options, stream, started_at)?, &sink, &progress, shutdown).await;
    sink.close().await.context("end the log's writer")?;
    drop(shown);
    if let Some(server) = metrics {
        server.stop().await?;
    }
    let Report { rows, bytes, bad: rejects, misfits, .. } = result?;
    let seconds = SystemClock.now().since(started_at).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = rows as f64 / seconds.max(0.001);
    crate::say(&format!("sent {rows} rows ({}) to {to} in {seconds:.1} s, {rate:.0} rows/s", Bytes(bytes)));
    if rejects > 0 {
        crate::say(&format!("{rejects} bad rows are in {}, with line, byte and reason", reject_file.display()));
    }
    if misfits > 0 {
        crate::say(&format!("{misfits} cells did not fit their column's type and went as strings"));
    }
    Ok(())
}

fn run_options(options: Produce, stream: String, started_at: Timestamp) -> Result<Options, BadSetting> {
    let pace = match (options.rate, options.speedup) {
        (Some(_), Some(_)) => return Err(BadSetting::Other("--rate and --speedup exclude each other".into())),
        (None, Some(_)) if options.time_field.is_none() => {
            return Err(BadSetting::Other("--speedup needs --time-field".into()));
        }
        (Some(rate), None) => Pace::Rate(rate),
        (None, Some(speedup)) => Pace::EventTime { speedup },
        (None, None) => Pace::Unlimited,
    };
    let nulls = match options.nulls {
        Some(tokens) => tokens,
        None if options.strings => Vec::new(),
        None => vec![String::new()],
    };
    let state_file = options.progress_file.unwrap_or_else(|| default_state_file(&options.files, &options.to));
    Ok(Options {
        inputs: options.files.iter().map(|name| Input::named(name)).collect(),
        read: ReadOptions {
            format: options.format.map(|format| match format {
                FileFormat::Csv => Format::Csv,
                FileFormat::Ndjson => Format::Ndjson,
            }),
            delimiter: options.delimiter,
            quote: options.quote,
            columns: options.columns,
            nulls,
            strings: options.strings,
            key: options.key,
            time_field: options.time_field,
            time_format: options.time_format.into(),
        },
        pace,
        limit: options.limit,
        repeat: options.repeat,
        resume: options.resume,
        state_file,
        reject_file: options.reject_file,
        batch_bytes_max: options.batch_bytes.as_usize(),
        stream,
        started_at,
    })
}

/// The same files to the same stream are the same run.
fn default_state_file(files: &[String], to: &StreamUrl) -> PathBuf {
    let run = format!("{files:?} {to}");
    let hash = headwater_common::hash::of_partition_key(run.as_bytes()) >> 64;
    format!(".headwater/produce-{hash:016x}.json").into()
}
