//! Builds generation g+1 beside g: the consumer with another start, a bound, and another generation to write to.
//!
//! Guarantees: neither the live generation nor the pointer is touched; a rebuild that was killed goes on by the cuts it
//! made; two that run at once fence each other by their cuts. Relies on nothing local.

mod ranging;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_common::clock::Clock;
use headwater_common::retry::Policy;
use headwater_consumer::driver::{Consumer, Progress, SEAL_WAIT_DEFAULT, Until as ConsumeUntil};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_consumer::recorded::RecordedCuts;
use headwater_lake::cutover::CaughtUp;
use headwater_lake::generation::{self, Generation, OpenGeneration, StreamFacts};
use headwater_lake::lanes;
use headwater_lake::layout::{self, GenerationNumber, LaneSetNumber, Output, PointerNumber};
use headwater_lake::pointer;
use headwater_lake::store::Create;
use headwater_lake::table::DeltaLog;
use headwater_stream::{Error as StreamError, Source};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::beginning::{self, Beginning};
use crate::coverage::{Coverage, Stretch};
use crate::error::Error;
use crate::range::{Positions, Since, Until};
use crate::standing;

/// The newest version of the format.
const VERSION: u32 = 1;

/// What a generation's rebuild was asked for: `_rebuild.json`, described in `docs/formats/rebuild.md`. Created once;
/// a rebuild that is asked for the same goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// Version of the format.
    pub version: u32,
    /// The generation that was live then.
    pub of: GenerationNumber,
    /// How it begins.
    pub beginning: Beginning,
    /// Where it begins, as it was asked for; where that is, is in `_generation.json`.
    pub since: String,
    /// Up to where the schema was inferred, as it was asked for: another end may have another schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inferred_until: Option<String>,
}

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// Where the events come from: the stream, with its archive where there is one.
    pub source: Arc<dyn Source>,
    /// The stream alone, to tell who holds what.
    pub stream: Arc<dyn Source>,
    /// What else holds events of the stream.
    pub archives: Vec<Coverage>,
    /// The live generation.
    pub live: OpenGeneration,
    /// How events become rows.
    pub pipeline: Pipeline,
    /// Lanes of a new generation; as many as the live one has unless told otherwise.
    pub lanes: Option<u32>,
    /// How a new generation begins.
    pub beginning: Beginning,
    /// Where it begins.
    pub since: Since,
    /// Where it ends.
    pub until: Until,
    /// Never go on with what an earlier run left.
    pub anew: bool,
}

/// What is asked for, in positions.
#[derive(Debug, Clone)]
pub struct Range {
    /// The unfinished generation that the run goes on with.
    pub resumed: Option<OpenGeneration>,
    /// Lanes of the generation.
    pub lanes: u32,
    /// Where a new generation begins.
    pub start: Positions,
    /// Where reading begins.
    pub from: Positions,
    /// The last positions to be read.
    pub until: Positions,
    /// The range by who holds it.
    pub stretches: Vec<Stretch>,
}

/// What the work is done with.
#[derive(Clone)]
pub struct Means {
    /// When to cut.
    pub limits: Limits,
    /// Where rows go that are too many for the memory.
    pub spill_folder: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often and how long apart an unclear answer of the lake is looked into.
    pub retry: Policy,
    /// Seeds the jitter of the pauses.
    pub seed: u64,
    /// What the consumer says of its work while it runs.
    pub progress: Arc<Progress>,
    /// Events looked at for the schema.
    pub inferred: Arc<AtomicU64>,
}

impl Range {
    /// Returns what nobody has any more.
    pub fn lost(&self) -> Vec<Stretch> {
        self.stretches.iter().filter(|stretch| stretch.held_by.is_none()).cloned().collect()
    }
}

impl Request {
    fn rebuild(&self) -> Rebuild {
        let of = self.live.description.number;
        let inferred_until = (self.beginning == Beginning::InferredSchema).then(|| self.until.to_string());
        Rebuild { version: VERSION, of, beginning: self.beginning, since: self.since.to_string(), inferred_until }
    }

    fn stream_failed(&self, source: StreamError) -> Error {
        Error::Stream { url: self.source.url(), source }
    }

    /// Refuses what does not belong together.
    async fn check(&self) -> Result<(), Error> {
        let live = &self.live.description;
        let (expected, actual) = (live.stream.clone(), self.source.identity().0);
        if expected != actual {
            let table = self.live.table.clone();
            return Err(headwater_lake::Error::OtherStream { table, expected, actual }.into());
        }
        if self.beginning != Beginning::RecordedCuts {
            return Ok(());
        }
        let refused = |reason: String| Err(Error::CutsOfAnother { generation: live.number, reason });
        if self.pipeline.hash() != live.pipeline_hash {
            let difference = live.difference(&self.pipeline.canonical());
            return refused(format!("they were made by another pipeline:\n{difference}"));
        }
        let lanes = lanes::highest(&self.live).await?;
        if lanes.number > LaneSetNumber::FIRST {
            let changes = lanes.number.0 - 1;
            return refused(format!(
                "its lanes were changed {changes} times, to {} in the end, and a rebuild has the same lanes from \
                 beginning to end; leave out --same-cuts",
                lanes.count
            ));
        }
        if let Some(asked) = self.lanes.filter(|asked| *asked != lanes.count) {
            return refused(format!("they are of {} lanes, not of {asked}", lanes.count));
        }
        if self.since != Since::Generation || self.until != Until::Now {
            return refused("they say themselves from where to where".to_owned());
        }
        Ok(())
    }

    /// Returns the newest generation above the live one that was asked for in the same words.
    async fn unfinished(&self) -> Result<Option<OpenGeneration>, Error> {
        let (store, table) = (&self.live.store, &self.live.table);
        let wanted = self.rebuild();
        for number in standing::usable(store, table).await?.into_iter().rev() {
            if number <= self.live.description.number {
                break;
            }
            if read(&self.live, number).await?.as_ref() != Some(&wanted) {
                continue;
            }
            let found = generation::open(store, table, number).await?;
            let description = &found.description;
            let is_same = description.pipeline_hash == self.pipeline.hash()
                && description.stream == self.live.description.stream
                && self.lanes.is_none_or(|lanes| lanes == description.lanes);
            if is_same {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Makes the generation, or takes the unfinished one, and returns the consumer that builds it.
    ///
    /// # Errors
    /// When part of the range is lost: then nothing was changed. When the lake or the stream do not answer.
    pub async fn open(&self, range: &Range, means: Means) -> Result<Consumer, Error> {
        let lost = range.lost();
        if !lost.is_empty() {
            return Err(Error::Lost { url: self.source.url(), lost });
        }
        // Looked at before the schema: every version that these cuts name is in it.
        let recorded = match self.beginning {
            Beginning::RecordedCuts => Some(Arc::new(RecordedCuts::of(self.live.clone()).await?)),
            _ => None,
        };
        let generation = match &range.resumed {
            Some(generation) => generation.clone(),
            None => self.create(range).await?,
        };
        if let Some(recorded) = &recorded
            && let Some((lane, epoch)) = recorded.first_other(&generation).await?
        {
            let number = generation.description.number;
            let reason = format!("{number} has another cut as epoch {epoch} of lane {lane}; --anew makes a generation");
            return Err(Error::CutsOfAnother { generation: self.live.description.number, reason });
        }
        self.begin(&generation, range, &means).await?;
        Ok(Consumer {
            source: Arc::clone(&self.source),
            generation: Arc::new(generation),
            pipeline: self.pipeline.clone(),
            limits: means.limits,
            spill_folder: means.spill_folder,
            until: ConsumeUntil::Reached(range.until.clone()),
            recorded,
            clock: means.clock,
            retry: means.retry,
            seed: means.seed,
            // Not live: nobody waits for it behind a seal.
            seal_wait: SEAL_WAIT_DEFAULT,
            progress: means.progress,
        })
    }

    /// Returns what a new generation would be; its number is given when it is created.
    pub fn description(&self, range: &Range) -> Generation {
        let live = &self.live.description;
        let facts = StreamFacts {
            identity: live.stream.clone(),
            sequence_digits: live.sequence_digits,
            gap_free: live.gap_free,
            start: range.start.clone(),
        };
        let Pipeline { partition_by, .. } = &self.pipeline;
        Generation::first(self.pipeline.canonical(), self.pipeline.hash(), partition_by.clone(), range.lanes, facts)
    }

    async fn create(&self, range: &Range) -> Result<OpenGeneration, Error> {
        let (store, table) = (&self.live.store, &self.live.table);
        let created = generation::create_next(store, table, self.description(range)).await?;
        let key = layout::rebuild_file(table, created.description.number);
        let bytes = serde_json::to_vec_pretty(&self.rebuild()).expect("a rebuild has string keys only");
        // Without an answer a later run may not find it, and begin anew: that costs time, and nothing else.
        if store.create(&key, bytes.into()).await? == Create::Unknown {
            tracing::warn!(%key, "no clear answer; if this run is killed, the next one may begin anew");
        }
        Ok(created)
    }

    /// Gives the events table the schema that it begins with, unless it has one.
    async fn begin(&self, generation: &OpenGeneration, range: &Range, means: &Means) -> Result<(), Error> {
        let log = DeltaLog::new(generation, Output::Events)?;
        let live = DeltaLog::new(&self.live, Output::Events)?.newest().await?;
        let live = live.as_deref();
        let begun = log.newest().await?.is_some();
        let schema = match (self.beginning, live) {
            // The live one may have grown since: later cuts name later versions.
            (Beginning::RecordedCuts, Some(live)) => Some(live.schema.clone()),
            _ if begun => None,
            (Beginning::FinalSchema, Some(live)) => {
                Some(beginning::final_schema(live, &self.live.description.pipeline, &self.pipeline)?)
            }
            (Beginning::InferredSchema, _) => {
                let inferred = Arc::clone(&means.inferred);
                let seen = move |count: u64| {
                    inferred.fetch_add(count, Ordering::Relaxed);
                };
                let start = &generation.description.start;
                beginning::infer(self.source.as_ref(), &self.pipeline, (start, &range.until), &seen).await?
            }
            (_, None) => None,
        };
        if let Some(schema) = schema {
            let alike = (self.beginning != Beginning::InferredSchema).then_some(live).flatten();
            let keys = beginning::keys(&schema, &self.pipeline, alike);
            log.ensure(&schema, &keys).await?;
        }
        Ok(())
    }
}

/// How a rebuild ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of the range is committed.
    Done,
    /// It was told to stop; the next run goes on.
    Stopped,
    /// A cutover has decided about this generation meanwhile.
    Overtaken,
}

/// Builds the generation to its end, or until `shutdown` turns true. The pointer is read and not touched.
///
/// # Errors
/// When the lake or the stream do not answer.
pub async fn run(consumer: &Consumer, shutdown: &watch::Receiver<bool>) -> Result<Ended, Error> {
    let OpenGeneration { store, table, .. } = consumer.generation.as_ref();
    let highest = pointer::highest(store, table).await?.map_or(PointerNumber::FIRST, |highest| highest.number);
    Ok(match consumer.catch_up(highest, shutdown).await? {
        Some(CaughtUp::Reached) => Ended::Done,
        Some(CaughtUp::Overtaken) => Ended::Overtaken,
        None => Ended::Stopped,
    })
}

/// Reads what a generation's rebuild was asked for; `None` when it is no rebuild, or one of a newer version.
///
/// # Errors
/// When the lake does not answer.
pub async fn read(live: &OpenGeneration, number: GenerationNumber) -> Result<Option<Rebuild>, Error> {
    let key = layout::rebuild_file(&live.table, number);
    let Some(bytes) = live.store.read(&key).await? else {
        return Ok(None);
    };
    let rebuild = serde_json::from_slice::<Rebuild>(&bytes).ok();
    Ok(rebuild.filter(|rebuild| rebuild.version == VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_version_1() {
        let rebuild = Rebuild {
            version: VERSION,
            of: GenerationNumber(1),
            beginning: Beginning::FinalSchema,
            since: "generation".to_owned(),
            inferred_until: None,
        };
        let golden = r#"{"version":1,"of":1,"beginning":"final-schema","since":"generation"}"#;
        assert_eq!(serde_json::to_string(&rebuild).expect("plain JSON"), golden);
        assert_eq!(serde_json::from_str::<Rebuild>(golden).expect("it reads its own"), rebuild);
    }
}
