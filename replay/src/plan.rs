//! What a rebuild would be: what it reads, who still has it, how long it takes. Changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::position::{Position, ShardId};
use headwater_common::quantity::Bytes;
use headwater_consumer::sample::{Sample, Sampler};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::GenerationNumber;
use serde::Serialize;

use crate::coverage::Stretch;
use crate::error::Error;
use crate::range::described;
use crate::rebuild::{Range, Request};

/// What a rebuild would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The table.
    pub table: String,
    /// The stream's URL.
    pub stream: String,
    /// The live generation.
    pub live: GenerationNumber,
    /// The unfinished generation that a run would go on with; else it makes a new one.
    pub resumes: Option<GenerationNumber>,
    /// In what the pipeline differs from the live generation's; empty when it is the same.
    pub pipeline_changes: String,
    /// The range, by shard and by who holds it.
    pub stretches: Vec<Stretch>,
    /// Events of the range; `None` where only reading them tells.
    pub events: Option<u64>,
    /// Events of it that nobody has any more; `None` where that can't be told.
    pub lost_events: Option<u64>,
    /// Whether part of the range is lost.
    pub is_lost: bool,
    /// What the sample says of all of it; `None` when there was nothing to be sampled.
    pub estimate: Option<Estimate>,
}

/// What a sample says of the whole range.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Events that were decoded and encoded in memory.
    pub sample_events: u64,
    /// Events a second of one lane.
    pub lane_events_per_second: u64,
    /// Lanes that work at the same time here.
    pub lanes_at_once: u32,
    /// Payload bytes of the range; `None` where the events aren't known.
    pub bytes: Option<u64>,
    /// Bytes of the files that it would make.
    pub lake_bytes: Option<u64>,
    /// How long it would take.
    pub seconds: Option<u64>,
}

/// What the plan is made with.
pub struct Means {
    /// Bytes of payload to be sampled.
    pub sample_bytes: u64,
    /// Lanes that can work at the same time on this machine.
    pub lanes_at_once_max: u32,
    /// Where rows would wait that are too many for the memory.
    pub spill_folder: std::path::PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Makes the plan.
///
/// # Errors
/// When the stream or the lake do not answer. What is lost is in the plan.
pub async fn plan(request: &Request, means: Means) -> Result<Plan, Error> {
    let range = request.range().await?;
    let sample = measure(request, &range, &means).await?;
    let is_lost = !range.lost().is_empty();
    let gap_free = request.live.description.gap_free;
    let count = |stretches: &[Stretch]| gap_free.then(|| stretches.iter().map(Stretch::events).sum());
    let events: Option<u64> = count(&range.stretches);
    let lanes_at_once = range.lanes.min(means.lanes_at_once_max).max(1);
    Ok(Plan {
        table: request.live.table.to_string(),
        stream: request.stream.url(),
        live: request.live.description.number,
        resumes: range.resumed.as_ref().map(|generation| generation.description.number),
        pipeline_changes: request.live.description.difference(&request.pipeline.canonical()),
        events,
        lost_events: count(&range.lost()),
        is_lost,
        estimate: estimate(sample, events, lanes_at_once),
        stretches: range.stretches,
    })
}

/// Measures the first events of the range that somebody still has.
async fn measure(request: &Request, range: &Range, means: &Means) -> Result<Sample, Error> {
    let mut held: BTreeMap<ShardId, (Position, Position)> = BTreeMap::new();
    for stretch in range.stretches.iter().filter(|stretch| stretch.held_by.is_some()) {
        let bounds = held.entry(stretch.shard.clone()).or_insert((stretch.from, stretch.to));
        bounds.1 = stretch.to;
    }
    let generation = OpenGeneration { description: request.description(range), ..request.live.clone() };
    let sampler = Sampler {
        source: Arc::clone(&request.source),
        generation: Arc::new(generation),
        pipeline: request.pipeline.clone(),
        spill_folder: means.spill_folder.clone(),
        clock: Arc::clone(&means.clock),
    };
    Ok(sampler.measure(&held, means.sample_bytes).await?)
}

/// Says what a sample means for so many events.
fn estimate(sample: Sample, events: Option<u64>, lanes_at_once: u32) -> Option<Estimate> {
    if sample.events == 0 {
        return None;
    }
    let micros = u64::try_from(sample.took.as_micros()).unwrap_or(u64::MAX).max(1);
    let part = |whole: u64, times: u64, by: u64| {
        let scaled = u128::from(whole) * u128::from(times) / u128::from(by.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    let micros_all = |events| part(micros, events, sample.events * u64::from(lanes_at_once));
    Some(Estimate {
        sample_events: sample.events,
        lane_events_per_second: part(sample.events, 1_000_000, micros),
        lanes_at_once,
        bytes: events.map(|events| part(sample.bytes, events, sample.events)),
        lake_bytes: events.map(|events| part(sample.encoded_bytes, events, sample.events)),
        seconds: events.map(|events| micros_all(events).div_ceil(1_000_000)),
    })
}

impl Plan {
    /// Returns the plan for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |one: String| writeln!(text, "{one}").expect("writing to a string does not fail");
        let target = match self.resumes {
            Some(number) => format!("goes on with {number}"),
            None => "makes a new generation".to_owned(),
        };
        line(format!("table {}, live generation {}; a run {target}", self.table, self.live));
        match self.pipeline_changes.as_str() {
            "" => line("the same pipeline as the live generation's".to_owned()),
            changes => {
                line("another pipeline than the live generation's:".to_owned());
                changes.lines().for_each(|change| line(format!("  {change}")));
            }
        }
        for stretch in &self.stretches {
            let holder = stretch.held_by.as_deref().unwrap_or("LOST: neither the stream nor an archive has them");
            let count = self.events.map(|_| format!("{:>12} events  ", stretch.events())).unwrap_or_default();
            let (from, to) = (described(stretch.from), described(stretch.to));
            line(format!("  shard {:<4} {count}after {from} up to {to}  {holder}", stretch.shard));
        }
        match self.events {
            Some(0) => line("there is nothing to be read".to_owned()),
            Some(events) => line(format!("{events} events in all, {} of them lost", self.lost_events.unwrap_or(0))),
            None => line("how many events these are, only reading them tells".to_owned()),
        }
        if let Some(estimate) = &self.estimate {
            line(format!(
                "measured with {} events: {} events/s a lane, {} at a time",
                estimate.sample_events, estimate.lane_events_per_second, estimate.lanes_at_once
            ));
            if let (Some(bytes), Some(lake), Some(seconds)) = (estimate.bytes, estimate.lake_bytes, estimate.seconds) {
                let time = Duration::from_secs(seconds);
                line(format!("about {} of events, {} of files, {time:?}", Bytes(bytes), Bytes(lake)));
            }
        }
        line("nothing was changed".to_owned());
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_scaled_to_the_whole() {
        let sample = Sample { events: 1_000, bytes: 200_000, encoded_bytes: 50_000, took: Duration::from_millis(10) };
        let found = estimate(sample, Some(10_000_000), 2).unwrap();
        assert_eq!(found.lane_events_per_second, 100_000);
        assert_eq!(found.bytes, Some(2_000_000_000));
        assert_eq!(found.lake_bytes, Some(500_000_000));
        assert_eq!(found.seconds, Some(50), "two lanes share the work");
        assert_eq!(estimate(Sample::default(), Some(7), 1), None);
        assert_eq!(estimate(sample, None, 1).unwrap().seconds, None);
    }
}
