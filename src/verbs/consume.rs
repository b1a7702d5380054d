//! `headwater consume`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_consumer::archive::Archiver;
use headwater_consumer::decode::{self, DecodeRules};
use headwater_consumer::driver::{Consumer, Progress, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::{self, Generation, OpenGeneration, StreamFacts};
use headwater_lake::lanes::{self, Asked};
use headwater_lake::store::LakeStore;
use headwater_stream::{Source, StartAt};

use super::{archive, leases, source};
use crate::cli::{Consume, MissingTime};
use crate::progress::{self, Reading};
use crate::{signals, telemetry};

/// Turns the events of a stream into a table of the lake, and keeps its records when that is asked for.
pub(crate) async fn run(options: Consume) -> anyhow::Result<()> {
    let (archives, consumes) = archive::wanted(&options)?;
    leases::check(&options)?;
    let shutdown = signals::shutdown()?;
    let progress = Arc::new(Progress::default());
    let metrics = telemetry::serve_metrics(options.metrics_listen, readiness(&options, &progress)).await?;
    let archiver = if archives { Some(open_archive(&options, consumes, &progress).await?) } else { None };
    let consumer = if consumes { Some(open(&options, Arc::clone(&progress)).await?) } else { None };
    let leases = leases::open(&options.sharing).await?;

    let watched = Arc::clone(&progress);
    let bounded = options.until_caught_up && consumes;
    let shown = progress::show(if consumes { "events read" } else { "records read" }, move || {
        let total = bounded.then(|| watched.events_to_read.load(Ordering::Relaxed));
        Reading { done: watched.events_read.load(Ordering::Relaxed), total }
    });
    let began = SystemClock.now();
    let archived = archiver.as_ref().map(|archiver| (archive::url(&options, archiver), Arc::clone(&archiver.progress)));
    let result = match (consumer, archiver) {
        (Some(consumer), Some(archiver)) => archive::run_both(consumer, archiver, shutdown).await,
        (Some(consumer), None) => match leases {
            Some(leases) => consumer.share(leases, shutdown).await,
            None => consumer.run(shutdown).await,
        },
        (None, Some(archiver)) => archiver.run(shutdown).await,
        (None, None) => Ok(()),
    };
    drop(shown);
    if let Some(server) = metrics {
        server.stop().await?;
    }
    result?;
    if consumes {
        report(&options, &progress, SystemClock.now().since(began).as_secs_f64());
    }
    if let Some((url, progress)) = archived {
        archive::report(&url, &progress);
    }
    Ok(())
}

/// Opens the archive. Beside a table it has half of the memory, and its progress is not the one that is shown.
async fn open_archive(options: &Consume, consumes: bool, progress: &Arc<Progress>) -> anyhow::Result<Archiver> {
    let source = source::open_as(&options.from, options.log_map_size, options.fan_out.as_deref()).await?;
    let progress = if consumes { Arc::new(Progress::default()) } else { Arc::clone(progress) };
    archive::open(options, source, limits(options), progress).await
}

/// Opens the stream and the table, and refuses what does not belong together.
pub(crate) async fn open(options: &Consume, progress: Arc<Progress>) -> anyhow::Result<Consumer> {
    let source = source::open_as(&options.from, options.log_map_size, options.fan_out.as_deref()).await?;
    let store = LakeStore::on_disk(&options.lake)?;
    let pipeline = pipeline(options, &store).await?;
    let wanted = Generation::first(
        pipeline.canonical(),
        pipeline.hash(),
        pipeline.partition_by.clone(),
        options.lanes,
        stream_facts(source.as_ref(), options.start.0).await.context("look at the stream")?,
    );
    let generation = Arc::new(generation::open_or_create(&store, &options.table, wanted).await?);
    ask_for_lanes(options, &generation).await?;
    Ok(Consumer {
        source,
        generation,
        pipeline,
        limits: limits(options),
        spill_folder: options.spill_dir.clone().unwrap_or_else(std::env::temp_dir),
        until: if options.until_caught_up { Until::CaughtUp } else { Until::Forever },
        recorded: None,
        clock: Arc::new(SystemClock),
        retry: Policy::STORE,
        seed: RandomState::new().build_hasher().finish(),
        seal_wait: options.seal_wait,
        progress,
    })
}

/// Asks for as many lanes as the user has said. Without that a table keeps those it has.
async fn ask_for_lanes(options: &Consume, generation: &OpenGeneration) -> Result<(), headwater_lake::Error> {
    if !options.given.contains("lanes") {
        return Ok(());
    }
    let table = &generation.table;
    match lanes::ask(generation, options.lanes).await? {
        Asked::AsBefore => {}
        Asked::Next(next) => tracing::info!(%table, lanes = next.count, "the table goes on with other lanes"),
        Asked::Lost { winner } => {
            let (wanted, lanes) = (options.lanes, winner.count);
            tracing::warn!(%table, wanted, lanes, "another consumer has just asked for other lanes, and is obeyed");
        }
    }
    Ok(())
}

/// Resolves the start once, for every shard there is: also for one that is closed, whose rest belongs to what was asked
/// for. A shard that comes later is read from its first event, whatever the start says.
async fn stream_facts(source: &dyn Source, start: StartAt) -> Result<StreamFacts, headwater_stream::Error> {
    let mut positions = BTreeMap::new();
    for shard in source.shards().await? {
        // From the beginning means from wherever the beginning is when the first event is read. Where a stream without
        // numbers says other starts are is a time, which is stored and never asked for again.
        let position = source.resolve(&shard.id, start).await?;
        positions.insert(shard.id, position);
    }
    Ok(StreamFacts {
        identity: source.identity().0,
        sequence_digits: source.sequence_digits(),
        gap_free: source.is_gap_free(),
        start: positions,
    })
}

/// Returns the pipeline that is asked for. What the user has not set is as the table was made.
async fn pipeline(options: &Consume, store: &LakeStore) -> Result<Pipeline, headwater_lake::Error> {
    let wanted = Pipeline {
        rules: DecodeRules {
            id_field: options.id_field.clone(),
            time_field: options.time_field.clone(),
            time_format: options.time_format.into(),
            missing_time: match options.missing_time {
                MissingTime::Arrival => decode::MissingTime::Arrival,
                MissingTime::DeadLetter => decode::MissingTime::DeadLetter,
            },
            future_max: options.max_future,
        },
        partition_by: options.partition_by.clone(),
        columns: options.definition.columns.clone(),
        transform: options.definition.transform.clone(),
    };
    let Some(number) = generation::live(store, &options.table).await? else {
        return Ok(wanted);
    };
    let made = generation::open(store, &options.table, number).await?;
    Ok(wanted.keeping(&made.description.pipeline, |setting| options.given.contains(setting)))
}

/// Where the table and the archive are written at once, each has half of the memory.
fn limits(options: &Consume) -> Limits {
    let parts = if options.archive && !options.archive_only { 2 } else { 1 };
    Limits {
        file_bytes: options.flush_bytes,
        rows: options.flush_rows,
        age: options.flush_age,
        idle: options.flush_idle,
        memory: Bytes(options.memory.0 / parts),
        spill: options.spill_bytes,
        window_close: options.flush_on_window_close,
    }
}

/// Ready while no event has waited too long to be committed.
fn readiness(options: &Consume, progress: &Arc<Progress>) -> telemetry::Readiness {
    let (age, progress) = (options.ready_age, Arc::clone(progress));
    Arc::new(move || match progress.oldest_unflushed_micros.load(Ordering::Relaxed) {
        0 => true,
        micros => {
            let oldest = Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
            SystemClock.now().since(oldest) <= age
        }
    })
}

fn report(options: &Consume, progress: &Progress, seconds: f64) {
    let events = progress.events_committed.load(Ordering::Relaxed);
    let letters = progress.dead_letters.load(Ordering::Relaxed);
    let epochs = progress.epochs.load(Ordering::Relaxed);
    let bytes = Bytes(progress.bytes_committed.load(Ordering::Relaxed));
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = events as f64 / seconds.max(0.001);
    crate::say(&format!(
        "committed {events} events ({bytes}) to table {} in {epochs} epochs, {seconds:.1} s, {rate:.0} events/s",
        options.table
    ));
    let filtered = progress.filtered.load(Ordering::Relaxed);
    if filtered > 0 {
        crate::say(&format!("{filtered} of them were left out by the transform"));
    }
    if letters > 0 {
        crate::say(&format!("{letters} of them are dead letters, in table {}__dead_letters", options.table));
    }
}
