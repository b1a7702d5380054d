//! The shards that an archive knows: a list that only grows, `_shards/<8 digits>.json`; the highest number counts.
//!
//! It is written before the first cut that names one of them, so that whoever reads the archive later knows where each
//! shard's slice begins, also when the stream has forgotten it.

use std::collections::BTreeSet;

use headwater_common::position::ShardId;
use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::VERSION;
use crate::error::Error;
use crate::generation::OpenGeneration;
use crate::layout;
use crate::store::Create;

/// How often a list is written that others write at the same time.
const TRIES: u32 = 20;

/// One shard of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Its name.
    pub id: ShardId,
    /// The first hash key of its slice; decides the lane. Stored as 32 hexadecimal digits.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub first_hash_key: u128,
    /// The shards it came from.
    pub parents: Vec<ShardId>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    version: u32,
    shards: Vec<ShardRecord>,
}

/// Returns the shards that an archive knows, in the order in which they became known: parents before children.
///
/// # Errors
/// When the store does not answer or the list is damaged.
pub async fn shards(archive: &OpenGeneration) -> Result<Vec<ShardRecord>, Error> {
    Ok(newest(archive).await?.1)
}

/// Makes sure that an archive knows these shards. May be called again, and by several writers at once.
///
/// # Errors
/// When the store does not answer, or others are faster every time.
pub async fn know_shards(archive: &OpenGeneration, seen: &[ShardRecord]) -> Result<(), Error> {
    let mut key = Path::default();
    for _ in 0..TRIES {
        let (number, known) = newest(archive).await?;
        let Some(shards) = grown(known, seen) else {
            return Ok(());
        };
        key = key_of(archive, number + 1);
        let list = serde_json::to_vec(&List { version: VERSION, shards }).expect("a list is plain JSON");
        // Whether it was created, or another list is there, or nobody knows: the next look tells.
        let created = archive.store.create(&key, list.into()).await?;
        if created == Create::Created {
            return Ok(());
        }
    }
    Err(Error::Damaged { key, source: "others wrote it at the same time, or the store never said so".into() })
}

/// Returns the list with what is new at its end; `None` when nothing is.
fn grown(mut known: Vec<ShardRecord>, seen: &[ShardRecord]) -> Option<Vec<ShardRecord>> {
    let ids: BTreeSet<_> = known.iter().map(|shard| shard.id.clone()).collect();
    let new = seen.iter().filter(|shard| !ids.contains(&shard.id));
    let before = known.len();
    known.extend(new.cloned());
    (known.len() > before).then_some(known)
}

async fn newest(archive: &OpenGeneration) -> Result<(u32, Vec<ShardRecord>), Error> {
    let folder = layout::archived_shards(&archive.table, archive.description.number);
    let names = archive.store.names_in(Some(&folder)).await?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok());
    let Some(number) = numbers.max() else {
        return Ok((0, Vec::new()));
    };
    let key = key_of(archive, number);
    let damaged = |what: String| Error::Damaged { key: key.clone(), source: what.into() };
    let bytes = archive.store.read(&key).await?.ok_or_else(|| damaged("it vanished".into()))?;
    let list: List = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if list.version != VERSION {
        return Err(Error::UnknownFormat { key, found: list.version, known: VERSION });
    }
    Ok((number, list.shards))
}

fn key_of(archive: &OpenGeneration, number: u32) -> Path {
    let folder = layout::archived_shards(&archive.table, archive.description.number);
    Path::from(format!("{folder}/{number:08}.json"))
}

fn to_hex<S: Serializer>(key: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{key:032x}"))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let text = String::deserialize(deserializer)?;
    u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str) -> ShardRecord {
        ShardRecord { id: id.into(), first_hash_key: 1 << 127, parents: vec!["p".into()] }
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let golden = include_str!("../../golden/archive-shards-v1.json").trim_end();
        let list = List { version: VERSION, shards: vec![shard("0")] };
        assert_eq!(serde_json::to_string(&list).unwrap(), golden);
        assert_eq!(serde_json::from_str::<List>(golden).unwrap().shards, list.shards);
    }

    #[test]
    fn a_list_only_grows() {
        assert_eq!(grown(vec![shard("a")], &[shard("a")]), None);
        assert_eq!(grown(vec![shard("a")], &[shard("b"), shard("a")]), Some(vec![shard("a"), shard("b")]));
        assert_eq!(grown(Vec::new(), &[]), None);
    }
}
