//! `headwater produce`: what is the same for every stream. `log` and `kinesis` open theirs, and refuse what makes no
//! sense for it.

#[cfg(feature = "aws")]
mod kinesis;
mod log;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_common::timestamp::Timestamp;
use headwater_producer::input::Input;
use headwater_producer::pace::Pace;
use headwater_producer::rows::{Format, ReadOptions};
use headwater_producer::{Options, Progress, Report};
use headwater_stream::url::StreamUrl;
use headwater_stream::{Sink, StreamIdentity};
use tokio::sync::watch;

use crate::cli::{FileFormat, Produce};
use crate::config::BadSetting;
use crate::progress::{self, Reading};
use crate::{signals, telemetry};

/// What a run did, and how long it took.
struct Sent {
    report: Report,
    took: Duration,
}

/// Sends the rows of files to a stream.
pub(crate) async fn run(options: Produce) -> anyhow::Result<()> {
    // What makes no sense is said before anything is opened or made.
    pace(&options)?;
    let shutdown = signals::shutdown()?;
    let metrics = telemetry::serve_metrics(options.metrics_listen, Arc::new(|| true)).await?;
    let ended = match options.to.clone() {
        StreamUrl::Log(path) => log::run(&path, options, shutdown).await,
        #[cfg(feature = "aws")]
        StreamUrl::Kinesis(name) => kinesis::run(&name, options, shutdown).await,
        #[cfg(not(feature = "aws"))]
        StreamUrl::Kinesis(_) => {
            let why = "this build has no Kinesis; build headwater with its feature `aws`";
            Err(BadSetting::Other(why.into()).into())
        }
        StreamUrl::Archive { .. } => {
            let why = "an archive is written by `headwater consume --archive` only";
            Err(BadSetting::Other(why.into()).into())
        }
    };
    if let Some(server) = metrics {
        server.stop().await?;
    }
    ended
}

/// Sends the rows, and shows how far it is.
async fn send(
    options: Produce,
    stream: StreamIdentity,
    sink: &dyn Sink,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<Sent> {
    let progress = Arc::new(Progress::default());
    let watched = Arc::clone(&progress);
    let limit = options.limit;
    let shown =
        progress::show("rows sent", move || Reading { done: watched.rows.load(Ordering::Relaxed), total: limit });
    let started_at = SystemClock.now();
    let result = headwater_producer::run(run_options(options, stream, started_at)?, sink, &progress, shutdown).await;
    drop(shown);
    Ok(Sent { report: result?, took: SystemClock.now().since(started_at) })
}

/// Says what became of the rows.
fn tell(sent: &Sent, to: &StreamUrl, reject_file: &Path) {
    let Report { rows, bytes, bad, refused, misfits, .. } = sent.report;
    let seconds = sent.took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = rows as f64 / seconds.max(0.001);
    crate::say(&format!("sent {rows} rows ({}) to {to} in {seconds:.1} s, {rate:.0} rows/s", Bytes(bytes)));
    let rejects = reject_file.display();
    if bad > 0 {
        crate::say(&format!("{bad} bad rows are in {rejects}, with line, byte and reason"));
    }
    if refused > 0 {
        crate::say(&format!(
            "{refused} rows that the stream did not take are in {rejects}, with line, byte and reason"
        ));
    }
    if misfits > 0 {
        crate::say(&format!("{misfits} cells did not fit their column's type and went as strings"));
    }
}

fn pace(options: &Produce) -> Result<Pace, BadSetting> {
    match (options.rate, options.speedup) {
        (Some(_), Some(_)) => Err(BadSetting::Other("--rate and --speedup exclude each other".into())),
        (None, Some(_)) if options.time_field.is_none() => {
            Err(BadSetting::Other("--speedup needs --time-field".into()))
        }
        (Some(rate), None) => Ok(Pace::Rate(rate)),
        (None, Some(speedup)) => Ok(Pace::EventTime { speedup }),
        (None, None) => Ok(Pace::Unlimited),
    }
}

fn run_options(options: Produce, stream: StreamIdentity, started_at: Timestamp) -> Result<Options, BadSetting> {
    let pace = pace(&options)?;
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
        stream: stream.0,
        started_at,
    })
}

/// The same files to the same stream are the same run.
fn default_state_file(files: &[String], to: &StreamUrl) -> PathBuf {
    let run = format!("{files:?} {to}");
    let hash = headwater_common::hash::of_partition_key(run.as_bytes()) >> 64;
    format!(".headwater/produce-{hash:016x}.json").into()
}
