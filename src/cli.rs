//! What can be asked of the command. Every flag is also an environment variable `HEADWATER_<FLAG>` and a key of
//! `headwater.toml`; [`crate::config`] adds those.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use headwater_common::quantity::{Bytes, parse_duration};
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Partitioning;
use headwater_lake::layout::{GenerationNumber, TableName};
use headwater_stream::url::StreamUrl;

pub use crate::cli_leases::Sharing;
pub use crate::cli_produce::{FileFormat, Produce, ShardCount};
pub use crate::cli_replay::{
    Replay, ReplayCommand, ReplayCompare, ReplayCutover, ReplayPlace, ReplayPlan, ReplayRun, ReplayStatus, ReplayWhat,
};
use crate::definition::Definition;

/// Turns an event stream into a query-ready Parquet lake, exactly once.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, about, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every verb has.
    #[command(flatten)]
    pub global: Global,
}

/// What every verb has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The configuration file; `headwater.toml` in this folder is read when it is there
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prints the effective settings with their origin, and does nothing else
    #[arg(long, global = true)]
    pub print_config: bool,
    /// How log lines are written
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as headwater_lake=debug
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub log: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replays the rows of CSV or NDJSON files as events of a stream
    Produce(Produce),
    /// Turns the events of a stream into a table of the lake, exactly once
    Consume(Consume),
    /// Builds a table again from the stream, beside the live one
    Replay(Replay),
    /// Runs a SQL statement over the lake
    Query(Query),
    /// Shows the streams' shards and the tables' lanes, positions, rows, files and dead letters
    Status(Status),
    /// Proves that every event of the stream is in the table once, and every file of the table is accounted for
    Verify(Verify),
    /// Removes generations that nobody needs any more, and files that commits took out; says what it would do unless told
    /// to do it
    Gc(Gc),
    /// Shows the whole way on sample data: CSV, stream, lake, SQL
    Demo(Demo),
    /// Prints a completion script for a shell
    Completions(Completions),
}

/// Options of `consume`.
#[derive(Debug, Args)]
pub struct Consume {
    /// The stream: log:PATH, kinesis://NAME, or archive:LAKE/STREAM
    #[arg(long, value_name = "STREAM", default_value = "log:./data/stream")]
    pub from: StreamUrl,
    /// Reads Kinesis by enhanced fan-out, as the registered consumer of that name; registers it if it is not there
    #[arg(long, value_name = "CONSUMER")]
    pub fan_out: Option<String>,
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// The table
    #[arg(long, default_value = "events")]
    pub table: TableName,
    /// Keeps the stream's records in the lake as well, as they are: archive:LAKE/STREAM reads them again
    #[arg(long)]
    pub archive: bool,
    /// Keeps the stream's records and writes no table
    #[arg(long)]
    pub archive_only: bool,
    /// The field with the event time; without one the arrival counts
    #[arg(long, value_name = "FIELD")]
    pub time_field: Option<String>,
    /// How the event time is written
    #[arg(long, value_enum, default_value = "text")]
    pub time_format: TimeFormat,
    /// What to do with an event without an event time
    #[arg(long, value_enum, default_value = "arrival")]
    pub missing_time: MissingTime,
    /// How far after its arrival an event may claim to have happened; beyond it is a dead letter
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = parse_duration)]
    pub max_future: Duration,
    /// The field with the event id
    #[arg(long, value_name = "FIELD", default_value = "_event_id")]
    pub id_field: String,
    /// How the table is partitioned by event time
    #[arg(long, value_name = "KEYS", default_value = "year,month,day")]
    pub partition_by: Partitioning,
    /// Lanes of the table; a table that has others goes on with so many. Unless given, a table keeps those it has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub lanes: u32,
    /// Where a new table begins: trim-horizon, latest, or at:2026-11-21T00:00:00Z
    #[arg(long, value_name = "WHERE", default_value = "trim-horizon")]
    pub start: Start,
    /// Stops when all is committed that the stream had when it started
    #[arg(long)]
    pub until_caught_up: bool,
    /// Ends an epoch at so many encoded bytes a file
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    pub flush_bytes: Bytes,
    /// Ends an epoch at so many events
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub flush_rows: u64,
    /// Ends an epoch so long after its first event
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub flush_age: Duration,
    /// Ends an epoch when nothing came for so long
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub flush_idle: Duration,
    /// Ends an epoch when the newest event time has passed the end of a window
    #[arg(long)]
    pub flush_on_window_close: bool,
    /// Memory for all that is buffered
    #[arg(long, value_name = "SIZE", default_value = "192MiB")]
    pub memory: Bytes,
    /// Where rows of many windows wait that the memory has no room for [default: the system's temporary folder]
    #[arg(long, value_name = "PATH")]
    pub spill_dir: Option<PathBuf>,
    /// Goes on in its own generation when a cutover has kept a lane waiting for so long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub seal_wait: Duration,
    /// Ends an epoch when so many bytes of rows wait there
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub spill_bytes: Bytes,
    /// Not ready when an event has waited longer than this to be committed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub ready_age: Duration,
    /// Which lanes it reads, when there are other workers.
    #[command(flatten)]
    pub sharing: Sharing,
    /// How large the log may be; as the producer was told
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub log_map_size: Bytes,
    /// Serves /metrics, /healthz and /readyz there
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// Which of these the user has set, by the key in the file; the others are those of the table, where there is one.
    #[arg(skip)]
    pub given: std::collections::BTreeSet<String>,
    /// What only the file can say of the pipeline.
    #[arg(skip)]
    pub definition: Definition,
}

/// Options of `query`.
#[derive(Debug, Args)]
pub struct Query {
    /// The statement; it may read only
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    pub output: RowFormat,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The stream, for its shards and the lag: log:PATH (left out unless it is there) or kinesis://NAME
    #[arg(long, value_name = "STREAM", default_value = "log:./data/stream")]
    pub from: StreamUrl,
    /// Shows who has which lane, by the leases in this DynamoDB table
    #[arg(long, value_name = "NAME")]
    pub lease_table: Option<String>,
    /// Asks the stream how far each lane is behind in each shard: some calls a shard
    #[arg(long)]
    pub lag: bool,
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// One table [default: all]
    #[arg(long)]
    pub table: Option<TableName>,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
    /// How large the log may be; as the producer was told
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub log_map_size: Bytes,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// One table [default: all]
    #[arg(long)]
    pub table: Option<TableName>,
    /// One generation, such as g00002 [default: the live one]
    #[arg(long)]
    pub generation: Option<GenerationNumber>,
    /// Reads every file and compares the digest of its rows
    #[arg(long)]
    pub full: bool,
    /// Looks at all epochs again, also those that were verified before
    #[arg(long)]
    pub from_beginning: bool,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
}

/// Options of `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// The lake's folder
    #[arg(long, value_name = "PATH", default_value = "./data/lake")]
    pub lake: PathBuf,
    /// The table [default: all]
    #[arg(long)]
    pub table: Option<TableName>,
    /// Generations that have been of no use for so long, and files taken out so long ago [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
    /// Takes old records out of this archive instead, as `consume --archive` named it; asks for --older-than
    #[arg(long, value_name = "STREAM", requires = "older_than", conflicts_with = "table")]
    pub archive: Option<String>,
    /// Does it
    #[arg(long)]
    pub apply: bool,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where to work; kept [default: a temporary folder, kept too]
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// How event times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TimeFormat {
    /// RFC 3339, YYYY-MM-DD HH:MM:SS or YYYY-MM-DD; UTC without an offset
    Text,
    /// Seconds since 1970
    EpochS,
    /// Milliseconds since 1970
    EpochMs,
    /// Microseconds since 1970
    EpochUs,
}

/// What to do with an event without an event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingTime {
    /// Its arrival counts
    Arrival,
    /// It is a dead letter
    DeadLetter,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// With lines around, for people
    Table,
    /// Comma-separated values
    Csv,
    /// A JSON array
    Json,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    Table,
    /// One JSON document
    Json,
}

/// Where a new table begins in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start(pub headwater_stream::StartAt);

impl std::str::FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use headwater_stream::StartAt;
        Ok(Self(match text {
            "trim-horizon" | "TRIM_HORIZON" => StartAt::TrimHorizon,
            "latest" | "LATEST" => StartAt::Latest,
            _ => {
                let time = text.strip_prefix("at:").ok_or("use trim-horizon, latest or at:2026-11-21T00:00:00Z")?;
                StartAt::At(time.parse::<Timestamp>().map_err(|error| error.to_string())?)
            }
        }))
    }
}

impl From<TimeFormat> for headwater_common::event_time::Format {
    fn from(format: TimeFormat) -> Self {
        match format {
            TimeFormat::Text => Self::Text,
            TimeFormat::EpochS => Self::EpochS,
            TimeFormat::EpochMs => Self::EpochMs,
            TimeFormat::EpochUs => Self::EpochUs,
        }
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    let known = tracing_subscriber::EnvFilter::try_new(text);
    known.map(|_| text.to_owned()).map_err(|error| error.to_string())
}
