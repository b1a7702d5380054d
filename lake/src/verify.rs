//! Proves after the fact that nothing vanished and nothing came twice.
//!
//! For each lane and epoch: the account balances; the segments join up with those before, also over marks, and nothing
//! follows a shard's end; every file of the cut is in its table with the rows the cut says, and every file of the table
//! is named by a cut; lanes of a later set begin where those of the set before have ended, and nothing follows a cut
//! that closes its lane. With `full`, the rows are read and their digest is compared. What was verified once is noted
//! in the lake and not looked at again, unless asked for from the beginning.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use headwater_common::accounts::Account;
use headwater_common::position::{Position, Segment, ShardId};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use crate::commit::{lanes_with_cuts, positions_after, read_cut};
use crate::cut::{Cut, FileIntent};
use crate::digest::RowHasher;
use crate::error::Error;
use crate::generation::OpenGeneration;
use crate::lanes;
use crate::layout::{self, Epoch, Lane, Output};
use crate::reading;
use crate::table::DeltaLog;

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Read the rows of every file and compare their digests.
    pub full: bool,
    /// Begin with the first epoch, whatever was verified before.
    pub from_beginning: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Lanes looked at.
    pub lanes: u64,
    /// Epochs looked at in this run.
    pub epochs: u64,
    /// Files of those epochs.
    pub files: u64,
    /// Rows of those files.
    pub rows: u64,
    /// What became of the events of those epochs.
    pub account: Account,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
}

/// `_verified/<lane>.json`: how far `verify` has come. Derived; may be deleted.
#[derive(Debug, Serialize, Deserialize)]
struct Verified {
    version: u32,
    epoch: Epoch,
    full: bool,
}

const VERSION: u32 = 1;

/// Files of the tables that no cut of the epochs looked at has named yet.
type Unclaimed = HashMap<(Output, String), u64>;

/// Verifies the live generation.
///
/// # Errors
/// When the lake cannot be read; what is wrong with its content is in the report.
pub async fn verify(generation: &OpenGeneration, options: Options) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut lanes = BTreeMap::new();
    for lane in lanes_with_cuts(generation).await? {
        let start =
            if options.from_beginning { Epoch(0) } else { resume_point(generation, lane, options.full).await? };
        lanes.insert(lane, LaneRange { start, committed: committed(generation, lane).await? });
    }
    let sets: BTreeSet<_> = lanes.keys().map(|lane| lane.set).collect();
    for set in sets {
        report.problems.extend(lanes::wrong_beginning(generation, set).await?);
    }
    // Listed after the epochs were read, so that every file of those epochs is in the list.
    let mut unclaimed = files_between(generation, &lanes).await?;
    if generation.table.is_archive() {
        lanes.iter_mut().for_each(|(lane, range)| range.start = before_what_is_kept(*lane, range, &unclaimed));
    }
    for (lane, range) in &lanes {
        report.lanes += 1;
        let mut positions = match positions_after(generation, *lane, range.start.min(range.least())).await {
            // It is among the problems.
            Err(Error::LanesNotClosed { .. }) => BTreeMap::new(),
            positions => positions?,
        };
        let most = range.committed.values().max().copied().unwrap_or_default();
        if most.0 > range.least().0 + 1 {
            report.problems.push(format!("lane {lane}: one output is at epoch {most}, another at {}", range.least()));
        }
        if range.least() < range.start {
            let (start, least) = (range.start, range.least());
            report.problems.push(format!("lane {lane}: epoch {start} was verified, now the tables end at {least}"));
        }
        for number in range.start.0 + 1..=most.0 {
            let Some(cut) = read_cut(generation, *lane, Epoch(number)).await? else {
                report.problems.push(format!("lane {lane}: the cut of epoch {number} is missing"));
                continue;
            };
            if cut.closes.is_some() && number < most.0 {
                report.problems.push(format!("lane {lane}: epoch {number} closes it, and is not its last one"));
            }
            verify_epoch(generation, &cut, range, &mut positions, &mut unclaimed, options.full, &mut report).await?;
        }
    }
    let mut foreign: Vec<_> = unclaimed.into_keys().collect();
    foreign.sort();
    for (output, path) in foreign {
        report.problems.push(format!("{path} is in the {output} table, but no cut names it"));
    }
    if report.problems.is_empty() {
        for (lane, range) in &lanes {
            note(generation, *lane, range.least(), options.full).await?;
        }
    }
    Ok(report)
}

/// The epochs of a lane to be looked at.
struct LaneRange {
    /// Epochs up to this one were verified before.
    start: Epoch,
    /// The last committed epoch of each output. One may be an epoch ahead of another.
    committed: BTreeMap<Output, Epoch>,
}

impl LaneRange {
    fn least(&self) -> Epoch {
        self.committed.values().min().copied().unwrap_or_default()
    }
}

/// Returns the epoch after which an archive still has records: its retention takes whole epochs, the oldest first.
fn before_what_is_kept(lane: Lane, range: &LaneRange, files: &Unclaimed) -> Epoch {
    let epochs = files.keys().filter_map(|(_, path)| layout::epoch_of(path));
    let oldest = epochs.filter(|(of, _)| *of == lane).map(|(_, epoch)| epoch).min();
    oldest.map_or(range.least(), |oldest| Epoch(oldest.0.saturating_sub(1))).max(range.start)
}

async fn note(generation: &OpenGeneration, lane: Lane, epoch: Epoch, full: bool) -> Result<(), Error> {
    let verified = Verified { version: VERSION, epoch, full };
    let key = layout::verified(&generation.table, generation.description.number, lane);
    let bytes = serde_json::to_vec(&verified).expect("plain JSON");
    generation.store.overwrite(&key, bytes.into()).await
}

async fn resume_point(generation: &OpenGeneration, lane: Lane, full: bool) -> Result<Epoch, Error> {
    let key = layout::verified(&generation.table, generation.description.number, lane);
    let Some(bytes) = generation.store.read(&key).await? else {
        return Ok(Epoch(0));
    };
    // A note that cannot be read is as good as none.
    let verified = serde_json::from_slice::<Verified>(&bytes).ok();
    let usable = verified.filter(|verified| verified.version == VERSION && (verified.full || !full));
    Ok(usable.map_or(Epoch(0), |verified| verified.epoch))
}

/// Lists the files of both tables that belong to the epochs to be looked at, or to none.
async fn files_between(generation: &OpenGeneration, lanes: &BTreeMap<Lane, LaneRange>) -> Result<Unclaimed, Error> {
    use futures::TryStreamExt;
    let mut unclaimed = Unclaimed::new();
    for output in generation.table.outputs().iter().copied() {
        let log = DeltaLog::new(generation, output)?;
        let Some((_, mut files)) = reading::open(&log, generation, output).await? else { continue };
        while let Some(file) = files.try_next().await? {
            let is_wanted = match layout::epoch_of(&file.path).map(|(lane, epoch)| (lanes.get(&lane), epoch)) {
                // Later epochs were committed meanwhile; they are for the next run.
                Some((Some(range), epoch)) => epoch > range.start && epoch <= range.committed[&output],
                // A lane that began meanwhile.
                Some((None, _)) => false,
                None => true,
            };
            if is_wanted {
                unclaimed.insert((output, file.path), file.rows);
            }
        }
    }
    Ok(unclaimed)
}

async fn committed(generation: &OpenGeneration, lane: Lane) -> Result<BTreeMap<Output, Epoch>, Error> {
    let mut epochs = BTreeMap::new();
    for output in generation.table.outputs().iter().copied() {
        epochs.insert(output, DeltaLog::new(generation, output)?.load(lane).await?.committed);
    }
    Ok(epochs)
}

async fn verify_epoch(
    generation: &OpenGeneration,
    cut: &Cut,
    range: &LaneRange,
    positions: &mut BTreeMap<ShardId, Position>,
    unclaimed: &mut Unclaimed,
    full: bool,
    report: &mut Report,
) -> Result<(), Error> {
    let place = format!("lane {} epoch {}", cut.lane, cut.epoch);
    report.epochs += 1;
    report.account.add(&cut.account);
    if !cut.account.balances() {
        report.problems.push(format!("{place}: the account does not balance: {:?}", cut.account));
    }
    verify_segments(generation, cut, positions, &place, report);
    for output in generation.table.outputs().iter().copied() {
        let intent = cut.output(output);
        let rows: u64 = intent.files.iter().map(|file| file.rows).sum();
        let expected = match output {
            Output::Events => cut.account.kept,
            Output::DeadLetters => cut.account.dead_letters,
        };
        if rows != expected {
            report.problems.push(format!("{place}: {rows} rows in {output} for {expected} events"));
        }
        if cut.epoch > range.committed[&output] {
            // Its commit is still to come.
            continue;
        }
        for file in &intent.files {
            report.files += 1;
            report.rows += file.rows;
            match unclaimed.remove(&(output, file.key.clone())) {
                None => report.problems.push(format!("{place}: {} is not in the {output} table", file.key)),
                Some(rows) if rows != file.rows => {
                    let key = &file.key;
                    report
                        .problems
                        .push(format!("{place}: {key} has {rows} rows in the table, {} in the cut", file.rows));
                }
                Some(_) if full => verify_rows(generation, output, file, &place, report).await?,
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn verify_segments(
    generation: &OpenGeneration,
    cut: &Cut,
    positions: &mut BTreeMap<ShardId, Position>,
    place: &str,
    report: &mut Report,
) {
    let mut events = 0;
    for segment in &cut.segments {
        let known = positions.get(&segment.shard).copied().unwrap_or(Position::START);
        if segment.from != known {
            let (shard, from) = (&segment.shard, segment.from);
            report.problems.push(format!("{place}: shard {shard} goes on after {from}, it was left at {known}"));
        }
        if segment.to <= segment.from {
            let Segment { shard, from, to } = segment;
            report.problems.push(format!("{place}: shard {shard} goes from {from} to {to}, which is no way forward"));
        }
        if !segment.is_without_events() {
            let number = |position: Position| position.sequence.as_u64().unwrap_or(0);
            events += number(segment.to).saturating_sub(number(segment.from));
        }
        positions.insert(segment.shard.clone(), segment.to);
    }
    if generation.description.gap_free && events != cut.account.read {
        let read = cut.account.read;
        report.problems.push(format!("{place}: the segments hold {events} events, the account says {read} were read"));
    }
    if cut.positions.as_ref().is_some_and(|all| all != positions) {
        report.problems.push(format!("{place}: the positions it lists are not those of its segments"));
    }
}

async fn verify_rows(
    generation: &OpenGeneration,
    output: Output,
    file: &FileIntent,
    place: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let key = layout::data_object(&generation.table, output, generation.description.number, &file.key);
    let bytes = match generation.store.objects().get(&key).await {
        Ok(found) => found.bytes().await.map_err(|source| Error::Store { action: "read", key: key.clone(), source })?,
        Err(object_store::Error::NotFound { .. }) => {
            report.problems.push(format!("{place}: {} is in the table, but the file is gone", file.key));
            return Ok(());
        }
        Err(source) => {
            return Err(Error::Store { action: "read", key, source });
        }
    };
    let digest = tokio::task::spawn_blocking(move || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
        let reader = builder.build().map_err(|error| error.to_string())?;
        let mut hasher = RowHasher::new(&arrow_array::RecordBatchReader::schema(&reader));
        for batch in reader {
            hasher.update(&batch.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(hasher.finish())
    });
    match digest.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(digest) if digest == file.digest => {}
        Ok(digest) => {
            let expected = file.digest;
            report.problems.push(format!("{place}: {} holds rows {digest}, its cut says {expected}", file.key));
        }
        Err(error) => report.problems.push(format!("{place}: {} cannot be read: {error}", file.key)),
    }
    Ok(())
}
