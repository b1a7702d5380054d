//! What can be asked of `headwater produce`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use headwater_common::quantity::{Bytes, Rate, parse_duration};
use headwater_stream::url::StreamUrl;

use crate::cli::TimeFormat;

/// Options of `produce`.
#[derive(Debug, Args)]
pub struct Produce {
    /// CSV or NDJSON files, plain, gzip or zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// The stream: log:PATH, or kinesis://NAME
    #[arg(long, value_name = "STREAM", default_value = "log:./data/stream")]
    pub to: StreamUrl,
    /// How the files are written; told from the first byte unless given
    #[arg(long, value_enum)]
    pub format: Option<FileFormat>,
    /// The character between fields
    #[arg(long, default_value = ",", value_parser = parse_byte)]
    pub delimiter: u8,
    /// The character around fields
    #[arg(long, default_value = "\"", value_parser = parse_byte)]
    pub quote: u8,
    /// The columns' names, for files without a header
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub columns: Option<Vec<String>>,
    /// A cell that means null; may be repeated [default: the empty cell]
    #[arg(long = "null", value_name = "TOKEN")]
    pub nulls: Option<Vec<String>>,
    /// Keeps all cells as strings
    #[arg(long)]
    pub strings: bool,
    /// The column whose value chooses the shard [default: the event id]
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// The column with the event time
    #[arg(long, value_name = "COLUMN")]
    pub time_field: Option<String>,
    /// How the event time is written
    #[arg(long, value_enum, default_value = "text")]
    pub time_format: TimeFormat,
    /// Shards of a stream that does not exist yet: a number, or on-demand (Kinesis)
    #[arg(long, value_name = "N|on-demand")]
    pub shards: Option<ShardCount>,
    /// Makes the stream when it does not exist; asks for --shards (Kinesis; a log is made anyway)
    #[arg(long)]
    pub create: bool,
    /// Packs many events into one record, as the Kinesis Producer Library does: far fewer records and calls (Kinesis)
    #[arg(long)]
    pub aggregate: bool,
    /// Bytes of such a record; every 25 KiB of it are billed as one unit [default: 50KiB]
    #[arg(long, value_name = "SIZE")]
    pub aggregate_bytes: Option<Bytes>,
    /// Sends the events of a key without waiting for those before them: faster where there are few keys, but what is
    /// sent again may come behind later ones (Kinesis)
    #[arg(long)]
    pub unordered: bool,
    /// Sends as fast as the stream takes it, without keeping to 1 MiB and 1,000 records a second and shard (Kinesis;
    /// for servers without that limit)
    #[arg(long)]
    pub unpaced: bool,
    /// Sends so much a second: 5000/s, 4MiB/s
    #[arg(long)]
    pub rate: Option<Rate>,
    /// Sends as the event times are apart, so many times faster; merges several files by time
    #[arg(long, value_name = "TIMES", value_parser = parse_speedup)]
    pub speedup: Option<f64>,
    /// Stops after so many rows, those of a resumed run included
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// Begins anew after the last row
    #[arg(long = "loop")]
    pub repeat: bool,
    /// Goes on where an earlier run over the same files stopped
    #[arg(long)]
    pub resume: bool,
    /// Where the run notes how far it is [default: .headwater/produce-HASH.json]
    #[arg(long, value_name = "FILE")]
    pub progress_file: Option<PathBuf>,
    /// Where bad rows go, and those that the stream does not take, with line, byte and reason
    #[arg(long, value_name = "FILE", default_value = "headwater-rejects.ndjson")]
    pub reject_file: PathBuf,
    /// Bytes of a batch; each is safe in the stream before it counts as sent
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub batch_bytes: Bytes,
    /// Batches that come within this time share one sync of the disk (log) [default: a sync a batch]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub sync_every: Option<Duration>,
    /// Deletes events that are older (log) [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub retention: Option<Duration>,
    /// Deletes the oldest events when the stream is larger (log) [default: never]
    #[arg(long, value_name = "SIZE")]
    pub retention_bytes: Option<Bytes>,
    /// How large the log may grow; address space only, until it is used
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub log_map_size: Bytes,
    /// Serves /metrics, /healthz and /readyz there
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<std::net::SocketAddr>,
}

/// How input files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// How many shards a new stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardCount {
    /// So many, from 1.
    Number(u32),
    /// As many as Kinesis finds right.
    OnDemand,
}

impl FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || text.parse().ok().filter(|number| *number > 0).map(Self::Number);
        let count = if text == "on-demand" { Some(Self::OnDemand) } else { number() };
        count.ok_or_else(|| "it must be a number from 1, or on-demand".to_owned())
    }
}

fn parse_byte(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err("it must be one ASCII character, or \\t".to_owned()),
    }
}

fn parse_speedup(text: &str) -> Result<f64, String> {
    let speedup: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (1e-6..=1e9).contains(&speedup) { Ok(speedup) } else { Err("it must be from 0.000001 to 1000000000".to_owned()) }
}
