//! `headwater replay run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_consumer::driver::Progress;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::Output;
use headwater_lake::reading;
use headwater_replay::rebuild::{self, Ended, Means};

use crate::cli::ReplayRun;
use crate::progress::{self, Reading};
use crate::{signals, telemetry};

/// Builds the table again, beside the live one.
pub(crate) async fn run(options: ReplayRun) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let metrics = telemetry::serve_metrics(options.metrics_listen, Arc::new(|| true)).await?;
    let request = super::request(&options.place, &options.what).await?;
    let range = request.range().await?;
    let progress = Arc::new(Progress::default());
    let inferred = Arc::new(AtomicU64::new(0));
    let began = SystemClock.now();
    let looked_at = Arc::clone(&inferred);
    let shown = options.what.infer.then(|| {
        progress::show("events looked at", move || Reading { done: looked_at.load(Ordering::Relaxed), total: None })
    });
    let consumer = request.open(&range, means(&options, &progress, inferred)).await?;
    drop(shown);
    let generation = Arc::clone(&consumer.generation);
    let (number, resumed) = (generation.description.number, range.resumed.is_some());
    tracing::info!(table = %generation.table, generation = %number, resumed, "rebuilding beside the live table");

    let watched = Arc::clone(&progress);
    let shown = progress::show("events read", move || Reading {
        done: watched.events_read.load(Ordering::Relaxed),
        total: Some(watched.events_to_read.load(Ordering::Relaxed)).filter(|total| *total > 0),
    });
    let result = rebuild::run(&consumer, &shutdown).await;
    drop(shown);
    if let Some(server) = metrics {
        server.stop().await?;
    }
    let ended = result?;
    let seconds = SystemClock.now().since(began).as_secs_f64();
    report(&options, &generation, &progress, seconds, ended).await
}

fn means(options: &ReplayRun, progress: &Arc<Progress>, inferred: Arc<AtomicU64>) -> Means {
    let limits = Limits {
        file_bytes: options.flush_bytes,
        rows: options.flush_rows,
        memory: options.memory,
        spill: options.spill_bytes,
        ..super::NOBODY_WAITS
    };
    Means { inferred, ..super::means(limits, options.spill_dir.clone(), progress) }
}

async fn report(
    options: &ReplayRun,
    generation: &OpenGeneration,
    progress: &Progress,
    seconds: f64,
    ended: Ended,
) -> anyhow::Result<()> {
    let (table, number) = (&generation.table, generation.description.number);
    let events = progress.events_committed.load(Ordering::Relaxed);
    let epochs = progress.epochs.load(Ordering::Relaxed);
    let totals = reading::totals(generation, Output::Events).await?;
    let letters = reading::totals(generation, Output::DeadLetters).await?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = events as f64 / seconds.max(0.001);
    crate::say(&format!(
        "{number} of table {table}: {events} events in {epochs} epochs in this run, {seconds:.1} s, {rate:.0} events/s"
    ));
    crate::say(&format!(
        "it has {} rows in {} files and {} partitions, {}; a file has {} on average, {} at least; {} dead letters",
        totals.rows,
        totals.files,
        totals.partitions,
        Bytes(totals.bytes),
        Bytes(totals.bytes / totals.files.max(1)),
        Bytes(totals.smallest_bytes.unwrap_or(0)),
        letters.rows
    ));
    let lake = options.place.lake.display();
    match ended {
        Ended::Done => {}
        Ended::Stopped => {
            bail!("it was stopped before its end; the same command goes on");
        }
        Ended::Overtaken => {
            bail!("a cutover has decided about {number} meanwhile; see `headwater replay status --lake {lake}`");
        }
    }
    crate::say(&format!(
        "the live table is as it was. Next:\n  headwater replay compare --lake {lake} --table {table} --with {number}\n  \
         headwater replay cutover --lake {lake} --table {table} --to {number}"
    ));
    Ok(())
}
