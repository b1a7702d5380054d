//! What a rebuild is asked for, in positions, and who has it: shards come and go between a plan and its run, and
//! between the live generation's beginning and both.

use headwater_common::position::{Position, ShardId};
use headwater_consumer::driver::Error as ConsumerError;
use headwater_consumer::recorded::RecordedCuts;
use headwater_lake::lanes;
use headwater_stream::{Error as StreamError, Shard};

use super::{Range, Request};
use crate::beginning::Beginning;
use crate::coverage::{self, Coverage, Stretch, divide};
use crate::error::Error;
use crate::range::{Positions, Since};
use crate::standing::{self, Counting};

impl Request {
    /// Finds out what would be read, and whether an earlier run left something to go on with. Changes nothing.
    ///
    /// # Errors
    /// When the stream is another one, or the lake or the stream do not answer. What is lost is in the answer.
    pub async fn range(&self) -> Result<Range, Error> {
        self.check().await?;
        let source = self.source.as_ref();
        let listed = source.shards().await.map_err(|error| self.stream_failed(error))?;
        self.check_shards(&listed)?;
        let start = self.since.resolve(source, &self.live.description.start).await;
        let mut start = start.map_err(|error| self.stream_failed(error))?;
        let until = match self.beginning {
            Beginning::RecordedCuts => RecordedCuts::of(self.live.clone()).await?.positions().await?,
            _ => self.until.resolve(source).await.map_err(|error| self.stream_failed(error))?,
        };
        let resumed = if self.anew { None } else { self.unfinished().await? };
        let from = match &resumed {
            Some(generation) => standing::positions(generation, Counting::Published).await?,
            None => start.clone(),
        };
        // A shard that is not in a start that names shards is left out of the rebuild; any other came later.
        let names_shards = matches!(self.since, Since::Positions(_));
        let is_in = |shard: &ShardId| from.contains_key(shard) || !names_shards;
        let until: Positions = until.into_iter().filter(|(shard, _)| is_in(shard)).collect();
        let held = self.held().await?;
        // Neither end may be where nobody has ever been: what comes there later would be passed over.
        coverage::check_ends(&self.stream.url(), &held, start.iter().chain(&until))?;
        self.check_parents(&listed, &from, &until)?;
        let mut stretches = self.forgotten(&listed, &from, resumed.is_some()).await?;
        // Nothing of them will ever be read.
        start.extend(stretches.iter().map(|stretch| (stretch.shard.clone(), Position::SHARD_END)));
        if self.since != Since::Generation && resumed.is_none() {
            stretches.clear();
        }
        for (shard, last) in &until {
            if listed.iter().all(|known| known.id != *shard) {
                continue;
            }
            let first = from.get(shard).copied().unwrap_or_default();
            stretches.extend(self.divide(shard, first, *last, &held).await?);
        }
        let lanes = match (&resumed, self.lanes) {
            (Some(generation), _) => generation.description.lanes,
            (None, Some(lanes)) => lanes,
            (None, None) => lanes::highest(&self.live).await?.count,
        };
        Ok(Range { resumed, lanes, start, from, until, stretches })
    }

    /// Refuses positions of shards that the stream does not have.
    fn check_shards(&self, listed: &[Shard]) -> Result<(), Error> {
        let mut named = self.since.shards().chain(self.until.shards());
        match named.find(|shard| listed.iter().all(|known| known.id != **shard)) {
            Some(shard) => {
                let (url, shard) = (self.source.url(), shard.clone());
                Err(self.stream_failed(StreamError::NoSuchShard { url, shard }))
            }
            None => Ok(()),
        }
    }

    /// Refuses a shard whose events are asked for when those of a parent, which come before them, are not.
    fn check_parents(&self, listed: &[Shard], from: &Positions, until: &Positions) -> Result<(), Error> {
        for shard in listed {
            let first = from.get(&shard.id).copied().unwrap_or_default();
            let is_begun = first.unmarked() != Position::START;
            let asks = until.get(&shard.id).is_some_and(|last| last.unmarked() != Position::START);
            if is_begun || !asks || self.beginning == Beginning::RecordedCuts {
                continue;
            }
            let is_left_out = |parent: &&ShardId| {
                let ends = [from.get(*parent), until.get(*parent)].contains(&Some(&Position::SHARD_END));
                !ends && listed.iter().any(|known| known.id == **parent)
            };
            if let Some(parent) = shard.parents.iter().find(is_left_out) {
                return Err(ConsumerError::ParentLeftOut { shard: shard.id.clone(), parent: parent.clone() }.into());
            }
        }
        Ok(())
    }

    /// Returns what the stream holds, and the archives.
    async fn held(&self) -> Result<Vec<Coverage>, Error> {
        let held = coverage::of(self.stream.as_ref()).await;
        let mut held = held.map_err(|error| self.stream_failed(error))?;
        // With the oldest event that is left one is content whatever was before it.
        if !self.stream.is_gap_free() && self.since != Since::Oldest {
            let taken = standing::first_taken(&self.live).await?;
            let found = coverage::find_beginnings(self.stream.as_ref(), &mut held, &taken).await;
            found.map_err(|error| self.stream_failed(error))?;
        }
        held.extend(self.archives.iter().cloned());
        Ok(held)
    }

    /// Returns what the live generation has taken of shards that nobody knows any more, and this rebuild has not.
    async fn forgotten(&self, listed: &[Shard], from: &Positions, is_resumed: bool) -> Result<Vec<Stretch>, Error> {
        let mut forgotten = Vec::new();
        if self.source.is_gap_free() {
            // Such a stream has its shards for ever.
            return Ok(forgotten);
        }
        for (shard, reached) in standing::positions(&self.live, Counting::Committed).await? {
            let is_left_out = matches!(self.since, Since::Positions(_)) && !from.contains_key(&shard);
            if is_resumed && is_left_out {
                continue;
            }
            let began = self.live.description.start.get(&shard).copied().unwrap_or_default();
            let after = from.get(&shard).copied().filter(|_| is_resumed).unwrap_or(began);
            if after.unmarked() < reached.unmarked() && listed.iter().all(|known| known.id != shard) {
                forgotten.push(Stretch { shard, from: after, to: reached, held_by: None });
            }
        }
        Ok(forgotten)
    }

    /// Divides the range of a shard by who holds it. Where only the stream can tell whether it still has what comes
    /// next, it is asked.
    async fn divide(
        &self,
        shard: &ShardId,
        first: Position,
        last: Position,
        held: &[Coverage],
    ) -> Result<Vec<Stretch>, Error> {
        let is_time = coverage::is_time(first);
        let from_first = |coverage: &Coverage| Coverage { from: Position::START, ..coverage.clone() };
        let mut stretches = match is_time {
            true => divide(shard, first, last, &held.iter().map(from_first).collect::<Vec<_>>()),
            false => divide(shard, first, last, held),
        };
        if self.source.is_gap_free() || first == Position::START || stretches.is_empty() {
            return Ok(stretches);
        }
        match self.source.read(shard, first, 1).await {
            Ok(_) => {}
            Err(StreamError::Expired { .. } | StreamError::ShardGone { .. } | StreamError::NoSuchShard { .. }) => {
                stretches[0].held_by = None;
            }
            Err(error) => return Err(self.stream_failed(error)),
        }
        Ok(stretches)
    }
}
