//! How fast events become files here: some of them are decoded and encoded in memory, and nothing is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::event::Batch;
use headwater_common::position::{Position, ShardId};
use headwater_lake::Error as LakeError;
use headwater_lake::commit::{EpochRows, FileRef, Tables};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{Epoch, Lane, Output};
use headwater_stream::Source;
use headwater_stream::stretch::{Bound, Stretch};

use crate::driver::Error;
use crate::epoch::{EpochBuffer, Settings, Spilling};
use crate::pipeline::Pipeline;

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Reads in a row that may give nothing: a sample may be smaller than it could be.
const EMPTY_READS_MAX: u32 = 10;

/// What a sample is made with.
#[derive(Clone)]
pub struct Sampler {
    /// Where the events come from.
    pub source: Arc<dyn Source>,
    /// The generation that would be built; it need not exist.
    pub generation: Arc<OpenGeneration>,
    /// How events become rows.
    pub pipeline: Pipeline,
    /// Where rows would go that are too many for the memory.
    pub spill_folder: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Events.
    pub events: u64,
    /// Bytes of their payload.
    pub bytes: u64,
    /// Bytes of the files they made.
    pub encoded_bytes: u64,
    /// How long that took, one lane alone.
    pub took: Duration,
}

impl Sampler {
    /// Takes the first events after `range`'s starts, up to its ends, shard after shard until there are `bytes_max`.
    ///
    /// # Errors
    /// When the stream cannot be read or the rows cannot be encoded.
    pub async fn measure(
        &self,
        range: &BTreeMap<ShardId, (Position, Position)>,
        bytes_max: u64,
    ) -> Result<Sample, Error> {
        let stream_failed = |source| Error::Stream { url: self.source.url(), source };
        let lake_failed = |source: LakeError| Error::Lake { table: self.generation.table.to_string(), source };
        let began = self.clock.now();
        let mut sample = Sample::default();
        let mut buffer = self.buffer();
        buffer.resume(range.iter().map(|(shard, (from, _))| (shard.clone(), *from)).collect());
        let tables = Tables::new();
        let share = bytes_max / (range.len() as u64).max(1);
        for (shard, (from, to)) in range {
            let stretch = Stretch::new(self.source.as_ref(), shard.clone(), *from, Bound::from(*to));
            let (mut stretch, mut taken) = (stretch.giving_up_after(EMPTY_READS_MAX), 0);
            while taken < share.max(1) {
                let wanted = usize::try_from(share - taken).unwrap_or(READ_BYTES).clamp(1, READ_BYTES);
                let events = stretch.next(wanted).await.map_err(stream_failed)?;
                if events.is_empty() {
                    break;
                }
                taken += events.iter().map(|event| event.payload.len() as u64).sum::<u64>();
                sample.events += events.len() as u64;
                buffer.add(&Batch { shard: shard.clone(), events }, &tables).map_err(lake_failed)?;
            }
            sample.bytes += taken;
        }
        if sample.events > 0 {
            sample.encoded_bytes = encode(&mut buffer, &tables).await.map_err(lake_failed)?;
        }
        sample.took = self.clock.now().since(began);
        Ok(sample)
    }

    fn buffer(&self) -> EpochBuffer {
        EpochBuffer::new(Settings {
            source: Arc::clone(&self.source),
            generation: Arc::clone(&self.generation),
            lane: Lane::of_first_set(0, 1),
            pipeline: self.pipeline.clone(),
            // A sample is small: it stays in memory.
            spilling: Spilling { folder: self.spill_folder.clone(), from_bytes: usize::MAX, from_windows: usize::MAX },
        })
    }
}

async fn encode(buffer: &mut EpochBuffer, tables: &Tables) -> Result<u64, LakeError> {
    let prepared = buffer.propose(Epoch(1), tables).await?;
    let mut bytes = 0;
    for output in Output::ALL {
        for index in 0..prepared.cut.output(output).files.len() {
            bytes += buffer.encode(&prepared.cut, FileRef { output, index }).await?.bytes.len() as u64;
        }
    }
    Ok(bytes)
}
