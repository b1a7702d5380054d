//! Cutover and rollback: the lake's protocol, with the consumer's own lanes as its hands.

use std::sync::Arc;

use async_trait::async_trait;
use headwater_consumer::driver::{Consumer, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_lake::cutover::{self, CaughtUp, Failure, Hands, Outcome, Positions};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::layout::{GenerationNumber, PointerNumber, TableName};
use headwater_lake::pointer::{self, Pointer};
use headwater_lake::store::LakeStore;
use headwater_stream::Source;
use tokio::sync::watch;

use crate::error::Error;
use crate::rebuild::Means;

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
}

impl Cutover {
    /// Returns the generation that is meant when none is named: forward the newest one above the live one, back the one
    /// that was live before it.
    ///
    /// # Errors
    /// When there is none, or the lake does not answer.
    pub async fn default_target(&self, direction: Direction) -> Result<GenerationNumber, Error> {
        let live = generation::open_live(&self.store, &self.table).await?.description.number;
        let pointers = self.pointers().await?;
        let retired = pointers.last().map(|highest| highest.retired.clone()).unwrap_or_default();
        let found = match direction {
            Direction::Forward => {
                let all = generation::in_folders(&self.store, &self.table).await?;
                all.into_iter().rev().find(|number| *number > live && !retired.contains(number))
            }
            Direction::Back => previous(&pointers),
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
        let (expected, actual) = (open.description.stream, self.source.identity().0);
        if expected != actual {
            return Err(headwater_lake::Error::OtherStream { table: self.table.clone(), expected, actual }.into());
        }
        let mut lanes = Lanes { cutover: self, shutdown };
        let (store, table, retry) = (self.store.clone(), self.table.clone(), self.means.retry);
        Ok(cutover::cut_over(cutover::Settings { store, table, target, retry }, &mut lanes).await?)
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
