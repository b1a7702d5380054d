//! `headwater status`.

mod stream;
mod text;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_consumer::lease::LeaseStore;
use headwater_consumer::lease::row::{LeaseKey, Row, check_keys};
use headwater_lake::commit::{positions_after, read_cut};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::lanes;
use headwater_lake::layout::{Epoch, Lane, Output};
use headwater_lake::reading::{self, Totals};
use headwater_lake::store::LakeStore;
use headwater_lake::table::DeltaLog;
use serde_json::{Map, Value, json};

use self::stream::Stream;
use super::leases;
use crate::cli::{ReportFormat, Status};
use crate::fullness;

/// Shows streams and tables.
pub(crate) async fn run(options: Status) -> anyhow::Result<()> {
    let stream = stream::look(&options).await?;
    let leases = match &options.lease_table {
        Some(table) => Some(leases::look_at(table).await?),
        None => None,
    };
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
            // A stream of another identity says nothing about this table's lag.
            let stream = stream.as_ref().filter(|stream| stream.identity == open.description.stream);
            let held = match &leases {
                Some(leases) => Some(held(&open, leases).await?),
                None => None,
            };
            tables.push(table_status(&open, stream, held.as_ref(), options.lag).await?);
        }
        let disk = disk_status(&options.lake, "the disk that holds the lake", "make room on it")?;
        lake = Some(json!({"path": options.lake.display().to_string(), "disk": disk}));
    } else if stream.is_none() {
        anyhow::bail!("there is no lake at {} and no stream at {}", options.lake.display(), options.from);
    }
    let document = json!({"stream": stream.map(|stream| stream.document), "lake": lake, "tables": tables});
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&document)?),
        ReportFormat::Table => crate::write_out(text::text(&document).trim_end()),
    }
}

/// Describes the disk under a folder; `name` and `remedy` are for the warning.
fn disk_status(folder: &Path, name: &str, remedy: &str) -> anyhow::Result<Value> {
    let (used, size) = fullness::of_disk(folder)?;
    let warning = fullness::warning(name, (used, size), remedy);
    Ok(json!({"used_bytes": used, "disk_bytes": size, "warning": warning}))
}

/// Reads the leases of a table's lanes.
async fn held(open: &OpenGeneration, leases: &Arc<dyn LeaseStore>) -> anyhow::Result<BTreeMap<Lane, Row>> {
    check_keys(&leases.place(), &open.table, &leases.keys("").await?)?;
    let (table, generation) = (&open.table, open.description.number);
    let key = |lane| LeaseKey { table: table.clone(), generation, lane };
    let keys: Vec<_> = lanes::current(open).await?.set.lanes().map(key).collect();
    Ok(leases.read(&keys).await?.into_iter().map(|row| (row.key.lane, row)).collect())
}

async fn table_status(
    open: &OpenGeneration,
    stream: Option<&Stream>,
    held: Option<&BTreeMap<Lane, Row>>,
    lag: bool,
) -> anyhow::Result<Value> {
    let mut lanes = Vec::new();
    let events = DeltaLog::new(open, Output::Events)?;
    let current = lanes::current(open).await?;
    for lane in current.set.lanes() {
        let committed = events.load(lane).await?.committed;
        let mut positions = positions_after(open, lane, committed).await?;
        let cut = if committed > Epoch(0) { read_cut(open, lane, committed).await? } else { None };
        positions.retain(|shard, _| stream.is_none_or(|stream| stream.is_in_lane(shard, lane)));
        let mut described = json!({
            "lane": lane,
            "epoch": committed,
            "positions": positions,
            "events_behind": stream.and_then(|stream| stream.events_behind(&positions)),
            "last_epoch_events": cut.map(|cut| cut.account.read),
        });
        if let Some(stream) = stream.filter(|_| lag) {
            let (behind, problems) = lag_of(stream, lane, &positions).await;
            described["millis_behind"] = behind.into();
            described["problems"] = problems.into();
        }
        if let Some(held) = held {
            described["lease"] = lease_json(held.get(&lane));
        }
        lanes.push(described);
    }
    let last_commit = last_commit_of(open, &events).await?;
    let totals = reading::totals(open, Output::Events).await?;
    let letters = reading::totals(open, Output::DeadLetters).await?;
    Ok(json!({
        "table": open.table.as_str(),
        "generation": open.description.number,
        "stream": open.description.stream,
        "pipeline": open.description.pipeline,
        "lane_set": current.set.number,
        "next_lanes": current.next.map(|next| next.count),
        "lanes": lanes,
        "events": totals_json(&totals),
        "dead_letters": totals_json(&letters),
        "last_commit": last_commit,
    }))
}

/// Asks for the lag of a lane in each of its shards; says where there is no answer, and why.
async fn lag_of(
    stream: &Stream,
    lane: Lane,
    positions: &BTreeMap<ShardId, Position>,
) -> (Map<String, Value>, Map<String, Value>) {
    let (mut behind, mut problems) = (Map::new(), Map::new());
    for shard in stream.shards_of(lane) {
        let position = positions.get(shard).copied().unwrap_or(Position::START);
        let millis = if position == Position::SHARD_END {
            Some(0)
        } else {
            match stream.behind(shard, position).await {
                Ok(behind) => behind.map(|behind| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX)),
                Err(error) => {
                    problems.insert(shard.to_string(), format!("{:#}", anyhow::Error::from(error)).into());
                    None
                }
            }
        };
        behind.insert(shard.to_string(), json!(millis));
    }
    (behind, problems)
}

/// A lease says nothing of its age: `last_seen` is what its owner's own clock showed.
fn lease_json(row: Option<&Row>) -> Value {
    let name = |worker: Option<&headwater_consumer::lease::WorkerId>| worker.map(ToString::to_string);
    match row {
        None => json!({"owner": null}),
        Some(row) => json!({
            "owner": name(row.claim.owner.as_ref()),
            "counter": row.claim.counter,
            "hand_over_to": name(row.claim.wish.as_ref()),
            "checkpoint": row.checkpoint,
            "owner_switches_since_checkpoint": row.owner_switches,
            "last_seen": row.renewed_at,
        }),
    }
}

/// Returns when the newest version of the Delta log was written.
async fn last_commit_of(open: &OpenGeneration, log: &DeltaLog) -> anyhow::Result<Option<Timestamp>> {
    let Some(snapshot) = log.snapshot().await? else {
        return Ok(None);
    };
    let number = open.description.number;
    let key = headwater_lake::layout::delta_commit(&open.table, Output::Events, number, snapshot.version());
    let found = open.store.head(&key).await?;
    Ok(found.map(|object| Timestamp::from_micros(object.last_modified.timestamp_micros())))
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
