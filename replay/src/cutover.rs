//! Cutover and rollback: the lake's protocol, with the consumer's own lanes as its hands.

use std::sync::Arc;

use async_trait::async_trait;
use headwater_common::position::{Position, ShardId};
use headwater_consumer::driver::{Consumer, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_lake::cutover::{self, CaughtUp, Failure, Hands, Outcome, Positions};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::layout::{GenerationNumber, Output, PointerNumber, TableName};
use headwater_lake::pointer::{self, Pointer};
use headwater_lake::store::LakeStore;
use headwater_lake::table::DeltaLog;
use headwater_stream::Source;
use tokio::sync::watch;

use crate::compare;
use crate::coverage::{self, Stretch};
use crate::error::Error;
use crate::range::Since;
use crate::rebuild::{self, Means};
use crate::standing::{self, Counting};

/// Which way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a generation that was built anew.
    Forward,
    /// To one that was live before.
    Back,
}

/// What is needed to make another generation live.
#[derive(Clone)]
pub struct Cutover {
    /// The lake.
    pub store: LakeStore,
    /// The table.
    pub table: TableName,
    /// Where the events come from.
    pub source: Arc<dyn Source>,
    /// What the work is done with.
    pub means: Means,
    /// Whether the generation may lack a part of the history that readers have now.
    pub allows_shorter_history: bool,
}

impl Cutover {
    /// Returns the generation that is meant when none is named: forward the newest one above the live one, back the one
    /// that was live before it.
    ///
    /// # Errors
    /// When there is none, or the lake does not answer.
    pub async fn default_target(&self, direction: Direction) -> Result<GenerationNumber, Error> {
        let live = generation::open_live(&self.store, &self.table).await?.description.number;
        let found = match direction {
            Direction::Forward => {
                let all = standing::usable(&self.store, &self.table).await?;
                all.into_iter().rev().find(|number| *number > live)
            }
            Direction::Back => previous(&self.pointers().await?),
        };
        found.ok_or_else(|| match direction {
            Direction::Forward => Error::NothingToCompare { table: self.table.clone() },
            Direction::Back => Error::NothingBefore { table: self.table.clone(), live },
        })
    }

    async fn pointers(&self) -> Result<Vec<Pointer>, Error> {
        let mut pointers = Vec::new();
        let mut number = PointerNumber::FIRST;
        while let Some(pointer) = pointer::read(&self.store, &self.table, number).await? {
            pointers.push(pointer);
            number = number.next();
        }
        Ok(pointers)
    }

    /// Makes a generation live. When `shutdown` turns true before the pointer is created it ends with an error, and
    /// nothing is decided.
    ///
    /// # Errors
    /// When the lake or the stream do not answer, or the generation is of another stream.
    pub async fn run(&self, target: GenerationNumber, shutdown: &watch::Receiver<bool>) -> Result<Outcome, Error> {
        let open = generation::open(&self.store, &self.table, target).await?;
        let (expected, actual) = (open.description.stream.clone(), self.source.identity().0);
        if expected != actual {
            return Err(headwater_lake::Error::OtherStream { table: self.table.clone(), expected, actual }.into());
        }
        self.check_history(&open).await?;
        let mut lanes = Lanes { cutover: self, shutdown };
        let (store, table, retry) = (self.store.clone(), self.table.clone(), self.means.retry);
        Ok(cutover::cut_over(cutover::Settings { store, table, target, retry }, &mut lanes).await?)
    }

    /// Refuses a generation that was not begun, and one that lacks a part of the history that readers have now.
    async fn check_history(&self, target: &OpenGeneration) -> Result<(), Error> {
        let number = target.description.number;
        let live = generation::open_live(&self.store, &self.table).await?;
        if number == live.description.number {
            return Ok(());
        }
        let asked = rebuild::read(&live, number).await?;
        if asked.is_some() && DeltaLog::new(target, Output::Events)?.newest().await?.is_none() {
            return Err(Error::NotBegun { table: self.table.clone(), number });
        }
        let reached = standing::positions(&live, Counting::Committed).await?;
        let (began, begins) = (&live.description.start, &target.description.start);
        let mut missing = compare::missing(began, begins, &reached);
        let was_vague = asked.is_some_and(|asked| asked.since == Since::Oldest.to_string());
        if was_vague && !live.description.gap_free {
            missing.extend(self.perhaps_missing(&live, begins).await?);
        }
        if missing.is_empty() || self.allows_shorter_history {
            return Ok(());
        }
        Err(Error::ShorterHistory { number, missing })
    }

    /// Returns what a generation that was begun with the oldest event may lack, where sequence numbers do not tell
    /// which one that was.
    async fn perhaps_missing(&self, live: &OpenGeneration, begins: &Positions) -> Result<Vec<Stretch>, Error> {
        let taken = standing::first_taken(live).await?;
        let is_first = |began: Option<&Position>| began.is_none_or(|began| *began == Position::START);
        let is_open = |shard: &ShardId| {
            begins.get(shard) == Some(&Position::START) && is_first(live.description.start.get(shard))
        };
        let stretch = |(shard, to)| Stretch { shard, from: Position::START, to, held_by: None };
        Ok(taken.into_iter().filter(|(shard, _)| is_open(shard)).map(stretch).collect())
    }

    /// Refuses positions that the stream never had: waiting for them would take for ever.
    async fn check_ends(&self, positions: &Positions) -> Result<(), Failure> {
        let held = coverage::of(self.source.as_ref()).await?;
        Ok(coverage::check_ends(&self.source.url(), &held, positions.iter())?)
    }

    fn consumer(&self, generation: &OpenGeneration, until: Until) -> Result<Consumer, Failure> {
        let means = self.means.clone();
        Ok(Consumer {
            source: Arc::clone(&self.source),
            pipeline: Pipeline::of(&generation.description)?,
            generation: Arc::new(generation.clone()),
            limits: means.limits,
            spill_folder: means.spill_folder,
            until,
            recorded: None,
            clock: means.clock,
            retry: means.retry,
            seed: means.seed,
            // Who works for a pointer waits behind no seal.
            seal_wait: SEAL_WAIT_DEFAULT,
            progress: means.progress,
        })
    }
}

/// Returns the generation that was live before the live one and is not retired.
fn previous(pointers: &[Pointer]) -> Option<GenerationNumber> {
    let highest = pointers.last()?;
    let before = pointers.iter().rev().map(|pointer| pointer.generation);
    before.into_iter().find(|number| *number != highest.generation && !highest.retired.contains(number))
}

/// The consumer's lanes, doing what the protocol asks for.
struct Lanes<'a> {
    cutover: &'a Cutover,
    shutdown: &'a watch::Receiver<bool>,
}

#[async_trait]
impl Hands for Lanes<'_> {
    async fn finish(&mut self, generation: &OpenGeneration) -> Result<(), Failure> {
        Ok(self.cutover.consumer(generation, Until::Forever)?.finish().await?)
    }

    async fn catch_up(
        &mut self,
        generation: &OpenGeneration,
        after: PointerNumber,
        positions: &Positions,
    ) -> Result<CaughtUp, Failure> {
        self.cutover.check_ends(positions).await?;
        let consumer = self.cutover.consumer(generation, Until::Reached(positions.clone()))?;
        consumer.catch_up(after, self.shutdown).await?.ok_or_else(|| "it was told to stop".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_is_where_readers_were_before() {
        let check = |generations: &[u32], retired: &[u32], expect: Option<u32>| {
            let number = |n: &u32| GenerationNumber(*n);
            let mut pointers = vec![Pointer::first(number(&generations[0]))];
            for generation in &generations[1..] {
                let next = pointers[pointers.len() - 1].following(number(generation));
                pointers.push(next);
            }
            let highest = pointers.last_mut().expect("there is a first");
            highest.retired = retired.iter().map(number).collect();
            assert_eq!(previous(&pointers), expect.map(GenerationNumber), "{generations:?} {retired:?}");
        };
        check(&[1], &[], None);
        check(&[1, 2], &[], Some(1));
        check(&[1, 2, 1], &[], Some(2));
        check(&[1, 2, 2], &[], Some(1));
        check(&[1, 2, 3], &[2], Some(1));
        check(&[1, 2, 3], &[1, 2], None);
    }
}
