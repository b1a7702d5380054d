//! A stream's archive: its records as they were, in a table of its own below `<lake>/__archive/<stream>/`.
//!
//! Guarantees: what an archive is made of is said once, in its description, and is the same for every writer; the
//! shards it knows are never forgotten. It has one generation, and no pointer: nothing rebuilds it, nothing else can
//! become live in its place, and only a [`retention`] of its own takes records out. Relies on the commit protocol,
//! which it shares with every table. Described in `docs/formats/archive.md`.
//!
//! Absent on purpose: reading and writing the records. They are events of a stream, of which the lake knows nothing.

mod name;
pub mod retention;
mod shards;

use std::collections::BTreeMap;

use headwater_common::window::Partitioning;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::generation::{self, Generation, OpenGeneration, PartitionKey, StreamFacts};
use crate::layout::{self, GenerationNumber, TableName};
use crate::schema::{Column, ColumnType, SchemaVersion, TableSchema};
use crate::store::LakeStore;

pub use self::name::{ArchiveName, ParseError};
pub use self::shards::{ShardRecord, know_shards, shards};

/// The version of the format: columns, order of the rows, names.
pub const VERSION: u32 = 1;

/// The column with the name of the shard.
pub const SHARD: &str = "shard";
/// The column with the record's sequence number, with leading zeros up to the stream's fixed width.
pub const SEQUENCE: &str = "sequence";
/// The column with the event's place in its record.
pub const SUB_SEQUENCE: &str = "sub_sequence";
/// The column with the time at which the stream accepted the record.
pub const ARRIVED_AT: &str = "arrived_at";
/// The column with the key that chose the shard.
pub const PARTITION_KEY: &str = "partition_key";
/// The column with the record's bytes.
pub const PAYLOAD: &str = "payload";

/// Returns the columns of every archive.
pub fn schema() -> TableSchema {
    let column = |name, kind| Column::new(name, kind, SchemaVersion::FIRST);
    TableSchema {
        version: SchemaVersion::FIRST,
        columns: vec![
            column(SHARD, ColumnType::Utf8),
            column(SEQUENCE, ColumnType::Utf8),
            column(SUB_SEQUENCE, ColumnType::Int64),
            column(ARRIVED_AT, ColumnType::Timestamp),
            column(PARTITION_KEY, ColumnType::Binary),
            column(PAYLOAD, ColumnType::Binary),
        ],
        input: None,
    }
}

/// Returns how every archive is partitioned: by the day of arrival.
pub fn partitioning() -> Partitioning {
    Partitioning::default()
}

/// Returns the partition keys of an archive that does not exist yet.
pub fn partition_keys() -> Vec<PartitionKey> {
    // None of the columns is named like a key.
    PartitionKey::of(&partitioning(), |_| false)
}

/// Returns the names of a lake's archives, sorted.
///
/// # Errors
/// When the store does not answer.
pub async fn names(store: &LakeStore) -> Result<Vec<ArchiveName>, Error> {
    let names = store.names_in(Some(&layout::archives())).await?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Opens an archive.
///
/// # Errors
/// When the lake has no such archive, naming those that it has.
pub async fn open(store: &LakeStore, name: &ArchiveName) -> Result<OpenGeneration, Error> {
    let table = TableName::of_archive(name);
    let key = layout::generation_file(&table, GenerationNumber::FIRST);
    if store.head(&key).await?.is_none() {
        let existing = names(store).await?.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (archive, lake) = (name.clone(), store.url().to_string());
        return Err(Error::NoArchive { archive, lake, existing });
    }
    generation::open(store, &table, GenerationNumber::FIRST).await
}

/// Opens the archive of a stream, and creates it where there is none; who comes second takes what the first created,
/// its lanes included.
///
/// # Errors
/// When the archive is of another format, or the store does not answer.
pub async fn open_or_create(store: &LakeStore, lanes: u32, stream: StreamFacts) -> Result<OpenGeneration, Error> {
    let table = TableName::of_archive(&ArchiveName::of_stream(&stream.identity));
    let wanted = description(lanes, stream);
    let key = layout::generation_file(&table, wanted.number);
    let bytes = serde_json::to_vec_pretty(&wanted).expect("a description has string keys only");
    generation::create_surely(store, &key, bytes).await?;
    let open = generation::open(store, &table, wanted.number).await?;
    let found = &open.description;
    // The name says so already; a folder that was copied or renamed does not.
    if found.stream != wanted.stream {
        return Err(Error::OtherStream { table, expected: found.stream.clone(), actual: wanted.stream });
    }
    if found.pipeline_hash != wanted.pipeline_hash {
        let version = found.pipeline.get("archive").and_then(serde_json::Value::as_u64);
        let version = version.and_then(|version| u32::try_from(version).ok()).unwrap_or(0);
        return Err(Error::UnknownFormat { key, found: version, known: VERSION });
    }
    store.link_current(&table, found.number)?;
    Ok(open)
}

/// An archive's pipeline is its format: that is all its rows are a function of, besides the stream.
fn description(lanes: u32, stream: StreamFacts) -> Generation {
    let form = BTreeMap::from([("archive".to_owned(), json!(VERSION))]);
    let canonical = serde_json::to_vec(&form).expect("the form has string keys only");
    let hash = format!("{:032x}", xxh3_128(&canonical));
    Generation::first(form, hash, partitioning(), lanes, stream)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn facts(identity: &str) -> StreamFacts {
        let (identity, start) = (identity.to_owned(), BTreeMap::new());
        StreamFacts { identity, sequence_digits: 20, gap_free: true, start }
    }

    #[test]
    fn golden_form_of_version_1() {
        let described = description(1, facts("log:1"));
        assert_eq!(serde_json::to_string(&described.pipeline).unwrap(), r#"{"archive":1}"#);
        let columns: Vec<_> = schema().columns.iter().map(|c| format!("{} {}", c.name, c.kind.name())).collect();
        let golden = "shard VARCHAR, sequence VARCHAR, sub_sequence BIGINT, arrived_at TIMESTAMP, \
                      partition_key VARBINARY, payload VARBINARY";
        assert_eq!(columns.join(", "), golden);
        assert_eq!(partitioning().to_string(), "year,month,day");
    }

    #[tokio::test]
    async fn a_stream_that_was_begun_anew_has_an_archive_of_its_own() {
        let store = LakeStore::on_store(Arc::new(InMemory::new()));
        let one = open_or_create(&store, 2, facts("log:1")).await.unwrap();
        let again = open_or_create(&store, 7, facts("log:1")).await.unwrap();
        assert_eq!(one.description, again.description, "who comes second takes what is there");
        let other = open_or_create(&store, 1, facts("log:2")).await.unwrap();
        assert_ne!(one.table, other.table);
        let found = names(&store).await.unwrap();
        assert_eq!(found, ["log__1".parse().unwrap(), "log__2".parse().unwrap()]);
        assert!(generation::tables(&store).await.unwrap().is_empty(), "an archive is no table");
        let missing = open(&store, &"log__3".parse().unwrap()).await.unwrap_err();
        assert!(missing.to_string().contains("log__1, log__2"), "{missing}");
    }
}
