//! The stream as `status` sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use headwater_common::hash;
use headwater_common::position::{Position, ShardId};
use headwater_lake::layout::Lane;
use headwater_stream::embedded::{Log, Options as LogOptions};
use headwater_stream::url::StreamUrl;
use headwater_stream::{Error, Shard, Source};
use serde_json::{Value, json};

use super::disk_status;
use crate::cli::Status;
use crate::fullness;
use crate::verbs::source;

/// How often a stream is asked for a shard's lag, and how long apart: an answer may be on its way.
const LOOKS_MAX: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A stream that is there.
pub(super) struct Stream {
    /// What is shown of it.
    pub(super) document: Value,
    /// What tells it from every other.
    pub(super) identity: String,
    source: Arc<dyn Source>,
    shards: Vec<Shard>,
    /// The newest number of each shard, where numbers count the events.
    newest: Option<BTreeMap<ShardId, u64>>,
}

/// Looks at the stream; `None` for a log that is not there.
pub(super) async fn look(options: &Status) -> anyhow::Result<Option<Stream>> {
    let StreamUrl::Log(path) = &options.from else {
        let source = source::open(&options.from, options.log_map_size).await?;
        let shards = source.shards().await.context("list the shards of the stream")?;
        let identity = source.identity().0;
        let document = json!({"url": source.url(), "identity": identity, "shards": described(&shards)});
        return Ok(Some(Stream { document, identity, source, shards, newest: None }));
    };
    if !path.join("data.mdb").is_file() {
        return Ok(None);
    }
    let log = Log::open(path, LogOptions { map_bytes: options.log_map_size.as_usize() })?;
    let shards = log.shards().await?;
    let summary = log.summary()?;
    let newest = summary.iter().enumerate().map(|(index, shard)| (index.to_string().as_str().into(), shard.newest));
    let newest = Some(newest.collect());
    let (document, identity) = (log_status(&log, path)?, log.identity().0);
    Ok(Some(Stream { document, identity, source: Arc::new(log), shards, newest }))
}

impl Stream {
    /// Returns true when a lane reads the shard, as far as the shard is still known.
    pub(super) fn is_in_lane(&self, shard: &ShardId, lane: Lane) -> bool {
        let known = self.shards.iter().find(|known| known.id == *shard);
        known.is_some_and(|known| hash::slice_of(known.first_hash_key, lane.count) == lane.index)
    }

    /// Returns the shards that a lane reads.
    pub(super) fn shards_of(&self, lane: Lane) -> impl Iterator<Item = &ShardId> {
        let is_in_lane = move |shard: &&Shard| hash::slice_of(shard.first_hash_key, lane.count) == lane.index;
        self.shards.iter().filter(is_in_lane).map(|shard| &shard.id)
    }

    /// Returns how many events stand behind these positions; `None` where numbers do not count them.
    pub(super) fn events_behind(&self, positions: &BTreeMap<ShardId, Position>) -> Option<u64> {
        let newest = self.newest.as_ref()?;
        let behind = |(shard, position): (&ShardId, &Position)| {
            let newest = newest.get(shard)?;
            Some(newest.saturating_sub(position.sequence.as_u64()?))
        };
        Some(positions.iter().filter_map(behind).sum())
    }

    /// Returns how far a position is behind the newest record of its shard; `None` when the stream does not tell.
    pub(super) async fn behind(&self, shard: &ShardId, after: Position) -> Result<Option<Duration>, Error> {
        for _ in 0..LOOKS_MAX {
            let read = self.source.read(shard, after, 1).await?;
            let is_answer = !read.events.is_empty() || read.ended || read.complete_until.is_some();
            if is_answer || self.source.is_gap_free() {
                return Ok(Some(read.behind_latest));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }
}

fn log_status(log: &Log, folder: &Path) -> anyhow::Result<Value> {
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

/// Describes shards by their lineage. Those that are open share the hash keys among them; a closed one is the parent of
/// others. Hash keys are texts: they are larger than the numbers of JSON.
fn described(shards: &[Shard]) -> Vec<Value> {
    let parents: BTreeSet<&ShardId> = shards.iter().flat_map(|shard| &shard.parents).collect();
    let is_open = |shard: &&Shard| !parents.contains(&shard.id);
    let firsts: BTreeSet<u128> = shards.iter().filter(is_open).map(|shard| shard.first_hash_key).collect();
    let describe = |shard: &Shard| {
        let next = firsts.range(shard.first_hash_key..).find(|first| **first > shard.first_hash_key);
        let last = next.map_or(u128::MAX, |next| next - 1);
        json!({
            "shard": shard.id.as_str(),
            "parents": shard.parents.iter().map(ShardId::as_str).collect::<Vec<_>>(),
            "closed": !is_open(&shard),
            "first_hash_key": shard.first_hash_key.to_string(),
            "last_hash_key": is_open(&shard).then(|| last.to_string()),
        })
    };
    shards.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_shards_share_the_hash_keys_and_closed_ones_are_parents() {
        let shard = |id: &str, first_hash_key: u128, parents: &[&str]| Shard {
            id: id.into(),
            first_hash_key,
            parents: parents.iter().map(|parent| ShardId::from(*parent)).collect(),
        };
        let shards = [shard("a", 0, &[]), shard("b", 500, &[]), shard("c", 0, &["a"]), shard("d", 200, &["a"])];
        let described = described(&shards);
        let check = |index: usize, closed: bool, last: Option<String>| {
            assert_eq!(described[index]["closed"], closed, "{index}");
            assert_eq!(described[index]["last_hash_key"].as_str(), last.as_deref(), "{index}");
        };
        check(0, true, None);
        check(1, false, Some(u128::MAX.to_string()));
        check(2, false, Some("199".into()));
        check(3, false, Some("499".into()));
        assert_eq!(described[3]["parents"], json!(["a"]));
    }
}
