//! The pointers of a table: `_pointer/00000007.json`. The highest one names the live generation.
//!
//! Guarantees: pointers have no gaps and never change; creating number k + 1 if absent is the compare-and-swap between
//! all tools and consumers. Relies on: who creates k + 1 has read k. Losing that race is a value, [`Publish::Lost`].
//! The format is described in `docs/formats/generation.md`; version 1 is frozen, version 2 adds the retired generations.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::layout::{self, GenerationNumber, PointerNumber, TableName};
use crate::store::{Create, LakeStore};

/// The newest version of the format.
pub const VERSION: u32 = 2;

/// The version without retired generations; a pointer that retires none is written as this one.
const VERSION_WITHOUT_RETIRED: u32 = 1;

/// How often an unclear answer to creating a pointer is looked into.
const TRIES_MAX: u32 = 20;

/// One pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Its number.
    pub number: PointerNumber,
    /// The generation that is live while no higher pointer exists.
    pub generation: GenerationNumber,
    /// Generations that never become live again; their objects may be gone. Later pointers list them as well.
    pub retired: BTreeSet<GenerationNumber>,
}

/// What came of creating a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// It is there as it was wanted, whoever wrote it.
    Stands,
    /// Another decision has the number.
    Lost {
        /// That one.
        winner: Pointer,
    },
}

/// What a pointer's bytes were not.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not the JSON of a pointer.
    #[error("it is not the JSON of a pointer")]
    Json(#[from] serde_json::Error),
    /// A format from the future.
    #[error("it has format {found}, this version reads {VERSION}; upgrade headwater")]
    UnknownVersion {
        /// The version it says.
        found: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    number: PointerNumber,
    generation: GenerationNumber,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    retired: BTreeSet<GenerationNumber>,
}

impl Pointer {
    /// Returns a table's first pointer.
    pub fn first(generation: GenerationNumber) -> Self {
        Self { number: PointerNumber::FIRST, generation, retired: BTreeSet::new() }
    }

    /// Returns the pointer after this one, naming `generation`. What is retired stays so.
    #[must_use]
    pub fn following(&self, generation: GenerationNumber) -> Self {
        Self { number: self.number.next(), generation, retired: self.retired.clone() }
    }

    /// Returns the bytes that are stored. The same pointer always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let version = if self.retired.is_empty() { VERSION_WITHOUT_RETIRED } else { VERSION };
        let Self { number, generation, retired } = self.clone();
        serde_json::to_vec(&Stored { version, number, generation, retired }).expect("a pointer is plain JSON")
    }

    /// Reads a stored pointer.
    ///
    /// # Errors
    /// When the bytes are not a pointer, or one of a newer format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if !(VERSION_WITHOUT_RETIRED..=VERSION).contains(&version) {
            return Err(ParseError::UnknownVersion { found: version });
        }
        let Stored { number, generation, retired, .. } = serde_json::from_slice(bytes)?;
        Ok(Self { number, generation, retired })
    }
}

/// Returns the highest pointer; `None` when the table has none.
///
/// # Errors
/// When the store does not answer or the pointer is damaged.
pub async fn highest(store: &LakeStore, table: &TableName) -> Result<Option<Pointer>, Error> {
    let names = store.names_in(Some(&layout::pointers(table))).await?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok().map(PointerNumber));
    let Some(number) = numbers.max() else {
        return Ok(None);
    };
    let vanished = || Error::Damaged { key: layout::pointer(table, number), source: "it vanished".into() };
    read(store, table, number).await?.ok_or_else(vanished).map(Some)
}

/// Returns the highest pointer when there is one above `known`. Costs one request when there is none.
///
/// # Errors
/// As [`highest`].
pub async fn newer(store: &LakeStore, table: &TableName, known: PointerNumber) -> Result<Option<Pointer>, Error> {
    match read(store, table, known.next()).await? {
        Some(_) => highest(store, table).await,
        None => Ok(None),
    }
}

/// Reads a pointer by its number; `None` when it does not exist.
///
/// # Errors
/// When the store does not answer or the pointer is damaged.
pub async fn read(store: &LakeStore, table: &TableName, number: PointerNumber) -> Result<Option<Pointer>, Error> {
    let key = layout::pointer(table, number);
    let Some(bytes) = store.read(&key).await? else {
        return Ok(None);
    };
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| Error::Damaged { key: key.clone(), source };
    let pointer = Pointer::from_bytes(&bytes).map_err(|error| damaged(Box::new(error)))?;
    if pointer.number != number {
        return Err(damaged(format!("it says that it is pointer {}", pointer.number).into()));
    }
    Ok(Some(pointer))
}

/// Creates a pointer unless its number is taken, once. `None` when no clear answer came: read back, then decide.
///
/// # Errors
/// When it was certainly not created, and trying again will not help.
pub async fn try_create(store: &LakeStore, table: &TableName, wanted: &Pointer) -> Result<Option<Create>, Error> {
    let key = layout::pointer(table, wanted.number);
    let created = store.create(&key, wanted.to_bytes().into()).await?;
    Ok((created != Create::Unknown).then_some(created))
}

/// Creates a pointer unless its number is taken; an unclear answer is read back.
///
/// # Errors
/// When the store refuses, or never gives a clear answer.
pub async fn create(store: &LakeStore, table: &TableName, wanted: &Pointer) -> Result<Publish, Error> {
    for _ in 0..TRIES_MAX {
        if try_create(store, table, wanted).await? == Some(Create::Created) {
            return Ok(Publish::Stands);
        }
        match read(store, table, wanted.number).await? {
            Some(found) if found == *wanted => return Ok(Publish::Stands),
            Some(winner) => return Ok(Publish::Lost { winner }),
            // The answer was lost, and so was the request.
            None => {}
        }
    }
    let key = layout::pointer(table, wanted.number);
    Err(Error::Damaged { key, source: "the store never said whether it was created".into() })
}

/// Points `current` to the live generation, where the store has links, and returns the pointer that it follows.
///
/// Two that do this at once may link in the wrong order, so each looks again afterwards: the last one to look sees the
/// highest pointer.
///
/// # Errors
/// When the table has no pointer, or the folder cannot be written.
pub async fn link_current(store: &LakeStore, table: &TableName) -> Result<Option<Pointer>, Error> {
    let mut linked: Option<Pointer> = None;
    loop {
        let pointer = highest(store, table).await?;
        if pointer == linked {
            return Ok(linked);
        }
        if let Some(pointer) = &pointer {
            store.link_current(table, pointer.generation)?;
        }
        linked = pointer;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn lake() -> (LakeStore, TableName) {
        (LakeStore::on_store(Arc::new(InMemory::new())), "t".parse().unwrap())
    }

    #[test]
    fn golden_bytes_of_both_versions() {
        let first = Pointer::first(GenerationNumber(1));
        let golden = include_str!("../golden/pointer-v1.json").trim_end();
        assert_eq!(String::from_utf8(first.to_bytes()).unwrap(), golden);
        assert_eq!(Pointer::from_bytes(golden.as_bytes()).unwrap(), first);
        let retiring = Pointer {
            number: PointerNumber(7),
            generation: GenerationNumber(3),
            retired: [GenerationNumber(1), GenerationNumber(2)].into(),
        };
        let golden = include_str!("../golden/pointer-v2.json").trim_end();
        assert_eq!(String::from_utf8(retiring.to_bytes()).unwrap(), golden);
        assert_eq!(Pointer::from_bytes(golden.as_bytes()).unwrap(), retiring);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let newer = br#"{"version":3,"number":1,"generation":1,"more":true}"#;
        assert!(matches!(Pointer::from_bytes(newer), Err(ParseError::UnknownVersion { found: 3 })));
    }

    #[test]
    fn what_is_retired_stays_retired() {
        let mut pointer = Pointer::first(GenerationNumber(2));
        pointer.retired.insert(GenerationNumber(1));
        let next = pointer.following(GenerationNumber(3));
        assert_eq!((next.number, next.retired), (PointerNumber(2), [GenerationNumber(1)].into()));
    }

    #[tokio::test]
    async fn of_two_that_want_the_same_number_one_wins() {
        let (store, table) = lake();
        let first = Pointer::first(GenerationNumber(1));
        assert_eq!(create(&store, &table, &first).await.unwrap(), Publish::Stands);
        let (there, back) = (first.following(GenerationNumber(2)), first.following(GenerationNumber(1)));
        assert_eq!(create(&store, &table, &there).await.unwrap(), Publish::Stands);
        assert_eq!(create(&store, &table, &back).await.unwrap(), Publish::Lost { winner: there.clone() });
        assert_eq!(create(&store, &table, &there).await.unwrap(), Publish::Stands, "asked for once more");
        assert_eq!(highest(&store, &table).await.unwrap(), Some(there.clone()));
        assert_eq!(newer(&store, &table, first.number).await.unwrap(), Some(there.clone()));
        assert_eq!(newer(&store, &table, there.number).await.unwrap(), None);
    }

    #[tokio::test]
    async fn k7_current_is_linked_by_whoever_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let (store, table) = (LakeStore::on_disk(folder.path()).unwrap(), "t".parse().unwrap());
        let current = || std::fs::read_link(folder.path().join("t/current")).unwrap();
        let first = Pointer::first(GenerationNumber(1));
        create(&store, &table, &first).await.unwrap();
        assert_eq!(link_current(&store, &table).await.unwrap(), Some(first.clone()));
        assert_eq!(current(), std::path::Path::new("g00001"));
        // A tool that dies between the pointer and the link.
        let second = first.following(GenerationNumber(2));
        create(&store, &table, &second).await.unwrap();
        assert_eq!(current(), std::path::Path::new("g00001"));
        assert_eq!(link_current(&store, &table).await.unwrap(), Some(second));
        assert_eq!(current(), std::path::Path::new("g00002"));
    }
}
