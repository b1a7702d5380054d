//! Where an archive begins: before its oldest record, at a time, and what is gone.

use std::sync::Arc;

use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::archive::retention;
use headwater_lake::commit::positions_after;
use headwater_lake::layout::{Epoch, Lane};
use headwater_lake::reading::LiveFile;
use headwater_stream::{Error, Source, StartAt};
use object_store::path::Path;

use super::{ArchiveSource, Positions};
use crate::archive::shelf::damaged;

/// Bytes that one read asks for when a time is looked for.
const SCAN_BYTES: usize = 1024 * 1024;

impl ArchiveSource {
    /// Returns where a shard stood before the oldest record that the archive still has of it.
    pub(super) async fn beginning(&self, lane: Lane, shard: &ShardId) -> Result<Position, LakeError> {
        let end = self.end_of(lane, true).await?;
        let version = end.table.snapshot.as_ref().map(|base| base.version);
        let kept = self.state().begins.clone();
        let begins = match kept {
            Some((of, begins)) if of == version => begins,
            _ => {
                let mut begins = Positions::new();
                for (lane, first) in retention::first_epochs(&self.shelf.archive).await? {
                    let before = Epoch(first.0.saturating_sub(1));
                    begins.insert(lane, positions_after(&self.shelf.archive, lane, before).await?);
                }
                let begins = Arc::new(begins);
                self.state().begins = Some((version, Arc::clone(&begins)));
                begins
            }
        };
        let begin = begins.get(&lane).and_then(|positions| positions.get(shard)).copied();
        Ok(begin.unwrap_or(Position::START).unmarked())
    }

    pub(super) async fn position_before(
        &self,
        lane: Lane,
        shard: &ShardId,
        epoch: Epoch,
    ) -> Result<Position, LakeError> {
        let positions = positions_after(&self.shelf.archive, lane, Epoch(epoch.0.saturating_sub(1))).await?;
        Ok(positions.get(shard).copied().unwrap_or(Position::START))
    }

    /// Says why the record after a position is not there.
    pub(super) async fn why_gone(&self, lane: Lane, shard: &ShardId, after: Position) -> Error {
        match self.beginning(lane, shard).await {
            Ok(begins) if after < begins => self.expired(shard, after, begins),
            Ok(_) => {
                let key = Path::from(self.shelf.archive.table.as_str());
                let what = format!("a file with what comes after {after} of shard {shard} is gone");
                self.failed(damaged(key, what))
            }
            Err(error) => self.failed(error),
        }
    }

    pub(super) fn expired(&self, shard: &ShardId, after: Position, begins: Position) -> Error {
        // Where numbers have no gap the oldest record is the next one.
        let next = begins.sequence.as_u64().filter(|_| self.shelf.archive.description.gap_free);
        let oldest = next.map_or(begins, |number| Position::of_record((number + 1).into()));
        Error::Expired { shard: shard.clone(), after, oldest }
    }

    /// Returns the position to read after, where a reader begins with a time.
    pub(super) async fn after_time(&self, lane: Lane, shard: &ShardId, after: Position) -> Result<Position, Error> {
        let Some(time) = after.complete_until().filter(|_| after.unmarked() == Position::START) else {
            return Ok(after);
        };
        let found = self.resolve_time(lane, shard, time).await?;
        let begin = self.beginning(lane, shard).await.map_err(|error| self.failed(error))?;
        // Whether what retention took arrived before that time, nobody can tell any more.
        if begin > Position::START && found <= begin { Err(self.expired(shard, after, begin)) } else { Ok(found) }
    }

    /// Returns the position before the first record of a shard that arrived at a time or later.
    pub(super) async fn resolve_time(&self, lane: Lane, shard: &ShardId, time: Timestamp) -> Result<Position, Error> {
        let mut first: Option<Epoch> = None;
        let see = |of: Lane, epoch: Epoch, file: LiveFile| {
            // A file whose age is not known may have such a record.
            let may_have = retention::newest_arrival(&file).is_none_or(|newest| newest >= time);
            if of == lane && may_have {
                first = Some(first.map_or(epoch, |known| known.min(epoch)));
            }
        };
        retention::for_each_file(&self.shelf.archive, see).await.map_err(|error| self.failed(error))?;
        let Some(first) = first else {
            return self.resolve(shard, StartAt::Latest).await;
        };
        let before = self.position_before(lane, shard, first).await;
        let mut after = before.map_err(|error| self.failed(error))?.unmarked();
        loop {
            let read = self.read(shard, after, SCAN_BYTES).await?;
            if read.events.is_empty() {
                return Ok(if read.ended { Position::SHARD_END } else { after });
            }
            for event in &read.events {
                if event.arrived_at >= time {
                    return Ok(after);
                }
                after = event.position;
            }
        }
    }
}
