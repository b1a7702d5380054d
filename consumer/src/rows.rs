//! The rows of an epoch's output: in memory while there is room, beyond that on disk, and always by window.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::coalesce::BatchCoalescer;
use headwater_common::window::{Partitioning, Start};
use headwater_lake::commit::EncodedFile;
use headwater_lake::cut::FileIntent;
use headwater_lake::digest::{RowDigest, RowHasher};
use headwater_lake::generation::PartitionKey;
use headwater_lake::layout::{self, Epoch, Lane};
use headwater_lake::schema::TableSchema;
use parquet::errors::ParquetError;

use crate::decode::{BATCH_ROWS, Decoded, adapt};
use crate::encode;
use crate::spill::Spill;
use crate::window::WindowIndex;

/// Rows of one output, by window.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    batches: Vec<Decoded>,
    index: WindowIndex,
    /// The schema they are encoded with; known once they are proposed or read again.
    schema: Option<SchemaRef>,
    bytes: usize,
    /// What came before the batches and is on disk.
    spill: Option<Spill>,
}

impl Rows {
    /// Adds rows that come after all that were added before.
    pub(crate) fn add(&mut self, partitioning: &Partitioning, decoded: Vec<Decoded>) {
        for batch in decoded {
            self.index.add(partitioning, self.batches.len(), &batch.times);
            self.bytes += batch.bytes;
            self.batches.push(batch);
        }
    }

    /// Returns the bytes of memory that the rows take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes of rows on disk.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spill.as_ref().map_or(0, Spill::bytes)
    }

    /// Says that no row will come any more, and with which schema they are encoded.
    pub(crate) fn complete(&mut self, schema: &TableSchema) {
        self.schema = Some(Arc::new(schema.arrow_schema()));
    }

    fn schema(&self) -> &SchemaRef {
        self.schema.as_ref().expect("the rows are complete")
    }

    /// Moves all rows to disk.
    pub(crate) fn spill(&mut self, folder: &Path, schema: &SchemaRef) -> io::Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            None => self.spill.insert(Spill::create(folder)?),
        };
        for (window, _) in self.index.windows() {
            for chunk in self.index.chunks(window, &self.batches, schema) {
                spill.append(window, &chunk)?;
            }
        }
        self.batches.clear();
        self.index = WindowIndex::default();
        self.bytes = 0;
        Ok(())
    }

    /// Returns the windows that have rows, and how many.
    pub(crate) fn windows(&self) -> BTreeMap<Start, u64> {
        let mut windows: BTreeMap<Start, u64> = self.spill.iter().flat_map(Spill::windows).collect();
        for (window, rows) in self.index.windows() {
            *windows.entry(window).or_default() += rows;
        }
        windows
    }

    /// Returns a window's rows in lane order, in chunks of [`BATCH_ROWS`], with the final columns.
    fn chunks(&self, window: Start) -> Box<dyn Iterator<Item = io::Result<RecordBatch>> + '_> {
        let schema = self.schema();
        let in_memory = self.index.chunks(window, &self.batches, schema).map(Ok);
        match &self.spill {
            None => Box::new(in_memory),
            Some(spill) => {
                let spilled = spill.batches(window).map(|rows| Ok(adapt(&rows?, schema)));
                Box::new(Rechunked::new(spilled.chain(in_memory), schema))
            }
        }
    }

    fn digest(&self, window: Start) -> io::Result<RowDigest> {
        let mut hasher = RowHasher::new(self.schema());
        for chunk in self.chunks(window) {
            hasher.update(&chunk?);
        }
        Ok(hasher.finish())
    }

    /// Returns the files that the rows make, one a window.
    pub(crate) fn intents(&self, lane: Lane, epoch: Epoch, keys: &[PartitionKey]) -> io::Result<Vec<FileIntent>> {
        let intent = |(window, rows)| {
            Ok(FileIntent {
                key: layout::data_file(keys, window, lane, epoch, 0),
                window,
                first_row: 0,
                rows,
                digest: self.digest(window)?,
            })
        };
        self.windows().into_iter().map(intent).collect()
    }

    /// Encodes the file of a window.
    pub(crate) fn encode(&self, window: Start, digest: RowDigest) -> Result<EncodedFile, ParquetError> {
        encode::encode(self.schema(), self.chunks(window), digest)
    }
}

/// Rows again in chunks of [`BATCH_ROWS`], however they were cut before.
struct Rechunked<I> {
    rows: Option<I>,
    coalescer: BatchCoalescer,
}

impl<I> Rechunked<I> {
    fn new(rows: I, schema: &SchemaRef) -> Self {
        Self { rows: Some(rows), coalescer: BatchCoalescer::new(Arc::clone(schema), BATCH_ROWS) }
    }
}

impl<I: Iterator<Item = io::Result<RecordBatch>>> Iterator for Rechunked<I> {
    type Item = io::Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(chunk) = self.coalescer.next_completed_batch() {
                return Some(Ok(chunk));
            }
            let pushed = match self.rows.as_mut()?.next() {
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(rows)) => self.coalescer.push_batch(rows),
                None => {
                    self.rows = None;
                    self.coalescer.finish_buffered_batch()
                }
            };
            if let Err(error) = pushed {
                return Some(Err(io::Error::other(error)));
            }
        }
    }
}
