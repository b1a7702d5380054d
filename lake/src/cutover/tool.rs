//! Performs the actions that [`Machine`] names, against the store. What needs a pipeline is asked of [`Hands`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use headwater_common::retry::Policy;

use super::machine::{Action, End, Fact, Machine, Outcome, Positions, Progress};
use crate::commit::{committed_everywhere, committed_everywhere_of, furthest_after, positions_after, read_cut};
use crate::cut::Cut;
use crate::error::Error;
use crate::generation::{self, OpenGeneration};
use crate::lanes;
use crate::layout::{self, Epoch, GenerationNumber, Lane, Output, PointerNumber, TableName};
use crate::pointer::{self, Pointer};
use crate::schema::SchemaVersion;
use crate::store::{Create, LakeStore};
use crate::table::DeltaLog;

/// Steps that are taken for one lane at most: a consumer that cuts all the time may be faster this often.
const STEPS_A_LANE_MAX: u32 = 200;

/// How often the sealed generation is finished, or the target brought up to date, without coming to the end.
const WORK_TRIES_MAX: u32 = 10;

/// What a cutover needs done with a pipeline: a consumer does it. Each call may be repeated after a failure or a crash.
#[async_trait]
pub trait Hands: Send {
    /// Commits what is published in a generation, up to its seals, with the generation's own pipeline. Returns at once
    /// for a lane that is blocked or has nothing left.
    async fn finish(&mut self, generation: &OpenGeneration) -> Result<(), Failure>;

    /// Consumes into a generation that is not live until it has committed at least `positions`, with the generation's
    /// own pipeline, judging seals as a candidate for the pointer after `after`.
    async fn catch_up(
        &mut self,
        generation: &OpenGeneration,
        after: PointerNumber,
        positions: &Positions,
    ) -> Result<CaughtUp, Failure>;
}

/// Why [`Hands`] could not.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How far a candidate got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaughtUp {
    /// To the positions asked for.
    Reached,
    /// To a seal that was put for a later pointer: another decision was faster.
    Overtaken,
}

/// What a cutover is run with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lake.
    pub store: LakeStore,
    /// The table.
    pub table: TableName,
    /// The generation to become live: a new one, or for a rollback an old one.
    pub target: GenerationNumber,
    /// How often and how long apart an unclear answer is looked into.
    pub retry: Policy,
}

/// Makes a generation live: cutover and rollback alike. A crash at any point leaves a state that the consumers resolve
/// by themselves; running it again goes on where the last one was.
///
/// # Errors
/// When the lake cannot be trusted or does not answer. A lost race is no error but [`Outcome::Lost`].
pub async fn cut_over(settings: Settings, hands: &mut dyn Hands) -> Result<Outcome, Error> {
    let machine = Machine::new(settings.target);
    let mut tool = Tool { settings, machine, unclear: 0 };
    let (mut steps_left, mut work_tries) = (STEPS_A_LANE_MAX, 0);
    loop {
        let action = tool.machine.next();
        tracing::debug!(?action, "cutover");
        let Some(left) = steps_left.checked_sub(1) else {
            return Err(tool.used_up(STEPS_A_LANE_MAX));
        };
        steps_left = left;
        work_tries += u32::from(matches!(action, Action::Finish(_) | Action::CatchUp { .. }));
        if work_tries > WORK_TRIES_MAX {
            return Err(tool.used_up(WORK_TRIES_MAX));
        }
        let fact = match action {
            Action::Done(outcome) => {
                // Readers that list follow; a crash before this is made good by the next consumer that starts or moves.
                if let Err(error) = pointer::link_current(&tool.settings.store, &tool.settings.table).await {
                    tracing::warn!(%error, "`current` is not linked; readers that list see the generation before");
                }
                return Ok(outcome);
            }
            Action::ReadPointer => {
                let (highest, lanes) = tool.start().await?;
                steps_left = steps_max(&lanes);
                Fact::Start { highest, lanes }
            }
            Action::ReadLanes(live) => {
                let lanes: Vec<_> = lanes::current(&tool.open(live).await?).await?.set.lanes().collect();
                steps_left = steps_max(&lanes);
                Fact::Lanes(lanes)
            }
            Action::Approach { live, target, after } => {
                let positions = committed(&tool.open(live).await?).await?;
                tool.catch_up(hands, target, after, &positions).await?
            }
            Action::FindEnd(live, lane, wanted) => Fact::End(find_end(&tool.open(live).await?, lane, wanted).await?),
            Action::Seal(live, lane, epoch, wanted) => {
                let cut = seal(&tool.open(live).await?, lane, epoch, wanted).await?;
                let key = layout::cut(&tool.settings.table, live, lane, epoch);
                let tried = tool.settings.store.create(&key, cut.to_bytes().into()).await?;
                tool.tried(tried).await?
            }
            Action::ReadNext(wanted) => {
                Fact::Next(pointer::read(&tool.settings.store, &tool.settings.table, wanted).await?)
            }
            Action::Assess { live, target } => {
                Fact::Progress(read_progress(&tool.open(live).await?, &tool.open(target).await?).await?)
            }
            Action::Finish(live) => {
                let open = tool.open(live).await?;
                let failed = |source| Error::BringUpToDate { action: "finish", generation: live, source };
                hands.finish(&open).await.map_err(failed)?;
                Fact::Finished
            }
            Action::CatchUp { target, after, positions } => tool.catch_up(hands, target, after, &positions).await?,
            Action::Create(pointer) => {
                let tried = pointer::try_create(&tool.settings.store, &tool.settings.table, &pointer).await?;
                tool.tried(tried.unwrap_or(Create::Unknown)).await?
            }
        };
        tool.machine.apply(fact);
    }
}

/// How many steps a set of lanes may take. Sets that follow one another are bounded by the tries.
fn steps_max(lanes: &[Lane]) -> u32 {
    let lane_count = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
    STEPS_A_LANE_MAX.saturating_mul(lane_count.saturating_add(1))
}

struct Tool {
    settings: Settings,
    machine: Machine,
    /// Unclear answers in a row.
    unclear: u32,
}

impl Tool {
    async fn start(&self) -> Result<(Pointer, Vec<Lane>), Error> {
        let Settings { store, table, target, .. } = &self.settings;
        // Says which tables there are, when this one is not.
        generation::open_live(store, table).await?;
        let none = || Error::Damaged { key: layout::pointers(table), source: "they vanished".into() };
        let highest = pointer::highest(store, table).await?.ok_or_else(none)?;
        let live = self.open(highest.generation).await?;
        // Before a table has its first version no seal can be committed in it, and there is nothing to cut over from.
        if highest.generation != *target && schemas(&live).await?.is_none() {
            return Err(Error::NothingToSeal { table: table.clone(), generation: highest.generation });
        }
        Ok((highest, lanes::current(&live).await?.set.lanes().collect()))
    }

    async fn open(&self, number: GenerationNumber) -> Result<OpenGeneration, Error> {
        generation::open(&self.settings.store, &self.settings.table, number).await
    }

    async fn catch_up(
        &self,
        hands: &mut dyn Hands,
        target: GenerationNumber,
        after: PointerNumber,
        positions: &Positions,
    ) -> Result<Fact, Error> {
        let open = self.open(target).await?;
        let failed = |source| Error::BringUpToDate { action: "bring up to date", generation: target, source };
        Ok(match hands.catch_up(&open, after, positions).await.map_err(failed)? {
            CaughtUp::Reached => Fact::CaughtUp,
            CaughtUp::Overtaken => Fact::Overtaken,
        })
    }

    /// Pauses before an unclear answer is read back, mostly longer each time, and gives up in the end.
    async fn tried(&mut self, create: Create) -> Result<Fact, Error> {
        if create == Create::Unknown {
            self.unclear += 1;
            let pause =
                self.settings.retry.pause_before(self.unclear + 1, 0.5).ok_or_else(|| self.used_up(self.unclear))?;
            tokio::time::sleep(pause).await;
        } else {
            self.unclear = 0;
        }
        Ok(Fact::Tried)
    }

    fn used_up(&self, tries: u32) -> Error {
        let number = self.machine.wanted().map_or(PointerNumber::FIRST, |wanted| wanted.number);
        Error::CutoverTriesUsedUp { table: self.settings.table.clone(), number, tries }
    }
}

/// Returns where a lane ends, whether it is sealed for the pointer, and whether it is closed.
async fn find_end(generation: &OpenGeneration, lane: Lane, wanted: PointerNumber) -> Result<End, Error> {
    let committed = committed_everywhere(generation, lane).await?;
    let mut end = End { free: committed.next(), is_sealed: false, is_closed: false };
    if committed > Epoch(0) {
        end.is_closed = read_cut(generation, lane, committed).await?.is_some_and(|cut| cut.closes.is_some());
    }
    while let Some(cut) = read_cut(generation, lane, end.free).await? {
        end.is_sealed |= cut.seal == Some(wanted);
        end.is_closed |= cut.closes.is_some();
        end.free = end.free.next();
    }
    Ok(end)
}

async fn seal(generation: &OpenGeneration, lane: Lane, epoch: Epoch, wanted: PointerNumber) -> Result<Cut, Error> {
    let description = &generation.description;
    let schemas = schemas(generation)
        .await?
        .ok_or_else(|| Error::NothingToSeal { table: generation.table.clone(), generation: description.number })?;
    let positions = positions_after(generation, lane, Epoch(epoch.0 - 1)).await?;
    let place = (description.number, lane, epoch);
    Ok(Cut::sealing(wanted, place, description.pipeline_hash.clone(), &schemas, positions))
}

/// Returns the schema version of each output; `None` when one of the tables does not exist yet.
async fn schemas(generation: &OpenGeneration) -> Result<Option<BTreeMap<Output, SchemaVersion>>, Error> {
    let mut schemas = BTreeMap::new();
    for output in Output::ALL {
        let log = DeltaLog::new(generation, output)?;
        let Some(snapshot) = log.snapshot().await? else {
            return Ok(None);
        };
        schemas.insert(output, log.state_of(&snapshot)?.schema.version);
    }
    Ok(Some(schemas))
}

/// Returns how far a cutover from `live` to `target` is.
///
/// # Errors
/// When the store does not answer or a cut is damaged.
pub async fn read_progress(live: &OpenGeneration, target: &OpenGeneration) -> Result<Progress, Error> {
    let mut progress = Progress { target: committed(target).await?, ..Progress::default() };
    let mut ends = Vec::new();
    for lane in lanes::current(live).await?.set.lanes() {
        let Published { committed, end, is_unfinished } = published(live, lane).await?;
        debug_assert!(committed <= end, "what is committed was published");
        progress.is_unfinished |= is_unfinished;
        ends.push((lane, end));
    }
    progress.live = furthest_after(live, ends).await?;
    Ok(progress)
}

/// What is published in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The last epoch that every output has.
    pub committed: Epoch,
    /// The last epoch that has a cut.
    pub end: Epoch,
    /// Whether one of those between takes events.
    pub is_unfinished: bool,
}

/// Returns what is published in a lane.
///
/// # Errors
/// When the store does not answer or a cut is damaged.
pub async fn published(generation: &OpenGeneration, lane: Lane) -> Result<Published, Error> {
    let committed = committed_everywhere(generation, lane).await?;
    let mut published = Published { committed, end: committed, is_unfinished: false };
    while let Some(cut) = read_cut(generation, lane, published.end.next()).await? {
        published.is_unfinished |= cut.seal.is_none();
        published.end = published.end.next();
    }
    Ok(published)
}

/// Returns where a generation stands with what every output has committed.
async fn committed(generation: &OpenGeneration) -> Result<Positions, Error> {
    let lanes = lanes::current(generation).await?.set.lanes();
    furthest_after(generation, committed_everywhere_of(generation, lanes).await?).await
}
