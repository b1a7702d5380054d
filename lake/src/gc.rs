//! Removes generations that nobody needs any more: first a pointer lists them as retired, then their objects go.
//!
//! Guarantees: the live generation is never removed, nor one whose age is in doubt, nor anything but the folders of
//! this table's generations (the archive is no generation). Relies on: a retired generation never becomes live again,
//! which every cutover keeps, because it may create one pointer only and gc has taken that number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_common::timestamp::Timestamp;

use crate::error::Error;
use crate::generation;
use crate::layout::{self, GenerationNumber, Output, PointerNumber, TableName};
use crate::pointer::{self, Pointer, Publish};
use crate::store::LakeStore;

/// What is known of a table's generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The highest pointer.
    pub highest: Pointer,
    /// The generations that have folders, and when each was last of use: live, or written to. `None` when in doubt.
    pub last_used: BTreeMap<GenerationNumber, Option<Timestamp>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The pointer to be created first: the same live generation, and more that are retired.
    pub retire: Option<Pointer>,
    /// The generations that are retired already and still have objects.
    pub remove: BTreeSet<GenerationNumber>,
    /// The others, and why each is kept.
    pub kept: BTreeMap<GenerationNumber, Kept>,
}

/// Why a generation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Readers use it.
    Live,
    /// It was of use not long ago.
    Young,
    /// When it was last of use is not known.
    Doubtful,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What could go is gone: the generations, and how many objects each had.
    Done(BTreeMap<GenerationNumber, u64>),
    /// A cutover or another gc took the pointer; nothing was retired. Look again.
    Lost {
        /// The pointer that was there.
        winner: Pointer,
    },
}

/// Decides which generations go: those that are not live and have been of no use for `older_than`.
pub fn plan(facts: &Facts, older_than: Duration, now: Timestamp) -> Plan {
    let live = facts.highest.generation;
    let (mut retire, mut remove, mut kept) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for (generation, last_used) in &facts.last_used {
        let why = match last_used {
            _ if *generation == live => Kept::Live,
            _ if facts.highest.retired.contains(generation) => {
                remove.insert(*generation);
                continue;
            }
            None => Kept::Doubtful,
            // A clock that went back makes everything young.
            Some(last) if now.since(*last) >= older_than && now >= *last => {
                retire.insert(*generation);
                continue;
            }
            Some(_) => Kept::Young,
        };
        kept.insert(*generation, why);
    }
    let retire = (!retire.is_empty()).then(|| {
        let mut pointer = facts.highest.following(live);
        pointer.retired.extend(retire);
        pointer
    });
    Plan { retire, remove, kept }
}

/// Reads what there is to know for a plan; `None` when the table does not exist.
///
/// # Errors
/// When the store does not answer or a pointer is damaged.
pub async fn facts(store: &LakeStore, table: &TableName) -> Result<Option<Facts>, Error> {
    let Some(highest) = pointer::highest(store, table).await? else {
        return Ok(None);
    };
    let was_live_until = was_live_until(store, table, &highest).await?;
    let mut last_used = BTreeMap::new();
    for number in generation::in_folders(store, table).await? {
        let mut last = was_live_until.get(&number).copied();
        for output in Output::ALL {
            let written = store.newest_in(&layout::generation(table, output, number)).await?;
            last = last.max(written);
        }
        last_used.insert(number, last);
    }
    Ok(Some(Facts { highest, last_used }))
}

/// Returns until when each generation was live that is not live now.
async fn was_live_until(
    store: &LakeStore,
    table: &TableName,
    highest: &Pointer,
) -> Result<BTreeMap<GenerationNumber, Timestamp>, Error> {
    let mut until = BTreeMap::new();
    let mut before = None;
    for number in PointerNumber::FIRST.0..=highest.number.0 {
        let number = PointerNumber(number);
        let (Some(pointer), Some(object)) =
            (pointer::read(store, table, number).await?, store.head(&layout::pointer(table, number)).await?)
        else {
            let key = layout::pointer(table, number);
            return Err(Error::Damaged { key, source: "it is missing: pointers are never deleted".into() });
        };
        if let Some(before) = before.filter(|before| *before != pointer.generation) {
            until.insert(before, Timestamp::from_micros(object.last_modified.timestamp_micros()));
        }
        before = Some(pointer.generation);
    }
    Ok(until)
}

/// Retires what is old and removes what is retired. Each step may be interrupted: the next run goes on.
///
/// # Errors
/// When the store refuses or does not answer.
pub async fn collect(
    store: &LakeStore,
    table: &TableName,
    older_than: Duration,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let mut removed = BTreeMap::new();
    let Some(facts) = facts(store, table).await? else {
        return Ok(Outcome::Done(removed));
    };
    let Plan { retire, mut remove, .. } = plan(&facts, older_than, now);
    if let Some(wanted) = retire {
        if let Publish::Lost { winner } = pointer::create(store, table, &wanted).await? {
            return Ok(Outcome::Lost { winner });
        }
        tracing::info!(pointer = %wanted.number, retired = ?wanted.retired, "generations retired");
        let is_there = |generation: &GenerationNumber| facts.last_used.contains_key(generation);
        remove = wanted.retired.into_iter().filter(is_there).collect();
    }
    for generation in remove {
        let mut objects = 0;
        // The events table keeps the description and the cuts: it goes last, so that what is left is known to be left.
        for output in Output::ALL.into_iter().rev() {
            objects += store.remove_generation(table, output, generation).await?;
        }
        tracing::info!(%generation, objects, "generation removed");
        removed.insert(generation, objects);
    }
    Ok(Outcome::Done(removed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn numbers(all: &[u32]) -> BTreeSet<GenerationNumber> {
        all.iter().copied().map(GenerationNumber).collect()
    }

    fn day(number: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(DAY * u32::try_from(number).unwrap())
    }

    /// Plans with generation 3 live and 1 retired.
    fn check(last_used: &[(u32, Option<Timestamp>)], retire: &[u32], remove: &[u32]) {
        let highest = Pointer { number: PointerNumber(9), generation: GenerationNumber(3), retired: numbers(&[1]) };
        let last_used = last_used.iter().map(|(number, last)| (GenerationNumber(*number), *last)).collect();
        let plan = plan(&Facts { highest, last_used }, DAY * 7, day(100));
        let retired: Option<BTreeSet<GenerationNumber>> = plan.retire.map(|pointer| {
            assert_eq!((pointer.number, pointer.generation), (PointerNumber(10), GenerationNumber(3)));
            assert!(pointer.retired.contains(&GenerationNumber(1)), "what was retired stays so");
            pointer.retired.into_iter().filter(|generation| generation.0 != 1).collect()
        });
        assert_eq!(retired.unwrap_or_default(), numbers(retire));
        assert_eq!(plan.remove, numbers(remove));
    }

    #[test]
    fn k8_what_is_old_and_not_live_is_retired_and_what_is_retired_is_removed() {
        check(&[(2, Some(day(93))), (3, Some(day(1)))], &[2], &[]);
        check(&[(2, Some(day(94))), (3, Some(day(1)))], &[], &[]);
        check(&[(1, Some(day(99))), (3, None)], &[], &[1]);
        check(&[(2, Some(day(1))), (3, None), (4, Some(day(99)))], &[2], &[]);
        check(&[(4, Some(day(50)))], &[4], &[]);
    }

    #[test]
    fn k8_in_doubt_nothing_goes() {
        check(&[(2, None), (3, None)], &[], &[]);
        check(&[(2, Some(day(101)))], &[], &[]);
    }

    #[tokio::test]
    async fn fm37_gc_removes_retired_generations_and_nothing_else() {
        let objects = Arc::new(InMemory::new());
        let store = LakeStore::on_store(objects.clone());
        let table: TableName = "t".parse().unwrap();
        let first = Pointer::first(GenerationNumber(1));
        pointer::create(&store, &table, &first).await.unwrap();
        pointer::create(&store, &table, &first.following(GenerationNumber(2))).await.unwrap();
        let doomed =
            ["t/g00001/_generation.json", "t/g00001/year=2026/a.parquet", "t__dead_letters/g00001/_delta_log/0"];
        let kept = ["t/g00002/a", "u/g00001/a", "__archive/t/g00001/a", "t_x/g00001/a", "t/current"];
        for key in doomed.iter().chain(&kept) {
            objects.put(&(*key).into(), "x".into()).await.unwrap();
        }
        let far = Timestamp::LATEST;
        let outcome = collect(&store, &table, DAY, far).await.unwrap();
        assert_eq!(outcome, Outcome::Done([(GenerationNumber(1), 3)].into()));
        for key in doomed {
            assert!(objects.head(&key.into()).await.is_err(), "{key}");
        }
        for key in kept {
            assert!(objects.head(&key.into()).await.is_ok(), "{key}");
        }
        let highest = pointer::highest(&store, &table).await.unwrap().unwrap();
        assert_eq!((highest.number, highest.generation), (PointerNumber(3), GenerationNumber(2)));
        assert_eq!(highest.retired, numbers(&[1]));
        assert_eq!(collect(&store, &table, DAY, far).await.unwrap(), Outcome::Done(BTreeMap::new()));
    }
}
