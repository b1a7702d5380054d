//! All generations of a table: which is live, what each was built with, and how far it is.

use std::fmt::Write;

use headwater_common::quantity::Bytes;
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::lanes;
use headwater_lake::layout::{self, GenerationNumber, Output};
use headwater_lake::reading;
use headwater_stream::{Source, StartAt};
use serde::Serialize;

use crate::error::Error;
use crate::range::Positions;
use crate::rebuild::{self, Rebuild};
use crate::standing::{self, Counting};

/// The generations of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The table.
    pub table: String,
    /// The live generation.
    pub live: GenerationNumber,
    /// All of them, the oldest first.
    pub generations: Vec<GenerationStatus>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationStatus {
    /// Its number.
    pub number: GenerationNumber,
    /// Whether queries read it.
    pub live: bool,
    /// Hash of the pipeline that made it.
    pub pipeline: String,
    /// In what its pipeline differs from the live one's; empty when it is the same.
    pub pipeline_changes: String,
    /// Its lanes, as they were asked for last.
    pub lanes: u32,
    /// What its rebuild was asked for; `None` when it is no rebuild.
    pub rebuild: Option<Rebuild>,
    /// Events that it has taken; `None` where only reading them tells.
    pub events: Option<u64>,
    /// Events that the live generation has taken and it has not.
    pub behind_live: Option<u64>,
    /// Events that the stream has and it has not taken; `None` also when the stream isn't at hand.
    pub behind_stream: Option<u64>,
    /// Rows.
    pub rows: u64,
    /// Files.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Partitions that have files.
    pub partitions: u64,
    /// Events that cannot be rows.
    pub dead_letters: u64,
    /// Where each shard stands.
    pub positions: Positions,
}

/// Looks at all generations of the live one's table.
///
/// # Errors
/// When the lake or the stream do not answer.
pub async fn status(live: &OpenGeneration, source: Option<&dyn Source>) -> Result<Status, Error> {
    let newest = match source.filter(|source| source.identity().0 == live.description.stream) {
        Some(source) => Some(newest(source).await?),
        None => None,
    };
    let reached = standing::positions(live, Counting::Committed).await?;
    let mut generations = Vec::new();
    for number in generation::in_folders(&live.store, &live.table).await? {
        // A folder whose description was never written was given up before it began.
        if live.store.head(&layout::generation_file(&live.table, number)).await?.is_none() {
            continue;
        }
        let open = generation::open(&live.store, &live.table, number).await?;
        generations.push(of_generation(live, &open, &reached, newest.as_ref()).await?);
    }
    Ok(Status { table: live.table.to_string(), live: live.description.number, generations })
}

async fn newest(source: &dyn Source) -> Result<Positions, Error> {
    let failed = |error| Error::Stream { url: source.url(), source: error };
    let mut newest = Positions::new();
    for shard in source.shards().await.map_err(failed)? {
        let position = source.resolve(&shard.id, StartAt::Latest).await.map_err(failed)?;
        newest.insert(shard.id, position);
    }
    Ok(newest)
}

async fn of_generation(
    live: &OpenGeneration,
    open: &OpenGeneration,
    live_positions: &Positions,
    newest: Option<&Positions>,
) -> Result<GenerationStatus, Error> {
    let description = &open.description;
    let positions = standing::positions(open, Counting::Committed).await?;
    let totals = reading::totals(open, Output::Events).await?;
    let letters = reading::totals(open, Output::DeadLetters).await?;
    let is_same_stream = description.stream == live.description.stream;
    let behind = |other: &Positions| {
        let comparable = description.gap_free && is_same_stream;
        comparable.then(|| standing::events_between(&positions, other))
    };
    Ok(GenerationStatus {
        number: description.number,
        live: description.number == live.description.number,
        pipeline: description.pipeline_hash.clone(),
        pipeline_changes: live.description.difference(&description.pipeline),
        lanes: lanes::highest(open).await?.count,
        rebuild: rebuild::read(live, description.number).await?,
        events: description.gap_free.then(|| standing::events_between(&description.start, &positions)),
        behind_live: behind(live_positions),
        behind_stream: newest.and_then(behind),
        rows: totals.rows,
        files: totals.files,
        bytes: totals.bytes,
        partitions: totals.partitions,
        dead_letters: letters.rows,
        positions,
    })
}

impl Status {
    /// Returns the status for people.
    pub fn text(&self) -> String {
        let mut text = format!("table {}\n", self.table);
        for generation in &self.generations {
            let GenerationStatus { number, rows, files, partitions, dead_letters, .. } = generation;
            let role = match &generation.rebuild {
                _ if generation.live => " (live)".to_owned(),
                Some(rebuild) => format!(" (rebuild of {})", rebuild.of),
                None => String::new(),
            };
            let bytes = Bytes(generation.bytes);
            let mut put = |line: String| writeln!(text, "{line}").expect("writing to a string does not fail");
            put(format!("  {number}{role}"));
            put(format!(
                "    {rows} rows in {files} files, {bytes}, {partitions} partitions; {dead_letters} dead letters"
            ));
            if !generation.pipeline_changes.is_empty() {
                put("    another pipeline than the live one's:".to_owned());
                generation.pipeline_changes.lines().for_each(|change| put(format!("      {change}")));
            }
            let count = |events: Option<u64>| events.map_or("unknown".to_owned(), |events| events.to_string());
            put(format!(
                "    {} events taken, {} behind the live generation, {} behind the stream",
                count(generation.events),
                count(generation.behind_live),
                count(generation.behind_stream)
            ));
        }
        text.truncate(text.trim_end().len());
        text
    }
}
