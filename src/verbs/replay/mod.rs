//! `headwater replay`, one file a verb.

mod compare;
mod cutover;
mod plan;
mod run;
mod status;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::clock::SystemClock;
use headwater_common::quantity::Bytes;
use headwater_common::retry::Policy;
use headwater_consumer::decode;
use headwater_consumer::driver::Progress;
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_replay::beginning::Beginning;
use headwater_replay::cutover::Direction;
use headwater_replay::rebuild::{Means, Request};

use crate::cli::{MissingTime, Replay, ReplayCommand, ReplayPlace, ReplayWhat};
use crate::definition::Definition;
use crate::verbs::source::{self, WithArchive};

/// Runs a verb of `replay`.
pub(crate) async fn run(options: Replay) -> anyhow::Result<()> {
    match options.command {
        ReplayCommand::Plan(options) => plan::run(options).await,
        ReplayCommand::Run(options) => run::run(options).await,
        ReplayCommand::Status(options) => status::run(options).await,
        ReplayCommand::Compare(options) => compare::run(options).await,
        ReplayCommand::Cutover(options) => cutover::run(options, Direction::Forward).await,
        ReplayCommand::Rollback(options) => cutover::run(options, Direction::Back).await,
    }
}

/// Nobody waits for the rows of a rebuild before all of them are there: no age ends an epoch, and no small number.
const NOBODY_WAITS: Limits = Limits {
    file_bytes: Bytes::mebibytes(128),
    rows: 100_000_000,
    age: Duration::MAX,
    idle: Duration::MAX,
    memory: Bytes::mebibytes(192),
    spill: Bytes::mebibytes(8 * 1024),
    window_close: false,
};

fn means(limits: Limits, spill_folder: Option<PathBuf>, progress: &Arc<Progress>) -> Means {
    Means {
        limits,
        spill_folder: spill_folder.unwrap_or_else(std::env::temp_dir),
        clock: Arc::new(SystemClock),
        retry: Policy::STORE,
        seed: RandomState::new().build_hasher().finish(),
        progress: Arc::clone(progress),
        inferred: Arc::default(),
    }
}

/// Opens the stream and the live generation.
async fn request(place: &ReplayPlace, what: &ReplayWhat) -> anyhow::Result<Request> {
    let store = LakeStore::existing_on_disk(&place.lake)?;
    let WithArchive { stream, joined, archived } =
        source::open_with_archive(&place.from, place.log_map_size, &store).await?;
    let live = generation::open_live(&store, &place.table).await?;
    let beginning = match (what.same_cuts, what.infer) {
        (true, _) => Beginning::RecordedCuts,
        (false, true) => Beginning::InferredSchema,
        (false, false) => Beginning::FinalSchema,
    };
    Ok(Request {
        source: joined,
        stream,
        archives: archived,
        pipeline: pipeline(Pipeline::of(&live.description)?, what),
        lanes: what.lanes,
        live,
        beginning,
        since: what.since.clone(),
        until: what.until.clone(),
        anew: what.anew,
    })
}

/// Returns the live generation's pipeline with what was asked to be different. Where there is a file, a declaration or
/// transform that it does not have is none.
fn pipeline(live: Pipeline, what: &ReplayWhat) -> Pipeline {
    let mut rules = live.rules;
    if let Some(field) = &what.id_field {
        rules.id_field.clone_from(field);
    }
    if let Some(field) = &what.time_field {
        rules.time_field = Some(field.clone());
    }
    if let Some(format) = what.time_format {
        rules.time_format = format.into();
    }
    if let Some(missing) = what.missing_time {
        rules.missing_time = match missing {
            MissingTime::Arrival => decode::MissingTime::Arrival,
            MissingTime::DeadLetter => decode::MissingTime::DeadLetter,
        };
    }
    if let Some(future_max) = what.max_future {
        rules.future_max = future_max;
    }
    let partition_by = what.partition_by.clone().unwrap_or(live.partition_by);
    match &what.definition {
        Some(Definition { columns, transform }) => {
            Pipeline { rules, partition_by, columns: columns.clone(), transform: transform.clone() }
        }
        None => Pipeline { rules, partition_by, ..live },
    }
}
