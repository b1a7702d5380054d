//! The archive's own retention: the only thing that takes records out of it.
//!
//! Guarantees: of each lane whole epochs go, the oldest first, and only those whose newest record arrived before the
//! bound; so what is left of a shard has no gap. An object is deleted only after a commit took it out of the table.
//! May be interrupted anywhere and run again, beside writers and beside another run of itself. Cuts stay: they still
//! say which positions there were. Relies on epochs being numbered in the order of the positions.
//!
//! ```text
//! list the table -> which epochs go (a page of them) -> commit Remove -> list again ... -> delete their objects
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use headwater_common::timestamp::Timestamp;
use object_store::{Error as StoreError, ObjectStoreExt};

use super::ARRIVED_AT;
use crate::commit::read_cut;
use crate::error::Error;
use crate::generation::OpenGeneration;
use crate::layout::{self, Epoch, Lane, Output};
use crate::reading::{self, LiveFile};
use crate::table::{Commit, DeltaLog};

/// Files that one commit takes out of the table, about: it bounds a commit and the memory of a run.
const PAGE_FILES: usize = 1_000;

/// Commits in a row that others may come before.
const TRIES: u32 = 20;

/// What retention did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Epochs that were taken out of the table.
    pub epochs: u64,
    /// Files that were taken out of the table.
    pub files: u64,
    /// Records in them.
    pub records: u64,
    /// Objects that were deleted, those that an earlier run left included.
    pub objects: u64,
}

/// Which epochs of an archive are to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// For each lane that has a record that stays: the oldest epoch with one. Epochs below it go.
    first_kept: BTreeMap<Lane, Epoch>,
}

/// A page of the epochs that go, those with the lowest numbers.
#[derive(Debug, Default)]
struct Page {
    epochs: BTreeMap<(Epoch, Lane), Vec<LiveFile>>,
    files: usize,
    /// Epochs from here on did not fit.
    end: Option<(Epoch, Lane)>,
}

impl Plan {
    /// Takes a file of the table into account. `newest` is when its newest record arrived; a file whose age is not
    /// known stays, and with it all that came after it.
    fn see(&mut self, lane: Lane, epoch: Epoch, newest: Option<Timestamp>, bound: Timestamp) {
        if newest.is_none_or(|newest| newest >= bound) {
            let first = self.first_kept.entry(lane).or_insert(epoch);
            *first = epoch.min(*first);
        }
    }

    /// Returns true when an epoch goes.
    pub fn takes(&self, lane: Lane, epoch: Epoch) -> bool {
        self.first_kept.get(&lane).is_none_or(|first| epoch < *first)
    }
}

impl Page {
    /// Takes a file in, unless its epoch belongs to a later page. Epochs are taken whole.
    fn add(&mut self, lane: Lane, epoch: Epoch, file: LiveFile) {
        if self.end.is_some_and(|end| (epoch, lane) >= end) {
            return;
        }
        self.epochs.entry((epoch, lane)).or_default().push(file);
        self.files += 1;
        while self.files > PAGE_FILES && self.epochs.len() > 1 {
            let (place, files) = self.epochs.pop_last().expect("there is more than one");
            self.files -= files.len();
            self.end = Some(place);
        }
    }
}

/// Removes the records that arrived more than `older_than` ago, as far as whole epochs consist of them.
///
/// # Errors
/// When the store does not answer, or other writers commit first every time. What was done is done; run it again.
pub async fn apply(archive: &OpenGeneration, older_than: Duration, now: Timestamp) -> Result<Report, Error> {
    assert!(archive.table.is_archive(), "V3: only an archive has a retention");
    let bound = now.minus(older_than);
    let mut report = Report::default();
    let mut tries = 0;
    loop {
        let plan = plan(archive, bound).await?;
        let page = page(archive, &plan).await?;
        if page.files == 0 {
            break;
        }
        let files: Vec<_> = page.epochs.values().flatten().cloned().collect();
        match take_out(archive, &files, now).await? {
            Commit::Committed(_) => {
                tries = 0;
                report.epochs += page.epochs.len() as u64;
                report.files += files.len() as u64;
                report.records += files.iter().map(|file| file.rows).sum::<u64>();
            }
            // Others committed first, or no answer came: the next listing tells what is there.
            Commit::Conflict | Commit::Unknown => {
                tries += 1;
                if tries == TRIES {
                    return Err(Error::AlwaysOvertaken { table: archive.table.clone(), tries });
                }
            }
        }
    }
    for (lane, kept) in first_epochs(archive).await? {
        report.objects += delete_before(archive, lane, kept).await?;
    }
    Ok(report)
}

/// Decides which epochs go: those before the first of their lane that has a record from `bound` on.
///
/// # Errors
/// When the store does not answer.
pub async fn plan(archive: &OpenGeneration, bound: Timestamp) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    for_each_file(archive, |lane, epoch, file| plan.see(lane, epoch, newest_arrival(&file), bound)).await?;
    Ok(plan)
}

/// Returns for each lane the first epoch whose records are there; the one after the last when none is.
///
/// # Errors
/// When the store does not answer.
pub async fn first_epochs(archive: &OpenGeneration) -> Result<BTreeMap<Lane, Epoch>, Error> {
    // Read before the files are listed: what is committed meanwhile is then no reason to take more for gone.
    let log = DeltaLog::new(archive, Output::Events)?;
    let mut first = BTreeMap::new();
    for lane in archive.description.first_lanes() {
        first.insert(lane, log.load(lane).await?.committed.next());
    }
    let see = |lane: Lane, epoch: Epoch, _: LiveFile| {
        if let Some(known) = first.get_mut(&lane) {
            *known = epoch.min(*known);
        }
    };
    for_each_file(archive, see).await?;
    Ok(first)
}

/// Returns when the newest record of a file arrived, rounded up to what the Delta log says; `None` when it does not.
pub fn newest_arrival(file: &LiveFile) -> Option<Timestamp> {
    file.statistics["maxValues"][ARRIVED_AT].as_str()?.parse().ok()
}

/// Calls `see` with every file of the table, one after the other; the list is never in memory.
///
/// # Errors
/// When the store does not answer.
pub async fn for_each_file(archive: &OpenGeneration, mut see: impl FnMut(Lane, Epoch, LiveFile)) -> Result<(), Error> {
    let log = DeltaLog::new(archive, Output::Events)?;
    let Some((_, mut files)) = reading::open(&log, archive, Output::Events).await? else {
        return Ok(());
    };
    while let Some(file) = files.try_next().await? {
        let place = layout::epoch_of(&file.path);
        let (lane, epoch) = place.ok_or_else(|| Error::Damaged {
            key: file.key.clone(),
            source: "no writer of an archive names a file so".into(),
        })?;
        see(lane, epoch, file);
    }
    Ok(())
}

async fn page(archive: &OpenGeneration, plan: &Plan) -> Result<Page, Error> {
    let mut page = Page::default();
    let add = |lane, epoch, file| {
        if plan.takes(lane, epoch) {
            page.add(lane, epoch, file);
        }
    };
    for_each_file(archive, add).await?;
    Ok(page)
}

/// Takes files out of the table. One that another run has taken out meanwhile is named again, which changes nothing.
async fn take_out(archive: &OpenGeneration, files: &[LiveFile], now: Timestamp) -> Result<Commit, Error> {
    let log = DeltaLog::new(archive, Output::Events)?;
    let lane = archive.description.first_lanes().next().expect("an archive has a lane");
    let table = log.load(lane).await?;
    let Some(base) = table.snapshot else {
        return Ok(Commit::Conflict);
    };
    log.remove(&base, files, now.micros() / 1000).await
}

/// Deletes the objects of the epochs before `kept`, which are out of the table. They go in the order of the epochs, so
/// that those which an interrupted run left are the ones directly before `kept`.
async fn delete_before(archive: &OpenGeneration, lane: Lane, kept: Epoch) -> Result<u64, Error> {
    let mut first = kept;
    while first > Epoch(1) {
        let before = Epoch(first.0 - 1);
        let objects = objects_of(archive, lane, before).await?;
        // An epoch that only notes ends of shards and marks never had one.
        let mut is_there = objects.is_empty();
        for key in objects {
            is_there |= archive.store.head(&key).await?.is_some();
        }
        if !is_there {
            break;
        }
        first = before;
    }
    let mut deleted = 0;
    for epoch in first.0..kept.0 {
        for key in objects_of(archive, lane, Epoch(epoch)).await? {
            match archive.store.objects().delete(&key).await {
                Ok(()) => deleted += 1,
                Err(StoreError::NotFound { .. }) => {}
                Err(source) => return Err(Error::Store { action: "delete", key, source }),
            }
        }
    }
    Ok(deleted)
}

async fn objects_of(
    archive: &OpenGeneration,
    lane: Lane,
    epoch: Epoch,
) -> Result<Vec<object_store::path::Path>, Error> {
    let number = archive.description.number;
    let cut = read_cut(archive, lane, epoch).await?.ok_or_else(|| Error::Damaged {
        key: layout::cut(&archive.table, number, lane, epoch),
        source: "it is missing: an archive's cuts are never deleted".into(),
    })?;
    let files = &cut.output(Output::Events).files;
    let key = |file: &crate::cut::FileIntent| layout::data_object(&archive.table, Output::Events, number, &file.key);
    Ok(files.iter().map(key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::of_first_set(0, 2);
    const OTHER: Lane = Lane::of_first_set(1, 2);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    #[test]
    fn whole_epochs_go_and_only_from_the_front() {
        let mut plan = Plan::default();
        // Epoch 2 has an old file and a young one; epoch 3, all old, comes after it.
        for (epoch, newest) in [(1, 10), (2, 10), (2, 50), (3, 20), (4, 60)] {
            plan.see(LANE, Epoch(epoch), Some(at(newest)), at(30));
        }
        plan.see(OTHER, Epoch(7), Some(at(5)), at(30));
        let goes = |lane, epoch| plan.takes(lane, Epoch(epoch));
        assert_eq!([1, 2, 3, 4].map(|epoch| goes(LANE, epoch)), [true, false, false, false]);
        assert!(goes(OTHER, 7), "a lane may lose all it has");
    }

    #[test]
    fn a_file_of_unknown_age_stays() {
        let mut plan = Plan::default();
        plan.see(LANE, Epoch(1), None, at(30));
        plan.see(LANE, Epoch(2), Some(at(10)), at(30));
        assert!(!plan.takes(LANE, Epoch(1)) && !plan.takes(LANE, Epoch(2)));
        assert!(plan.takes(LANE, Epoch(0)));
    }

    #[test]
    fn a_page_has_whole_epochs_and_those_with_the_lowest_numbers() {
        let file = |name: &str| LiveFile {
            key: name.into(),
            path: name.to_owned(),
            size: 1,
            modified_millis: 0,
            rows: 1,
            partition: std::collections::HashMap::new(),
            statistics: serde_json::Value::Null,
        };
        let mut page = Page::default();
        // Two files an epoch, in an order that no listing promises.
        for round in 0..2 {
            for epoch in (1..=1_000).rev() {
                page.add(LANE, Epoch(epoch), file(&format!("{epoch} {round}")));
            }
        }
        assert!(page.files <= PAGE_FILES && page.files >= PAGE_FILES / 2, "{} files", page.files);
        assert!(page.epochs.values().all(|files| files.len() == 2));
        let numbers: Vec<_> = page.epochs.keys().map(|(epoch, _)| epoch.0).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    }
}
