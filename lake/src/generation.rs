//! Generations: what each was built with, and opening the one that the highest pointer names.
//!
//! A generation is one complete build of a pipeline's outputs from the log. `_generation.json` is created once and
//! says what it was built with. A number that was ever used, by a folder, a pointer or a retired generation, is never
//! used again.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};
use headwater_common::window::{Key, Partitioning, Start};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::layout::{self, GenerationNumber, Lane, Output, TableName};
use crate::pointer::{self, Pointer, Publish};
use crate::store::{Create, LakeStore};

/// The version of a generation that begins where streams with numbers say.
const VERSION: u32 = 1;

/// The newest version of the format: that of a generation that begins with marks or behind shards' ends.
const MARK_VERSION: u32 = 2;

/// What a generation was built with: `_generation.json`, described in `docs/formats/generation.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Version of the format.
    pub version: u32,
    /// Its number.
    pub number: GenerationNumber,
    /// The effective pipeline in canonical form: what the rows are a function of, besides the log.
    pub pipeline: BTreeMap<String, Value>,
    /// Hash of that form.
    pub pipeline_hash: String,
    /// How the tables are partitioned.
    pub partition_by: Partitioning,
    /// How many lanes the first set has; see [`crate::lanes`] for those that followed.
    pub lanes: u32,
    /// What tells the stream from every other.
    pub stream: String,
    /// Digits that sequence numbers are padded to.
    pub sequence_digits: usize,
    /// Whether a segment's length counts its events.
    pub gap_free: bool,
    /// Where each shard that existed is read from: after these positions.
    pub start: BTreeMap<ShardId, Position>,
}

/// A generation and the lake it is in.
#[derive(Debug, Clone)]
pub struct OpenGeneration {
    /// The lake.
    pub store: LakeStore,
    /// The table.
    pub table: TableName,
    /// What it was built with.
    pub description: Generation,
}

/// A partition key, and the name of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionKey {
    /// The column's name: the key's, or with `event_` before it where the data has a column of that name.
    pub column: String,
    /// The key.
    pub kind: Key,
}

const EVENT_PREFIX: &str = "event_";

impl PartitionKey {
    /// Returns the keys of a partitioning; `taken` says which names the data has (asked in lower case).
    pub fn of(partitioning: &Partitioning, taken: impl Fn(&str) -> bool) -> Vec<Self> {
        let key = |kind: &Key| {
            let name = kind.name();
            let mut column = name.to_owned();
            while taken(&column) {
                column.insert_str(0, EVENT_PREFIX);
            }
            Self { column, kind: *kind }
        };
        partitioning.keys().iter().map(key).collect()
    }

    /// Returns the keys of a partitioning under the names that a table has given them.
    pub fn named(partitioning: &Partitioning, columns: &[String]) -> Option<Vec<Self>> {
        let matches = |key: &Key, column: &String| column.trim_start_matches(EVENT_PREFIX) == key.name();
        let kinds = partitioning.keys();
        let fits = kinds.len() == columns.len() && kinds.iter().zip(columns).all(|(key, column)| matches(key, column));
        fits.then(|| {
            let named = kinds.iter().zip(columns);
            named.map(|(kind, column)| Self { column: column.clone(), kind: *kind }).collect()
        })
    }

    /// Returns the Delta type of the key's column.
    pub fn delta_type(&self) -> &'static str {
        if self.kind == Key::Date { "date" } else { "integer" }
    }

    /// Returns the key's value in a window, as Delta writes it.
    pub fn value(&self, window: Start) -> String {
        self.kind.table_value(window)
    }
}

impl Generation {
    /// Returns the lanes that the generation was made with. Those of an archive stay so; a table may have gone on with
    /// others, see [`crate::lanes`].
    pub fn first_lanes(&self) -> impl Iterator<Item = Lane> {
        let count = self.lanes;
        (0..count).map(move |index| Lane::of_first_set(index, count))
    }

    /// Returns the bytes that are stored.
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a description has string keys only")
    }

    /// Returns the settings in which another pipeline differs from this generation's, for people: `- key: value` is
    /// what it was built with, `+ key: value` what is asked for; sorted by key.
    pub fn difference(&self, other: &BTreeMap<String, Value>) -> String {
        let keys: BTreeSet<_> = self.pipeline.keys().chain(other.keys()).collect();
        let mut lines = Vec::new();
        for key in keys {
            let (was, is) = (self.pipeline.get(key), other.get(key));
            if was == is {
                continue;
            }
            lines.extend(was.map(|value| format!("- {key}: {value}")));
            lines.extend(is.map(|value| format!("+ {key}: {value}")));
        }
        lines.join("\n")
    }
}

/// Returns the live generation's number; `None` when the table has none.
///
/// # Errors
/// When the store does not answer or the pointer is damaged.
pub async fn live(store: &LakeStore, table: &TableName) -> Result<Option<GenerationNumber>, Error> {
    Ok(pointer::highest(store, table).await?.map(|pointer| pointer.generation))
}

/// Opens the live generation of a table.
///
/// # Errors
/// When the table has none, naming those that the lake has.
pub async fn open_live(store: &LakeStore, table: &TableName) -> Result<OpenGeneration, Error> {
    match live(store, table).await? {
        Some(number) => open(store, table, number).await,
        None => {
            let existing = tables(store).await?;
            let existing = existing.iter().map(TableName::as_str).collect::<Vec<_>>().join(", ");
            Err(Error::NoTable { table: table.clone(), lake: store.url().to_string(), existing })
        }
    }
}

/// Returns the tables of a lake, sorted.
///
/// # Errors
/// When the store does not answer.
pub async fn tables(store: &LakeStore) -> Result<Vec<TableName>, Error> {
    let mut tables = Vec::new();
    for name in store.names_in(None).await? {
        let Ok(table) = name.parse::<TableName>() else {
            continue;
        };
        if live(store, &table).await?.is_some() {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// Opens a generation by its number.
///
/// # Errors
/// When its description is missing, damaged or of a newer format.
pub async fn open(store: &LakeStore, table: &TableName, number: GenerationNumber) -> Result<OpenGeneration, Error> {
    let key = layout::generation_file(table, number);
    let damaged = |source: String| Error::Damaged { key: key.clone(), source: source.into() };
    let Some(bytes) = store.read(&key).await? else {
        let existing = in_folders(store, table).await?;
        let existing = existing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Error::NoGeneration { table: table.clone(), number, existing });
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let found = value["version"].as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or(0);
    if !(VERSION..=MARK_VERSION).contains(&found) {
        return Err(Error::UnknownFormat { key, found, known: MARK_VERSION });
    }
    let description = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    Ok(OpenGeneration { store: store.clone(), table: table.clone(), description })
}

/// Opens the live generation, or creates the first one from `wanted`; who comes second takes what the first created.
/// Refuses a generation of another pipeline or another stream.
///
/// # Errors
/// Says what differs, and what to do.
pub async fn open_or_create(store: &LakeStore, table: &TableName, wanted: Generation) -> Result<OpenGeneration, Error> {
    let number = match live(store, table).await? {
        Some(number) => number,
        None => create_first(store, table, &wanted).await?,
    };
    let open = open(store, table, number).await?;
    let found = &open.description;
    if found.stream != wanted.stream {
        return Err(Error::OtherStream { table: table.clone(), expected: found.stream.clone(), actual: wanted.stream });
    }
    if found.pipeline_hash != wanted.pipeline_hash {
        let difference = found.difference(&wanted.pipeline);
        return Err(Error::OtherPipeline { table: table.clone(), lake: store.place(), difference });
    }
    pointer::link_current(store, table).await?;
    Ok(open)
}

/// Returns the generations that the table has folders of, in any output, sorted.
///
/// # Errors
/// When the store does not answer.
pub async fn in_folders(store: &LakeStore, table: &TableName) -> Result<BTreeSet<GenerationNumber>, Error> {
    let mut numbers = BTreeSet::new();
    for output in Output::ALL {
        let folder = object_store::path::Path::from(output.folder(table));
        let names = store.names_in(Some(&folder)).await?;
        numbers.extend(names.iter().filter_map(|name| name.parse::<GenerationNumber>().ok()));
    }
    Ok(numbers)
}

/// Returns the number that a new generation gets: above all that were ever used.
pub fn next_number(in_folders: &BTreeSet<GenerationNumber>, highest: Option<&Pointer>) -> GenerationNumber {
    let named = highest.map(|pointer| pointer.generation);
    let retired = highest.and_then(|pointer| pointer.retired.last().copied());
    let used = in_folders.last().copied().into_iter().chain(named).chain(retired).max();
    used.map_or(GenerationNumber::FIRST, GenerationNumber::next)
}

/// Creates a further generation of a table, under the next free number. It becomes live by a cutover only.
///
/// # Errors
/// When another run takes each number first, or the store does not answer.
pub async fn create_next(
    store: &LakeStore,
    table: &TableName,
    mut wanted: Generation,
) -> Result<OpenGeneration, Error> {
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        let highest = pointer::highest(store, table).await?;
        wanted.number = next_number(&in_folders(store, table).await?, highest.as_ref());
        let key = layout::generation_file(table, wanted.number);
        let created = store.create(&key, wanted.to_bytes().into()).await?;
        // Another run may want the very same generation at the same time: the two must not share one, so what was not
        // surely created by this call is left alone. Its number is used up, and `gc` removes it in the end.
        if created == Create::Created {
            return Ok(OpenGeneration { store: store.clone(), table: table.clone(), description: wanted });
        }
    }
    let key = layout::generation_file(table, wanted.number);
    Err(Error::Damaged { key, source: "no number was free, or the store never said so".into() })
}

async fn create_first(store: &LakeStore, table: &TableName, wanted: &Generation) -> Result<GenerationNumber, Error> {
    let number = wanted.number;
    create_surely(store, &layout::generation_file(table, number), wanted.to_bytes()).await?;
    Ok(match pointer::create(store, table, &Pointer::first(number)).await? {
        Publish::Stands => number,
        Publish::Lost { winner } => winner.generation,
    })
}

/// Creates an object unless there is one; asks again while the answer is unclear.
pub(crate) async fn create_surely(
    store: &LakeStore,
    key: &object_store::path::Path,
    bytes: Vec<u8>,
) -> Result<(), Error> {
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        match store.create(key, bytes.clone().into()).await? {
            Create::Created | Create::Exists => return Ok(()),
            Create::Unknown => {}
        }
    }
    Err(Error::Damaged { key: key.clone(), source: "the store never said whether it was created".into() })
}

impl Generation {
    /// Returns the description of a first generation, in the oldest version of the format that can say where it begins.
    pub fn first(
        pipeline: BTreeMap<String, Value>,
        pipeline_hash: String,
        partition_by: Partitioning,
        lanes: u32,
        stream: StreamFacts,
    ) -> Self {
        let is_plain = stream.start.values().all(|position| position.is_plain());
        Self {
            version: if is_plain { VERSION } else { MARK_VERSION },
            number: GenerationNumber::FIRST,
            pipeline,
            pipeline_hash,
            partition_by,
            lanes,
            stream: stream.identity,
            sequence_digits: stream.sequence_digits,
            gap_free: stream.gap_free,
            start: stream.start,
        }
    }
}

/// What a generation remembers of its stream.
#[derive(Debug, Clone)]
pub struct StreamFacts {
    /// What tells it from every other.
    pub identity: String,
    /// Digits that sequence numbers are padded to.
    pub sequence_digits: usize,
    /// Whether a segment's length counts its events.
    pub gap_free: bool,
    /// Where each shard is read from: after these positions.
    pub start: BTreeMap<ShardId, Position>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_can_be_read() {
        let form =
            |pairs: &[(&str, Value)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let stream = StreamFacts { identity: "s".into(), sequence_digits: 20, gap_free: true, start: BTreeMap::new() };
        let was: BTreeMap<_, _> = form(&[("a", json!("x")), ("b", json!(1)), ("d", json!("same"))]);
        let is: BTreeMap<_, _> = form(&[("a", json!("y")), ("c", json!({"n": "BIGINT"})), ("d", json!("same"))]);
        let generation = Generation::first(was, "h".into(), Partitioning::default(), 1, stream);
        let expected = "- a: \"x\"\n+ a: \"y\"\n- b: 1\n+ c: {\"n\":\"BIGINT\"}";
        assert_eq!(generation.difference(&is), expected);
    }

    /// A generation that begins at these positions of shards 0, 1 and 2.
    fn beginning_at(start: [&str; 3]) -> Generation {
        let shards = ["0", "1", "2"].map(ShardId::from);
        let start = shards.into_iter().zip(start.map(|text| text.parse().unwrap())).collect();
        let stream = StreamFacts { identity: "s".into(), sequence_digits: 56, gap_free: false, start };
        let pipeline = BTreeMap::from([("id_field".to_owned(), json!("_event_id"))]);
        Generation::first(pipeline, "00ff".into(), Partitioning::default(), 1, stream)
    }

    #[test]
    fn golden_bytes_of_both_versions() {
        let plain = (beginning_at(["0:0", "7:1", "9:0"]), include_str!("../golden/generation-v1.json"));
        let marks =
            (beginning_at(["0:0@1763737200000000", "7:1", "SHARD_END"]), include_str!("../golden/generation-v2.json"));
        for (version, (generation, golden)) in [(1, plain), (2, marks)] {
            assert_eq!(generation.version, version, "older versions read what they know");
            assert_eq!(String::from_utf8(generation.to_bytes()).unwrap(), golden.trim_end());
            assert_eq!(serde_json::from_str::<Generation>(golden).unwrap(), generation);
        }
    }

    #[test]
    fn a_number_is_never_used_again() {
        let numbers = |all: &[u32]| all.iter().copied().map(GenerationNumber).collect::<BTreeSet<_>>();
        let pointer = |generation, retired: &[u32]| {
            let first = Pointer::first(GenerationNumber(generation));
            Pointer { retired: numbers(retired), ..first }
        };
        let next = |folders: &[u32], highest: Option<Pointer>| next_number(&numbers(folders), highest.as_ref()).0;
        assert_eq!(next(&[], None), 1);
        assert_eq!(next(&[1], Some(pointer(1, &[]))), 2);
        assert_eq!(next(&[1, 2, 3], Some(pointer(1, &[]))), 4, "built and never live");
        assert_eq!(next(&[1], Some(pointer(1, &[2, 3]))), 4, "retired and gone");
        assert_eq!(next(&[], Some(pointer(5, &[2]))), 6);
    }
}
