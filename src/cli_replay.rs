//! What can be asked of `headwater replay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use headwater_common::quantity::{Bytes, parse_duration};
use headwater_common::window::Partitioning;
use headwater_lake::layout::{GenerationNumber, TableName};
use headwater_replay::range::{Since, Until};
use headwater_stream::url::StreamUrl;

use crate::cli::{MissingTime, ReportFormat, TimeFormat};
use crate::definition::Definition;

/// Options of `replay`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Replay {
    /// What to do.
    #[command(subcommand)]
    pub command: ReplayCommand,
}

/// The verbs of `replay`.
#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// Says what a run would read, what is lost, and how long it would take; changes nothing
    Plan(ReplayPlan),
    /// Builds the table again, as a new generation beside the live one; goes on with what an earlier run left
    Run(ReplayRun),
    /// Shows the generations of a table: which is live, what each was built with, how far it is
    Status(ReplayStatus),
    /// Compares the live generation with another one, window by window
    Compare(ReplayCompare),
    /// Makes a rebuilt generation live, without a gap; running consumers move over by themselves
    Cutover(ReplayCutover),
    /// Makes the generation live again that was live before, brought up to date
    Rollback(ReplayCutover),
}

/// The table, and the stream it is built from.
#[derive(Debug, Clone, Args)]
pub struct ReplayPlace {
    /// The stream: log:PATH
    #[arg(long, value_name = "STREAM", default_value = "log:./data/stream")]
    pub from: StreamUrl,
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// The table
    #[arg(long, default_value = "events")]
    pub table: TableName,
    /// How large the log may be; as the producer was told
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub log_map_size: Bytes,
}

/// What is to be built.
#[derive(Debug, Clone, Args)]
pub struct ReplayWhat {
    /// Where it begins: generation (where the live one began), oldest, now, a time of arrival, or positions
    #[arg(long, value_name = "WHERE", default_value = "generation")]
    pub since: Since,
    /// Where it ends: now, a time of arrival, or positions
    #[arg(long, value_name = "WHERE", default_value = "now")]
    pub until: Until,
    /// Reads everything once before, and begins with the widest schema of it: an integer column that has fractions
    /// later becomes a float column [default: begin with the live generation's final schema]
    #[arg(long, conflicts_with = "same_cuts")]
    pub infer: bool,
    /// Ends epochs where the live generation did: the same version makes the same bytes
    #[arg(long)]
    pub same_cuts: bool,
    /// Makes a new generation, also when an earlier run left one unfinished
    #[arg(long)]
    pub anew: bool,
    /// Lanes [default: the live generation's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub lanes: Option<u32>,
    /// The field with the event time [default: the live generation's]
    #[arg(long, value_name = "FIELD")]
    pub time_field: Option<String>,
    /// How the event time is written [default: the live generation's]
    #[arg(long, value_enum)]
    pub time_format: Option<TimeFormat>,
    /// What to do with an event without an event time [default: the live generation's]
    #[arg(long, value_enum)]
    pub missing_time: Option<MissingTime>,
    /// How far after its arrival an event may claim to have happened [default: the live generation's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_future: Option<Duration>,
    /// The field with the event id [default: the live generation's]
    #[arg(long, value_name = "FIELD")]
    pub id_field: Option<String>,
    /// How the table is partitioned by event time [default: the live generation's]
    #[arg(long, value_name = "KEYS")]
    pub partition_by: Option<Partitioning>,
    /// What the file says of the pipeline and no flag can; `None` without a file.
    #[arg(skip)]
    pub definition: Option<Definition>,
}

/// Options of `replay plan`.
#[derive(Debug, Args)]
pub struct ReplayPlan {
    /// The table, and the stream it is built from.
    #[command(flatten)]
    pub place: ReplayPlace,
    /// What is to be built.
    #[command(flatten)]
    pub what: ReplayWhat,
    /// Decodes and encodes so much of the events in memory, to measure how fast that is
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub sample: Bytes,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
}

/// Options of `replay run`.
#[derive(Debug, Args)]
pub struct ReplayRun {
    /// The table, and the stream it is built from.
    #[command(flatten)]
    pub place: ReplayPlace,
    /// What is to be built.
    #[command(flatten)]
    pub what: ReplayWhat,
    /// Ends an epoch at so many encoded bytes a file
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    pub flush_bytes: Bytes,
    /// Ends an epoch at so many events
    #[arg(
        long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub flush_rows: u64,
    /// Memory for all that is buffered
    #[arg(long, value_name = "SIZE", default_value = "192MiB")]
    pub memory: Bytes,
    /// Where rows of many windows wait that the memory has no room for [default: the system's temporary folder]
    #[arg(long, value_name = "PATH")]
    pub spill_dir: Option<PathBuf>,
    /// Ends an epoch when so many bytes of rows wait there; the more, the larger the files of many windows
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    pub spill_bytes: Bytes,
    /// Serves /metrics, /healthz and /readyz there
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<std::net::SocketAddr>,
}

/// Options of `replay status`.
#[derive(Debug, Args)]
pub struct ReplayStatus {
    /// The table, and the stream it is built from.
    #[command(flatten)]
    pub place: ReplayPlace,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
}

/// Options of `replay compare`.
#[derive(Debug, Args)]
pub struct ReplayCompare {
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// The table
    #[arg(long, default_value = "events")]
    pub table: TableName,
    /// The generation that the live one is compared with [default: the newest]
    #[arg(long, value_name = "GENERATION")]
    pub with: Option<GenerationNumber>,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
}

/// Options of `replay cutover` and `replay rollback`.
#[derive(Debug, Args)]
pub struct ReplayCutover {
    /// The table, and the stream it is built from.
    #[command(flatten)]
    pub place: ReplayPlace,
    /// The generation to become live [default: of a cutover the newest, of a rollback the one that was live before]
    #[arg(long, value_name = "GENERATION")]
    pub to: Option<GenerationNumber>,
    /// Also when it begins later than the live one, or lacks a shard: readers lose what it lacks
    #[arg(long)]
    pub shorter_history: bool,
    /// Ends an epoch at so many encoded bytes a file
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    pub flush_bytes: Bytes,
    /// Memory for all that is buffered
    #[arg(long, value_name = "SIZE", default_value = "192MiB")]
    pub memory: Bytes,
    /// Where rows of many windows wait that the memory has no room for [default: the system's temporary folder]
    #[arg(long, value_name = "PATH")]
    pub spill_dir: Option<PathBuf>,
    /// Ends an epoch when so many bytes of rows wait there
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    pub spill_bytes: Bytes,
}
