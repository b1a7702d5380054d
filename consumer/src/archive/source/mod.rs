//! The archive as a stream: the same shards, positions and bytes as the stream it was made of.
//!
//! Guarantees: the contract of every source. A read looks at few cuts, then at the row groups that may hold the next
//! record, and decodes one of them; what it keeps between two reads is bounded, however many epochs there are. Relies
//! on the commit protocol (what is committed is there once, and segments join up) and on the archive's retention taking
//! whole epochs from the front.
//!
//! An archive may be read while it is written: what was committed since the last look is found when it is needed. A
//! shard ends where the archiver saw it end; its children are in the list of shards, with their parents.

mod begin;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::event::Event;
use headwater_common::hash;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::archive::{self, ShardRecord};
use headwater_lake::commit::{Table, positions_after};
use headwater_lake::cut::{self, Cut, POSITIONS_EVERY};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{Epoch, Lane, Output};
use headwater_lake::table::{Base, DeltaLog};
use headwater_stream::{Error, Read, Shard, Source, StartAt, StreamIdentity};

use super::file;
use super::find::{self, Search};
use super::shelf::{Shelf, damaged};

/// A stream's archive, to be read as that stream.
pub struct ArchiveSource {
    shelf: Shelf,
    url: String,
    log: DeltaLog,
    state: Mutex<State>,
}

type Positions = BTreeMap<Lane, BTreeMap<ShardId, Position>>;

/// What is kept between two reads. All of it can be read again.
struct State {
    shards: BTreeMap<ShardId, Lane>,
    lanes: BTreeMap<Lane, Arc<LaneEnd>>,
    /// Where each lane's shards stood before the oldest records, at that version of the table.
    begins: Option<(Option<u64>, Arc<Positions>)>,
    /// The epoch in which each shard was read last.
    hints: BTreeMap<ShardId, Epoch>,
}

/// Where a lane of the archive ends.
#[derive(Debug)]
struct LaneEnd {
    table: Table<Base>,
    positions: Arc<BTreeMap<ShardId, Position>>,
    /// When the newest record of its last epoch arrived.
    newest_arrived_at: Option<Timestamp>,
}

impl LaneEnd {
    fn newest(&self, shard: &ShardId) -> Position {
        self.positions.get(shard).copied().unwrap_or(Position::START)
    }
}

/// What follows a position.
enum Next {
    /// The records of this cut.
    Records(Arc<Cut>),
    /// The end of the shard.
    End,
}

/// What an epoch holds of a shard.
enum Held {
    /// The next records.
    Events(Vec<Event>),
    /// A file is gone: retention took the epoch.
    Gone,
}

impl fmt::Debug for ArchiveSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveSource").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ArchiveSource {
    /// Returns the archive as a source; nothing is read yet.
    ///
    /// # Errors
    /// When its folder cannot be used.
    pub fn new(archive: OpenGeneration) -> Result<Self, LakeError> {
        assert!(archive.table.is_archive(), "V1: only an archive is read as a stream");
        let name = archive.table.as_str().rsplit('/').next().unwrap_or_default();
        let url = format!("archive:{}{name}", archive.store.url().path());
        let log = DeltaLog::new(&archive, Output::Events)?;
        let state = State { shards: BTreeMap::new(), lanes: BTreeMap::new(), begins: None, hints: BTreeMap::new() };
        Ok(Self { shelf: Shelf::new(archive), url, log, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: LakeError) -> Error {
        Error::Archive { url: self.url.clone(), source: Box::new(error) }
    }

    /// Returns the lane that a shard is in.
    async fn lane_of(&self, shard: &ShardId) -> Result<Lane, Error> {
        let known = self.state().shards.get(shard).copied();
        if let Some(lane) = known {
            return Ok(lane);
        }
        let records = archive::shards(&self.shelf.archive).await.map_err(|error| self.failed(error))?;
        let count = self.shelf.archive.description.lanes;
        let place = |record: ShardRecord| {
            let index = hash::slice_of(record.first_hash_key, count);
            (record.id, Lane::of_first_set(index, count))
        };
        let shards: BTreeMap<_, _> = records.into_iter().map(place).collect();
        let found = shards.get(shard).copied();
        self.state().shards = shards;
        found.ok_or_else(|| Error::NoSuchShard { url: self.url.clone(), shard: shard.clone() })
    }

    /// Returns where a lane ends; looks again when `fresh`.
    async fn end_of(&self, lane: Lane, fresh: bool) -> Result<Arc<LaneEnd>, LakeError> {
        let known = self.state().lanes.get(&lane).cloned();
        let known = match known {
            Some(known) if !fresh => return Ok(known),
            known => known,
        };
        let table = self.log.reload(lane, known.as_deref().map(|end| &end.table)).await?;
        let end = match known {
            Some(known) if known.table.committed == table.committed => {
                let (positions, newest_arrived_at) = (Arc::clone(&known.positions), known.newest_arrived_at);
                LaneEnd { table, positions, newest_arrived_at }
            }
            known => {
                let positions = Arc::new(self.positions_at(lane, table.committed, known.as_deref()).await?);
                let newest_arrived_at = self.newest_arrival(lane, table.committed).await?;
                LaneEnd { table, positions, newest_arrived_at }
            }
        };
        let end = Arc::new(end);
        self.state().lanes.insert(lane, Arc::clone(&end));
        Ok(end)
    }

    /// Returns where each shard stands after an epoch, from where they stood at the last look if that is not long ago.
    async fn positions_at(
        &self,
        lane: Lane,
        epoch: Epoch,
        known: Option<&LaneEnd>,
    ) -> Result<BTreeMap<ShardId, Position>, LakeError> {
        match known.map(|end| (end.table.committed, &end.positions)) {
            Some((from, positions)) if from <= epoch && epoch.0 - from.0 <= POSITIONS_EVERY => {
                let mut positions = BTreeMap::clone(positions);
                for number in from.0 + 1..=epoch.0 {
                    cut::advance(&mut positions, &self.shelf.cut(lane, Epoch(number)).await?.segments);
                }
                Ok(positions)
            }
            _ => positions_after(&self.shelf.archive, lane, epoch).await,
        }
    }

    /// Returns when the newest record of an epoch arrived, as its files say; `None` when they are gone.
    async fn newest_arrival(&self, lane: Lane, epoch: Epoch) -> Result<Option<Timestamp>, LakeError> {
        if epoch == Epoch(0) {
            return Ok(None);
        }
        let cut = self.shelf.cut(lane, epoch).await?;
        let Some(last) = cut.output(Output::Events).files.last() else {
            return Ok(None);
        };
        let footer = self.shelf.footer(&self.shelf.data_key(&last.key)).await?;
        Ok(footer.and_then(|footer| file::newest_arrival(&footer.metadata)))
    }

    /// Returns the cut of the committed epoch that holds the record after a position, or says that the shard ends
    /// there. One of the two is so.
    async fn locate(&self, lane: Lane, shard: &ShardId, after: Position, committed: Epoch) -> Result<Next, LakeError> {
        let hint = self.state().hints.get(shard).copied();
        if let Some(hint) = hint.filter(|hint| *hint <= committed) {
            let cut = self.shelf.cut(lane, hint).await?;
            // Only what comes after the hint is looked through; before it anything may be.
            if find::records_of(&cut, shard).is_some_and(|segment| segment.from.unmarked() <= after.unmarked()) {
                let rest = hint.0..=find::block_end(hint, committed);
                if let Some(found) = self.scan(lane, shard, after, rest).await? {
                    return Ok(found);
                }
            }
        }
        let mut search = Search::among(committed);
        while let Some(epoch) = search.next() {
            let cut = self.shelf.cut(lane, epoch).await?;
            let none = || damaged(self.shelf.cut_key(lane, epoch), "it does not list all positions".into());
            let positions = cut.positions.as_ref().ok_or_else(none)?;
            search.tell(positions.get(shard).is_some_and(|position| position.unmarked() > after.unmarked()));
        }
        let found = self.scan(lane, shard, after, search.block()).await?;
        found.ok_or_else(|| {
            let what = format!("no epoch up to it holds what comes after {after} of shard {shard}");
            damaged(self.shelf.cut_key(lane, committed), what)
        })
    }

    /// Looks through epochs for the first that goes beyond a position.
    async fn scan(
        &self,
        lane: Lane,
        shard: &ShardId,
        after: Position,
        epochs: RangeInclusive<u64>,
    ) -> Result<Option<Next>, LakeError> {
        for epoch in epochs.map(Epoch) {
            let cut = self.shelf.cut(lane, epoch).await?;
            if find::records_of(&cut, shard).is_some_and(|segment| segment.to > after) {
                self.state().hints.insert(shard.clone(), epoch);
                return Ok(Some(Next::Records(cut)));
            }
            if find::ends(&cut, shard) {
                return Ok(Some(Next::End));
            }
        }
        Ok(None)
    }

    /// Reads what an epoch holds of a shard after a position: at most what one row group has of it.
    async fn read_epoch(
        &self,
        cut: &Cut,
        shard: &ShardId,
        after: Position,
        bytes_max: usize,
    ) -> Result<Held, LakeError> {
        let mut sequence = String::new();
        after.sequence.write_padded(self.shelf.archive.description.sequence_digits, &mut sequence);
        // A shard's files follow one another as its positions do.
        for intent in &cut.output(Output::Events).files {
            let key = self.shelf.data_key(&intent.key);
            let Some(footer) = self.shelf.footer(&key).await? else {
                return Ok(Held::Gone);
            };
            for group in file::groups_with(&footer.metadata, shard.as_str(), &sequence) {
                let Some(records) = self.shelf.group(&key, &footer, group).await? else {
                    return Ok(Held::Gone);
                };
                let events = take(records.get(shard).map(Vec::as_slice).unwrap_or_default(), after, bytes_max);
                if !events.is_empty() {
                    return Ok(Held::Events(events));
                }
            }
        }
        let what = format!("its files do not hold what comes after {after} of shard {shard}");
        Err(damaged(self.shelf.cut_key(cut.lane, cut.epoch), what))
    }
}

/// Takes the events after a position, at most so many bytes of payload but at least one.
fn take(events: &[Event], after: Position, bytes_max: usize) -> Vec<Event> {
    let first = events.partition_point(|event| event.position <= after);
    let mut bytes = 0;
    let mut taken = Vec::new();
    for event in &events[first..] {
        bytes += event.payload.len();
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(event.clone());
    }
    taken
}

#[async_trait]
impl Source for ArchiveSource {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn identity(&self) -> StreamIdentity {
        StreamIdentity(self.shelf.archive.description.stream.clone())
    }

    fn sequence_digits(&self) -> usize {
        self.shelf.archive.description.sequence_digits
    }

    fn is_gap_free(&self) -> bool {
        self.shelf.archive.description.gap_free
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let records = archive::shards(&self.shelf.archive).await.map_err(|error| self.failed(error))?;
        let shard = |record: ShardRecord| {
            let ShardRecord { id, first_hash_key, parents } = record;
            Shard { id, first_hash_key, parents }
        };
        Ok(records.into_iter().map(shard).collect())
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        let lane = self.lane_of(shard).await?;
        match at {
            StartAt::TrimHorizon => self.beginning(lane, shard).await.map_err(|error| self.failed(error)),
            StartAt::Latest => {
                let end = self.end_of(lane, true).await.map_err(|error| self.failed(error))?;
                let newest = end.newest(shard);
                // Of a shard without records an archive knows no more than that.
                Ok(if newest.unmarked() == Position::START { Position::START } else { newest })
            }
            StartAt::At(time) => self.resolve_time(lane, shard, time).await,
        }
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let lane = self.lane_of(shard).await?;
        let after = self.after_time(lane, shard, after).await?;
        let mut end = self.end_of(lane, false).await.map_err(|error| self.failed(error))?;
        if after.unmarked() >= end.newest(shard).unmarked() {
            end = self.end_of(lane, true).await.map_err(|error| self.failed(error))?;
        }
        let newest = end.newest(shard);
        if after.unmarked() > newest.unmarked() {
            return Err(Error::Ahead { shard: shard.clone(), after, newest });
        }
        let nothing = Read { events: Vec::new(), behind_latest: Duration::ZERO, ended: false, complete_until: None };
        if after.unmarked() == newest.unmarked() {
            let ended = newest == Position::SHARD_END;
            return Ok(Read { ended, complete_until: newest.complete_until(), ..nothing });
        }
        let located = self.locate(lane, shard, after, end.table.committed).await;
        let cut = match located.map_err(|error| self.failed(error))? {
            Next::Records(cut) => cut,
            Next::End => return Ok(Read { ended: true, ..nothing }),
        };
        if let Some(segment) = find::records_of(&cut, shard)
            && after.unmarked() < segment.from.unmarked()
        {
            // Segments join up, so only what came before the first of them is missing.
            return Err(self.expired(shard, after, segment.from.unmarked()));
        }
        let held = self.read_epoch(&cut, shard, after, bytes_max).await.map_err(|error| self.failed(error))?;
        let Held::Events(events) = held else {
            return Err(self.why_gone(lane, shard, after).await);
        };
        let is_all = events.last().is_some_and(|last| last.position == newest.unmarked());
        let last = events.last().filter(|_| !is_all).map(|last| last.arrived_at);
        let behind_latest = end.newest_arrived_at.zip(last).map_or(Duration::ZERO, |(newest, last)| newest.since(last));
        let complete_until = newest.complete_until().filter(|_| is_all);
        Ok(Read { events, behind_latest, ended: false, complete_until })
    }
}
