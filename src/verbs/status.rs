//! `headwater status`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use headwater_common::position::{Position, ShardId};
use headwater_common::quantity::Bytes;
use headwater_lake::commit::{positions_after, read_cut};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::layout::{Epoch, Output};
use headwater_lake::reading::{self, Totals};
use headwater_lake::store::LakeStore;
use headwater_lake::table::DeltaLog;
use headwater_replay::range::described;
use headwater_stream::Source;
use headwater_stream::embedded::{Log, Options as LogOptions};
use headwater_stream::url::StreamUrl;
use serde_json::{Value, json};

use crate::cli::{ReportFormat, Status};
use crate::config::BadSetting;
use crate::fullness;

/// Shards of a lane that are shown to people although nothing is read of them now.
const SHARDS_SHOWN_MAX: usize = 20;

/// Shows streams and tables.
pub(crate) async fn run(options: Status) -> anyhow::Result<()> {
    let StreamUrl::Log(path) = &options.from else {
        return Err(BadSetting::Other("status shows the shards of a log; write --from log:PATH".into()).into());
    };
    let log_options = LogOptions { map_bytes: options.log_map_size.as_usize() };
    let log = if path.join("data.mdb").is_file() { Some(Log::open(path, log_options)?) } else { None };
    let mut tables = Vec::new();
    let mut lake = None;
    if options.lake.is_dir() {
        let store = LakeStore::existing_on_disk(&options.lake)?;
        let names = match &options.table {
            Some(table) => vec![table.clone()],
            None => generation::tables(&store).await?,
        };
        for name in names {
            let open = generation::open_live(&store, &name).await?;
            tables.push(table_status(&open, log.as_ref()).await?);
        }
        let disk = disk_status(&options.lake, "the disk that holds the lake", "make room on it")?;
        lake = Some(json!({"path": options.lake.display().to_string(), "disk": disk}));
    } else if log.is_none() {
        anyhow::bail!("there is no lake at {} and no log at {}", options.lake.display(), path.display());
    }
    let stream = log.as_ref().map(|log| stream_status(log, path)).transpose()?;
    let document = json!({"stream": stream, "lake": lake, "tables": tables});
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&document)?),
        ReportFormat::Table => crate::write_out(text(&document).trim_end()),
    }
}

fn stream_status(log: &Log, folder: &Path) -> anyhow::Result<Value> {
    let shards: Vec<_> = log
        .summary()?
        .iter()
        .enumerate()
        .map(|(index, shard)| {
            json!({
                "shard": index.to_string(),
                "oldest": shard.oldest,
                "newest": shard.newest,
                "records": shard.records,
                "bytes": shard.bytes,
                "newest_arrived_at": (shard.newest > 0).then_some(shard.newest_arrived_at),
            })
        })
        .collect();
    let (used, size) = log.map_usage()?;
    let warning = fullness::warning("the log's map", (used, size), "raise --log-map-size or set --retention");
    let disk = disk_status(folder, "the disk that holds the log", "make room on it or set --retention")?;
    Ok(json!({
        "url": log.url(),
        "identity": log.identity().0,
        "shards": shards,
        "used_bytes": used,
        "map_bytes": size,
        "warning": warning,
        "disk": disk,
    }))
}

/// Describes the disk under a folder; `name` and `remedy` are for the warning.
fn disk_status(folder: &Path, name: &str, remedy: &str) -> anyhow::Result<Value> {
    let (used, size) = fullness::of_disk(folder)?;
    let warning = fullness::warning(name, (used, size), remedy);
    Ok(json!({"used_bytes": used, "disk_bytes": size, "warning": warning}))
}

async fn table_status(open: &OpenGeneration, log: Option<&Log>) -> anyhow::Result<Value> {
    let mut lanes = Vec::new();
    let events = DeltaLog::new(open, Output::Events)?;
    // A log of another identity says nothing about this table's lag.
    let log = log.filter(|log| log.identity().0 == open.description.stream);
    let newest: BTreeMap<ShardId, u64> = match log {
        Some(log) => {
            log.summary()?.iter().enumerate().map(|(i, s)| (i.to_string().as_str().into(), s.newest)).collect()
        }
        None => BTreeMap::new(),
    };
    for lane in open.description.lane_set() {
        let committed = events.load(lane).await?.committed;
        let positions = positions_after(open, lane, committed).await?;
        let cut = if committed > Epoch(0) { read_cut(open, lane, committed).await? } else { None };
        let in_lane = |shard: &ShardId| {
            let Some(log) = log else { return true };
            let index: u32 = shard.as_str().parse().unwrap_or(0);
            let first = headwater_common::hash::first_of_slice(index, log.shard_count());
            headwater_common::hash::slice_of(first, lane.count) == lane.index
        };
        let mine: BTreeMap<_, _> = positions.into_iter().filter(|(shard, _)| in_lane(shard)).collect();
        let lag = |(shard, position): (&ShardId, &Position)| {
            let newest = newest.get(shard)?;
            Some(newest.saturating_sub(position.sequence.as_u64()?))
        };
        let behind: Option<u64> = log.map(|_| mine.iter().filter_map(lag).sum());
        lanes.push(json!({
            "lane": lane,
            "epoch": committed,
            "positions": mine,
            "events_behind": behind,
            "last_epoch_events": cut.map(|cut| cut.account.read),
        }));
    }
    let last_commit = last_commit_of(open, &events).await?;
    let totals = reading::totals(open, Output::Events).await?;
    let letters = reading::totals(open, Output::DeadLetters).await?;
    Ok(json!({
        "table": open.table.as_str(),
        "generation": open.description.number,
        "stream": open.description.stream,
        "pipeline": open.description.pipeline,
        "lanes": lanes,
        "events": totals_json(&totals),
        "dead_letters": totals_json(&letters),
        "last_commit": last_commit,
    }))
}

/// Returns when the newest version of the Delta log was written.
async fn last_commit_of(
    open: &OpenGeneration,
    log: &DeltaLog,
) -> anyhow::Result<Option<headwater_common::timestamp::Timestamp>> {
    let Some(snapshot) = log.snapshot().await? else {
        return Ok(None);
    };
    let number = open.description.number;
    let key = headwater_lake::layout::delta_commit(&open.table, Output::Events, number, snapshot.version());
    let found = open.store.head(&key).await?;
    Ok(found.map(|object| headwater_common::timestamp::Timestamp::from_micros(object.last_modified.timestamp_micros())))
}

fn totals_json(totals: &Totals) -> Value {
    json!({
        "version": totals.version,
        "rows": totals.rows,
        "files": totals.files,
        "bytes": totals.bytes,
        "partitions": totals.partitions,
    })
}

/// Returns the shards of a lane that are read to their end, or were quiet, for people.
fn unusual_positions(lane: &Value) -> Vec<String> {
    let positions = lane["positions"].as_object().into_iter().flatten();
    let parsed = positions.filter_map(|(shard, text)| Some((shard, text.as_str()?.parse::<Position>().ok()?)));
    let unusual: Vec<_> = parsed.filter(|(_, position)| !position.is_plain()).collect();
    let shown = unusual.iter().take(SHARDS_SHOWN_MAX);
    let mut lines: Vec<_> =
        shown.map(|(shard, position)| format!("    shard {shard} read up to {}", described(*position))).collect();
    if let Some(more) = unusual.len().checked_sub(SHARDS_SHOWN_MAX).filter(|more| *more > 0) {
        lines.push(format!("    and {more} shards more, all in `--output json`"));
    }
    lines
}

fn text(document: &Value) -> String {
    let mut out = String::new();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string does not fail");
    if let Some(stream) = document["stream"].as_object() {
        line(format!("stream {}", stream["url"].as_str().unwrap_or_default()));
        for shard in stream["shards"].as_array().into_iter().flatten() {
            line(format!(
                "  shard {:<4} {:>12} records  {:>10}  sequences {} to {}",
                shard["shard"].as_str().unwrap_or_default(),
                number(&shard["records"]),
                Bytes(number(&shard["bytes"])).to_string(),
                number(&shard["oldest"]),
                number(&shard["newest"])
            ));
        }
        for warning in [&stream["warning"], &stream["disk"]["warning"]].into_iter().filter_map(Value::as_str) {
            line(format!("  WARNING: {warning}"));
        }
    }
    if let Some(warning) = document["lake"]["disk"]["warning"].as_str() {
        line(format!("WARNING: {warning}"));
    }
    for table in document["tables"].as_array().into_iter().flatten() {
        let (events, letters) = (&table["events"], &table["dead_letters"]);
        line(format!("table {}, generation {}", table["table"].as_str().unwrap_or_default(), table["generation"]));
        line(format!(
            "  {} rows in {} files, {}, {} partitions; {} dead letters",
            number(&events["rows"]),
            number(&events["files"]),
            Bytes(number(&events["bytes"])),
            number(&events["partitions"]),
            number(&letters["rows"])
        ));
        for lane in table["lanes"].as_array().into_iter().flatten() {
            let behind = lane["events_behind"].as_u64().map_or("unknown".to_owned(), |count| count.to_string());
            line(format!(
                "  lane {}: epoch {}, {behind} events behind",
                lane["lane"].as_str().unwrap_or_default(),
                lane["epoch"]
            ));
            unusual_positions(lane).into_iter().for_each(&mut line);
        }
        line(format!("  last commit {}", table["last_commit"].as_str().unwrap_or("never")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_ended_or_were_quiet_are_said_in_words() {
        let lane = json!({"positions": {"a": "7:1", "b": "SHARD_END", "c": "9:0@1763737200000000"}});
        let expected =
            ["    shard b read up to its end", "    shard c read up to 9:0 (quiet until 2025-11-21T15:00:00Z)"];
        assert_eq!(unusual_positions(&lane), expected);
    }
}
